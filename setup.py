"Package metadata lives in settings.ini; this file only hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
meta = config['DEFAULT']


def lines(key): return [line.strip() for line in meta[key].splitlines() if line.strip()]


names = 'collect', 'export', 'cluster', 'transformers', 'docs', 'dev'
extras = {name: lines(f'{name}_requirements') for name in names}
extras['dev'] += [line for name in extras if name != 'dev' for line in extras[name]]

setup(name=meta['lib_name'], version=meta['version'], description=meta['description'], license=meta['license'],
      author=meta['author'], keywords=meta['keywords'].split(), python_requires=f">={meta['min_python']}",
      long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
      packages=find_packages(include=[meta['lib_name'], f"{meta['lib_name']}.*"]),
      package_data={f"{meta['lib_name']}.tools": ['tables.json']},
      install_requires=lines('requirements'), extras_require=extras,
      entry_points={'console_scripts': lines('console_scripts'),
                    'nbdev': [f"{meta['lib_name']} = {meta['lib_name']}._modidx:d"]})
