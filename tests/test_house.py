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

import later
import pytest

# models reach it as arguments
# wing -> the wings it may import; core is free to all
BELOW = dict(core=[], data=[], motion=[], samples=['data', 'motion'], models=[], learning=['data', 'motion', 'samples'],
             experiments=['data', 'motion', 'samples', 'models', 'learning'],
             papers=['data', 'motion', 'samples', 'models', 'learning', 'experiments'],
             tools=['data', 'motion', 'samples', 'models', 'learning', 'experiments', 'papers'])
LATER = {
    ('learning.learner', 'learning.distributed'):
        'a net for several processes is made of callbacks, which only a learner puts in; '
        'asked for where there are several'
}


def tracked(root, *patterns):
    listed = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard', *patterns],
                            cwd=root, capture_output=True, text=True, check=True)
    return [root/line for line in listed.stdout.splitlines() if (root/line).exists()]


def test_exporting_into_an_empty_copy_gives_the_committed_package(root, tmp_path):
    for name in ('settings.ini', 'setup.py', 'pyproject.toml'): shutil.copy(root/name, tmp_path)
    shutil.copytree(root/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    package = tmp_path/'har_nb'
    package.mkdir()
    (package/'__init__.py').write_text((root/'har_nb'/'__init__.py').read_text())
    subprocess.run([Path(sys.executable).parent/'nbdev-export'],
                   cwd=tmp_path, check=True, capture_output=True, text=True)
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


def modules_of(root):
    "Every module of the package: dotted name -> file."
    files = {path.relative_to(root).with_suffix(''): path
             for path in (root/'har_nb').rglob('*.py')
             if path.name != '_modidx.py'}
    return {'.'.join(name.parts).removesuffix('.__init__'): path for name, path in files.items()}


def imports_of(module, modules):
    """Every import of the package in a module, wherever it stands: (line, module, name or None, name it is bound to),
    relative ones resolved."""
    path = modules[module]
    package = module.split('.') if path.name == '__init__.py' else module.split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names: yield node.lineno, alias.name, None, alias.asname
        if isinstance(node, ast.ImportFrom):
            base = package[:len(package) + 1 - node.level] if node.level else []
            target = '.'.join([*base, *filter(None, [node.module])])
            for alias in node.names:
                whole, bound = f'{target}.{alias.name}', alias.asname or alias.name
                if whole in modules: yield node.lineno, whole, None, bound
                else: yield node.lineno, target, alias.name, bound


def reading_order(root):
    "Module -> its place among the notebooks."
    exported = [re.search(r'#\| default_exp ([\w.]+)', path.read_text())
                for path in sorted((root/'nbs').rglob('*.ipynb'))]
    return {f'har_nb.{found[1]}': place for place, found in enumerate(found for found in exported if found)}


def why_not(module, target, order):
    "What is wrong with an import of the package, or None."
    (_, wing, *inside), (_, other, *place) = module.split('.'), (*target.split('.'), '')[:max(2, target.count('.') + 1)]
    if other in ('', 'core') or wing == 'all': return None
    if other != wing: return None if other in BELOW[wing] else f'{wing} may not import {other}'
    if wing == 'papers' and inside[0] != (place or [''])[0]:
        return None if inside[0] == 'comparison' else 'a paper imports another paper'
    if (
        order.get(target, -1) > order[module]
        and (module.removeprefix('har_nb.'), target.removeprefix('har_nb.')) not in LATER
    ):
        return 'it imports a later module of its own wing'
    return None


def arrows(module, modules):
    "Every import of the package by a module: (line, module)."
    return [(line, target) for line, target, _, _ in imports_of(module, modules) if target.split('.')[0] == 'har_nb']


def wrong_arrows(module, modules, order):
    return [f'{module}:{line} imports {target}: {why}'
            for line, target in arrows(module, modules)
            if (why := why_not(module, target, order))]


def test_no_import_runs_upwards(root):
    modules, order = modules_of(root), reading_order(root)
    inner = [module for module in modules if module.count('.') and modules[module].name != '__init__.py']
    assert {module.split('.')[1] for module in inner} - {'all'} == set(BELOW), 'every wing has its rule'
    assert sum(len(arrows(module, modules)) for module in inner) > 500, 'most imports are relative, and are seen'
    assert [wrong for module in inner for wrong in wrong_arrows(module, modules, order)] == []


PLANTED = [
    ('data/video', 'from ..papers.mei.tables import table2', 'data may not import papers'),
    ('data/video', 'from .. import papers', 'data may not import papers'),
    ('data/video', 'def late():\n    from ..samples import store', 'data may not import samples'),
    ('motion/mei', 'import har_nb.data.video', 'motion may not import data'),
    ('core', 'from .data.video import frames', 'core may not import data'),
    ('learning/learner', 'from ..models.backbones import build', 'learning may not import models'),
    ('learning/learner', 'from ..models import zoo as nets', 'learning may not import models'),
    ('experiments/results', 'from ..tools.cli import main', 'experiments may not import tools'),
    ('papers/mei/tables', 'from ..transnet.tables import table2', 'another paper'),
    ('papers/mei/tables', 'from .. import kpsem', 'another paper'),
    ('papers/mei/tables', 'from .ablations import embedding', 'later module'),
    ('data/video', 'from .dataset import ActionDataset', 'later module'),
]


@pytest.mark.parametrize('module, line, why', PLANTED)
def test_a_planted_import_is_found(root, tmp_path, module, line, why):
    modules, order, name = modules_of(root), reading_order(root), f'har_nb.{module.replace("/", ".")}'
    before = wrong_arrows(name, modules, order)
    (tmp_path/'planted.py').write_text(f'{modules[name].read_text()}\n{line}\n')
    found = [told for told in wrong_arrows(name, modules | {name: tmp_path/'planted.py'}, order) if told not in before]
    assert len(found) == 1 and why in found[0]


def private(name): return name is not None and name.startswith('_') and not name.startswith('__')


def test_nothing_private_crosses_modules(root):
    modules, crossed = modules_of(root), []
    for module, path in modules.items():
        found = list(imports_of(module, modules))
        crossed += [f'{module}:{line} imports {name} of {target}'
                    for line, target, name, _ in found
                    if target.startswith('har_nb') and private(name)]
        lent = {bound for _, target, name, bound in found if target in modules and name is None}
        uses = [node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in lent]
        crossed += [f'{module}:{node.lineno} uses {node.value.id}.{node.attr}' for node in uses if private(node.attr)]
    assert not crossed


def parameters(function):
    args = function.args
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, [args.vararg, args.kwarg])]


