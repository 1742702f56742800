"Fixtures that several tests share."
import functools
import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')
# tests run side by side; threads that wait for each other would slow all of them
os.environ.setdefault('OMP_NUM_THREADS', '1')
# one process runs hundreds of tests that have no batch sizes in common: kept memory would pile up
os.environ.setdefault('HAR_NB_KEEP_MEMORY', '0')
# lines that come by the clock are looked at where the clock is the test's own
os.environ.setdefault('HAR_NB_PROGRESS', '0')
# one sample a second of a thread of its own; a test asks for it
os.environ.setdefault('HAR_NB_SYSTEM_METRICS', '0')
import later
import pytest
from filelock import FileLock

later.collecting = True

# behind nohup or & they are ignored, by processes that the tests start as well
for name, usual in dict(SIGINT=signal.default_int_handler, SIGHUP=signal.SIG_DFL).items():
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), usual)

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure():
    """Tests run side by side, each worker, with the processes that its tests start, on a core of its own: what works
    with a process a core starts one."""
    if (worker := os.environ.get('PYTEST_XDIST_WORKER')) and hasattr(os, 'sched_setaffinity'):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix('gw')) % len(cores)]})


def pytest_collection_finish():
    later.imported_by_collecting = sorted({'torch', 'fastai', 'torchvision', 'timm'} & set(sys.modules))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item): later.prepare(item)


@pytest.fixture(autouse=True)
def ordinary_priority():
    "No test leaves a real-time process behind: its children inherit that, and two of them stop the whole machine."
    yield
    if hasattr(os, 'sched_getscheduler'):
        assert os.sched_getscheduler(0) == os.SCHED_OTHER, 'this test made its process a real-time one'


REAL = 'real clips are not here'


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    "Just before the closing line: what was left out, why, and what was checked in its place."
    result = yield
    skipped = terminalreporter.stats.get('skipped', [])
    told = [report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr for report in skipped]
    reasons = Counter(str(reason).removeprefix('Skipped: ') for reason in told)
    real = sum(count for reason, count in reasons.items() if REAL in reason)
    rest = '; '.join(f'{count} because {reason}' for reason, count in reasons.items() if REAL not in reason)
    if real:
        terminalreporter.write_line(f'{real} checks were left out that read recordings kept beside the maintainers\' '
                                    'checkout; each doubles one, named in its docstring, '
                                    'that ran here on videos made or brought along.')
    if rest: terminalreporter.write_line(f'Left out besides: {rest}.')
    return result


@pytest.fixture(scope='session', autouse=True)
def pictures_once():
    """Two thirds of the time of a small row are pictures for MLflow. Each kind is drawn, and each name painted, once in
    a process; that stands for the others. Who calls `plot_...` for himself gets what he asks for."""
    import mlflow
    from matplotlib.figure import Figure

    from har_nb.experiments import results
    from har_nb.learning import explain
    log, drawn, painted = mlflow.MlflowClient.log_figure, set(), {}

    def log_figure(client, run_id, figure, name, **options):
        def save(path, *args, **more):
            if name not in painted:
                Figure.savefig(figure, path, *args, **more)
                painted[name] = Path(path).read_bytes()
            Path(path).write_bytes(painted[name])
        if isinstance(figure, Figure): figure.savefig = save
        return log(client, run_id, figure, name, **options)

    def once(plot):
        @functools.wraps(plot)
        def plotted(*args, **options):
            logged = sys._getframe(1).f_code.co_name.startswith('log_')
            if logged and plot.__name__ in drawn: return Figure()
            figure = plot(*args, **options)
            if logged: drawn.add(plot.__name__) # what fails is not drawn yet
            return figure
        return plotted

    kinds = {results: ['plot_confusion', 'plot_per_class'],
             explain: ['plot_curves', 'plot_top_losses', 'plot_class_differences', 'plot_grad_cam']}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, 'log_figure', log_figure)
        for module, names in kinds.items():
            for name in names: patch.setattr(module, name, once(getattr(module, name)))
        gc.freeze() # what was imported stays to the end, and is not searched for what nobody holds
        yield


