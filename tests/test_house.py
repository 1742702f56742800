"The house is in order: what is exported is what the notebooks say, and every metadata file says the same."
import ast
import filecmp
import json
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

WINGS = ['data', 'motion', 'samples', 'models', 'learning', 'experiments', 'papers', 'tools']
MAY_IMPORT = dict(data={'data'}, motion={'motion'}, samples={'data', 'motion', 'samples'}, models={'models'},
                  learning={'samples', 'motion', 'data', 'learning'}, experiments=set(WINGS) - {'papers', 'tools'},
                  papers=set(WINGS) - {'tools'}, tools=set(WINGS))


def tracked(root, *patterns):
    listed = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard', *patterns], cwd=root, capture_output=True, text=True, check=True)
    return [root/line for line in listed.stdout.splitlines() if (root/line).exists()]


def test_exporting_into_an_empty_copy_gives_the_committed_package(root, tmp_path):
    for name in ('settings.ini', 'setup.py', 'pyproject.toml'): shutil.copy(root/name, tmp_path)
    shutil.copytree(root/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    package = tmp_path/'har_nb'
    package.mkdir()
    (package/'__init__.py').write_text((root/'har_nb'/'__init__.py').read_text())
    subprocess.run([Path(sys.executable).parent/'nbdev-export'], cwd=tmp_path, check=True, capture_output=True, text=True)
    exported = {p.relative_to(package): p for p in package.rglob('*.py')}
    committed = {p.relative_to(root/'har_nb'): p for p in tracked(root, 'har_nb/*.py')}
    assert set(exported) == set(committed), 'run make export, and remove modules that no notebook exports any more'
    different = [str(name) for name in exported if not filecmp.cmp(exported[name], committed[name], shallow=False)]
    assert not different, f'edited by hand or not exported: {different}; run make export'


def test_readme_is_the_index_notebook(root, monkeypatch):
    from har_nb.tools.book import readme
    monkeypatch.chdir(root)
    text, pictures = readme()
    assert (root/'README.md').read_text() == text, 'run make export'
    for name, data in pictures.items(): assert (root/name).read_bytes() == data, f'{name} is stale: run make export'


def test_what_the_readme_links_to_is_there(root):
    linked = re.findall(r'\]\((?!https?:|#)([^)#]+)', (root/'README.md').read_text())
    assert len(linked) > 5 and [link for link in linked if not (root/link).exists()] == []


def test_metadata_agrees(root):
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini')
    meta, project = config['DEFAULT'], tomllib.loads((root/'pyproject.toml').read_text())['project']
    assert project['name'] == meta['lib_name']
    assert project['requires-python'] == f">={meta['min_python']}"
    import har_nb
    assert har_nb.__version__ == meta['version']


@pytest.mark.parametrize('wing', WINGS)
def test_no_import_runs_upwards(root, wing):
    for module in (root/'har_nb'/wing).rglob('*.py'):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [node.module or ''] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if m := re.match(r'har_nb\.(\w+)', name): assert m[1] in MAY_IMPORT[wing], f'{module.relative_to(root)} imports {name}'


def test_importing_the_package_is_free():
    code = 'import sys, har_nb; heavy = {"torch", "fastai", "mlflow", "cv2", "numpy", "pandas"} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_style(root):
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', '.'], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_notebooks_are_small_run_and_clean(root):
    for path in tracked(root, 'nbs/*.ipynb'):
        notebook = json.loads(path.read_text())
        code = [c for c in notebook['cells'] if c['cell_type'] == 'code']
        assert path.stat().st_size < 2**20, f'{path.name} is larger than 1 MiB'
        assert any(c['outputs'] for c in code), f'{path.name} shows no output: run make notebooks'
        assert all(c['execution_count'] is None and not c['metadata'].get('execution') for c in code), f'{path.name} has metadata of a run: nbdev-clean'
        errors = [o for c in code for o in c['outputs'] if o['output_type'] == 'error']
        assert not errors, f'{path.name} shows an error'


def test_nothing_private_is_tracked(root):
    private = re.compile(r'/work/|/root/|/home/\w+/|/tmp/\w')
    for path in tracked(root):
        if path.suffix in {'.ipynb', '.py', '.md', '.ini', '.toml', ''} and path.name != 'test_house.py':
            found = private.search(path.read_text(errors='ignore'))
            assert not found, f'{path.relative_to(root)} holds a path of one machine: {found[0]}'
    tracked_data = {p.relative_to(root).as_posix() for p in tracked(root, 'data', 'mlruns')}
    assert tracked_data == {'data/README.md', 'mlruns/README.md'}