def test_functions_have_twelve_parameters_at_most(root):
    "Kernels of Triton apart, which take numbers and addresses only."
    many = []
    for module, path in modules_of(root).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                not isinstance(node, ast.FunctionDef)
                or any('triton' in ast.unparse(mark) for mark in node.decorator_list)
            ):
                continue
            if len(parameters(node)) > 12:
                many.append(f'{module}:{node.lineno} {node.name} has {len(parameters(node))}')
    assert not many, 'pass a value that holds them'


def test_nothing_stands_in_for_something_else(root):
    "Where a stand-in is needed, an interface asks for too much."
    assert [module for module, path in modules_of(root).items() if 'SimpleNamespace' in path.read_text()] == []


def test_importing_the_package_is_free():
    code = (
        'import sys, har_nb; heavy = {"torch", "fastai", "mlflow", "cv2", "numpy", "pandas"} & set(sys.modules); '
        'sys.exit(str(heavy) if heavy else 0)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_collecting_tests_imports_neither_torch_nor_fastai():
    "Asked of this very process. Files name what they need in blocks that run before their first test (tests/later.py)."
    assert later.imported_by_collecting == []


def test_style(root):
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', '.'],
                          cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_notebooks_are_small_run_and_clean(root):
    for path in tracked(root, 'nbs/*.ipynb'):
        notebook = json.loads(path.read_text())
        code = [c for c in notebook['cells'] if c['cell_type'] == 'code']
        assert path.stat().st_size < 2**20, f'{path.name} is larger than 1 MiB'
        assert not code or any(c['outputs'] for c in code), f'{path.name} shows no output: run make notebooks'
        assert all(c['execution_count'] is None and not c['metadata'].get('execution')
                   for c in code), f'{path.name} has metadata of a run: nbdev-clean'
        errors = [o for c in code for o in c['outputs'] if o['output_type'] == 'error']
        assert not errors, f'{path.name} shows an error'


WAITS = re.compile(r'sleep\(|uniform\(|perf_counter|monotonic|timeout=|wait_for_timeout')
MEASURED = 'measured to be shown; nothing is decided by it'
ANYWHERE = [
    (r'timeout=(\d{2,}|None|timeout|wait|longest|LIMIT)\b', 'a limit against hanging for ever'),
    (r'(rng|generator|chance|random|default_rng\(0\))\.uniform\(', 'draws numbers, of a seed'),
    (r'is_monotonic', 'the order of values'),
]
ALLOWED = { # file -> (text of the line, why it neither waits for a guessed time nor decides by one)
    'tests/children.py': [('', 'the one place where tests wait: until something is so, with a limit against hanging')],
    'tests/test_house.py': [('', 'this list')],
    'tests/faults/servers.py': [('timeout=5', 'a question that is asked again')],
    'tests/test_cost.py': [('models.cost.perf_counter', 'a clock that the test winds itself')],
    'tests/test_download.py': [('timeout=5)', 'a limit against hanging for ever'),
                               ('timeout=.02', 'of a server that never answers')],
    'nbs/00_core.ipynb': [('perf_counter', MEASURED)],
    'nbs/data/05_download.ipynb': [('time.sleep(min(60, pause', 'between attempts to download; tests set the pause')],
    'nbs/data/10_cutting.ipynb': [('acquire(timeout=0)', 'does not wait')],
    'nbs/samples/02_archive.ipynb': [('self.committed', 'an index is written every COMMIT_EVERY seconds')],
    'nbs/samples/03_store.ipynb': [('begun', 'frames a second in the bar')],
    'nbs/models/02_cost.ipynb': [('perf_counter', MEASURED)],
    'nbs/models/03_transnet.ipynb': [('perf_counter', MEASURED)],
    'nbs/learning/06_learner.ipynb': [
        ('return time.monotonic(), time.monotonic()', 'how busy others are: decides over threads, and over no result'),
        ('time.sleep(.1); now', 'a tenth of a second to look at')],
    'nbs/learning/05_callbacks.ipynb': [('self.began', MEASURED)],
    'nbs/learning/11_features.ipynb': [('perf_counter', MEASURED)],
    'nbs/experiments/01_tables.ipynb': [('perf_counter', MEASURED)],
    'nbs/samples/05_flow.ipynb': [('perf_counter', MEASURED)],
    'nbs/papers/dual_action/00_training.ipynb': [('perf_counter', MEASURED)],
    'nbs/papers/transnet/02_ablations.ipynb': [('perf_counter', MEASURED)],
    'nbs/learning/16_judged.ipynb': [('perf_counter', MEASURED)],
    'nbs/tools/12_sources.ipynb': [('time.monotonic()', 'the clock of what is watched; tests wind their own'),
                                   ('time.sleep(max', 'likewise'),
                                   ('timeout=longest', 'a source that stalls')],
    'nbs/tools/07_pages.ipynb': [('perf_counter', 'seconds of the demo, told')],
    'nbs/tutorials/reproducing_a_paper.ipynb': [('perf_counter', MEASURED)]}


def lines_of(path):
    "Lines that somebody wrote: of a notebook, those of its cells, without outputs."
    text = path.read_text()
    if path.suffix == '.py': return text.splitlines()
    return [line for cell in json.loads(text)['cells'] for line in ''.join(cell['source']).splitlines()]


def test_nothing_waits_a_guessed_time_or_is_decided_by_one(root):
    found = []
    for path in tracked(root, 'tests/*.py', 'nbs/*.ipynb'):
        name = path.relative_to(root).as_posix()
        allowed = [re.escape(text) for text, _ in ALLOWED.get(name, [])] + [pattern for pattern, _ in ANYWHERE]
        found += [f'{name}: {line.strip()[:160]}'
                  for line in lines_of(path)
                  if WAITS.search(line) and not any(re.search(pattern, line) for pattern in allowed)]
    assert not found, 'let a child say where it is, and stop it there (tests/children.py), or give a reason in ALLOWED'


def test_nothing_private_is_tracked(root):
    private = re.compile(r'/work/|/root/|/home/\w+/|/tmp/\w')
    for path in tracked(root):
        if path.suffix in {'.ipynb', '.py', '.md', '.ini', '.toml', ''} and path.name != 'test_house.py':
            found = private.search(path.read_text(errors='ignore'))
            assert not found, f'{path.relative_to(root)} holds a path of one machine: {found[0]}'
    tracked_data = {p.relative_to(root).as_posix() for p in tracked(root, 'data', 'mlruns')}
    assert tracked_data == {'data/README.md', 'mlruns/README.md'}