@pytest.fixture
def root():
    "The checkout."
    return ROOT


@pytest.fixture(scope='module')
def one_thread():
    "Small nets are faster on one thread, and a forked child, which has no other, computes the same digits."
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def shared_data():
    "Real clips kept beside the checkout; tests that read them are skipped where they are absent."
    folder = ROOT.parent/'shared'/'data'
    if not folder.is_dir(): pytest.skip(f'{REAL}: {folder.relative_to(ROOT.parent)} is absent')
    return folder


# What takes seconds to make and many tests need is made once for a whole run of tests, by whichever worker of
# pytest-xdist comes first; the others wait for it. Nobody changes it: what writes takes a copy. Ask for these before
# you build, train or open a store of your own:
#   footage, made      real camera clips; drawn videos of every codec and container (tests/footage.py)
#   once(name, make)   a folder that `make(folder)` fills
#   empty_store        an SQLite store without runs
#   tracking           a copy of it for this test alone, in MLFLOW_TRACKING_URI
#   built_set          the built-in set, 4 people, 1 take: ActionDataset
#   small_set          the same people in pictures of 56 x 72
#   trained_table      `mei.table2` on built_set, run to its end by the command, as a user runs it: store, cache, what
#                      was printed; `.copy(folder)` for a test that writes
#   trained            that copy for this test alone, in MLFLOW_TRACKING_URI
#   pictures           two frames of each camera clip, B 3 224 224 in -1..1
#   mobilenet_file     weights of MobileNetV2, and without its head of MobileNetV1 (features_file), as they are
#                      published: fp16, batch norm folded, padded like TensorFlow
#   har                the command in this process, on the store of `tracking`:
#                      har('run', 'mei.table2', ...) -> code, out, err

@pytest.fixture(scope='session')
def footage():
    "Real camera clips that the dev extra brings: name -> path."
    from footage import camera_clips
    return camera_clips()


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    """Drawn videos, each encoded once: `made('vp9')`, `made('h264', '.mkv', sound=5)`; kinds and options as in
    `footage.encode`. Not to be written to."""
    from footage import CODECS, encode
    folder, there = tmp_path_factory.mktemp('made'), {}

    def path(kind='h264', suffix=None, **options):
        key = (kind, suffix, repr(sorted(options.items())))
        if key not in there:
            there[key] = encode(folder/f'{len(there)}_{kind}{suffix or CODECS[kind][2]}', kind=kind, **options)
        return there[key]
    return path


@pytest.fixture(scope='session')
def once(tmp_path_factory):
    "A folder made once for all workers: once(name, make)."
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if 'PYTEST_XDIST_WORKER' in os.environ else own
    def folder(name, make):
        place = shared/f'once-{name}'
        with FileLock(f'{place}.lock'):
            if not (place/'.made').exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                make(place)
                (place/'.made').touch()
        return place
    return folder


@pytest.fixture(scope='session')
def published(once):
    "Lists of the form and size of the published ones: published('ucf101'), 'hmdb51', 'kth'. Not to be written to."
    def lists(name):
        import published as made
        return once(f'lists-{name}', getattr(made, name))
    return lists


@pytest.fixture(scope='session')
def empty_store(once):
    "Made by a process of its own, so that nothing is open here when a test forks."
    def make(folder):
        subprocess.run([sys.executable, '-c', 'from har_nb.learning.tracking import open_store; open_store()'],
                       check=True, env=os.environ | dict(MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db'))
    return once('empty', make)/'mlflow.db'


@pytest.fixture
def tracking(empty_store, tmp_path, monkeypatch):
    "An MLflow store of the test's own."
    shutil.copy(empty_store, tmp_path/'mlflow.db')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', uri := f'sqlite:///{tmp_path}/mlflow.db')
    return uri


def _set(once, name, **settings):
    from har_nb.data.lists import from_lists
    from har_nb.data.synthetic import build
    return from_lists(once(name,
                           lambda folder: build(folder/'sports',
                                                people=4, takes=1, workers=1, progress=False, **settings))/'sports')


@pytest.fixture(scope='session')
def built_set(once): return _set(once, 'built')


@pytest.fixture(scope='session')
def small_set(once): return _set(once, 'small', size=(56, 72))


@pytest.fixture(scope='session')
def pictures(footage):
    from weights import pictures_of
    return pictures_of(footage)


@pytest.fixture(scope='session')
def mobilenet_file(once, pictures):
    from weights import mobilenet_v2_file
    return once('mobilenet_v2',
                lambda folder: mobilenet_v2_file(folder/'mobilenet_v2.pth', pictures))/'mobilenet_v2.pth'


@pytest.fixture(scope='session')
def features_file(once, pictures):
    pytest.importorskip('timm')
    from weights import mobilenet_v1_file
    return once('mobilenet_v1',
                lambda folder: mobilenet_v1_file(folder/'mobilenet_v1.pth', pictures))/'mobilenet_v1.pth'


@dataclass
class Trained:
    "A table that was run to its end."
    folder: Path # of `mlflow.db`, `artifacts` and `cache`; data folder of the command
    dataset: object # ActionDataset
    settings: dict # of its call
    @property
    def uri(self): return f'sqlite:///{self.folder}/mlflow.db'
    @property
    def cache(self): return self.folder/'cache'
    @property
    def printed(self): return (self.folder/'printed.txt').read_text()
    @property
    def words(self):
        return ['mei.table2', '--data', str(self.dataset.root),
                *(word for name, value in self.settings.items() for word in (f'--{name}', str(value)))]
    def copy(self, folder):
        "One to write to. Runs find their artifacts beside the copied store."
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        with closing(sqlite3.connect(folder/'mlflow.db')) as store, store:
            for table, column in (('experiments', 'artifact_location'), ('runs', 'artifact_uri')):
                store.execute(f'update {table} set {column} = replace({column}, ?, ?)',
                              (self.folder.as_uri(), folder.as_uri()))
        return replace(self, folder=folder)


@pytest.fixture(scope='session')
def trained_table(once, built_set, empty_store):
    settings = dict(preset='demo', size=32, epochs=1)
    def make(folder):
        shutil.copy(empty_store, folder)
        mine = Trained(folder, built_set, settings)
        done = subprocess.run([Path(sys.executable).parent/'har', 'run', *mine.words], capture_output=True,
                              text=True, env=os.environ | dict(MLFLOW_TRACKING_URI=mine.uri, HAR_NB_DATA=str(folder)))
        assert done.returncode == 0, done.stderr
        (folder/'printed.txt').write_text(done.stdout)
    return Trained(once('trained', make), built_set, settings)


@pytest.fixture
def trained(trained_table, tmp_path, monkeypatch):
    mine = trained_table.copy(tmp_path/'trained')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', mine.uri)
    return mine


@dataclass
class Said:
    "What a command left behind: exit status, standard output, standard error."
    code: int
    out: str
    err: str


@pytest.fixture
def har(tracking, tmp_path, monkeypatch, capsys):
    """The command in this process: what takes a child seven seconds of imports, and is the same but where the process
    is the point."""
    monkeypatch.setenv('HAR_NB_DATA', str(tmp_path/'data'))
    def call(*words):
        from har_nb.tools.cli import main
        capsys.readouterr()
        try: main([str(word) for word in words])
        except SystemExit as stopped: code = stopped.code
        else: code = 0
        text = capsys.readouterr()
        return Said(code, *text) if isinstance(code, int) else Said(1, text.out, f'{text.err}{code}\n')
    return call
