"Fixtures that several tests share."
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('OMP_NUM_THREADS', '1') # tests run side by side; threads that wait for each other would slow all of them
import pytest

for name, usual in dict(SIGINT=signal.default_int_handler, SIGHUP=signal.SIG_DFL).items(): # behind nohup or & they are ignored, by processes that the tests start as well
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN: signal.signal(getattr(signal, name), usual)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root():
    "The checkout."
    return ROOT


@pytest.fixture
def shared_data():
    "Real clips kept beside the checkout; tests that read them are skipped where they are absent."
    folder = ROOT.parent/'shared'/'data'
    if not folder.is_dir(): pytest.skip(f'real clips are not here: {folder.relative_to(ROOT.parent)} is absent')
    return folder


@pytest.fixture(scope='session')
def footage():
    "Real camera clips that the dev extra brings: name -> path."
    from footage import camera_clips
    return camera_clips()


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    "Drawn videos, each encoded once: `made('vp9')`, `made('h264', '.mkv', sound=5)`; kinds and options as in `footage.encode`. Not to be written to."
    from footage import CODECS, encode
    folder, there = tmp_path_factory.mktemp('made'), {}

    def path(kind='h264', suffix=None, **options):
        key = (kind, suffix, repr(sorted(options.items())))
        if key not in there: there[key] = encode(folder/f'{len(there)}_{kind}{suffix or CODECS[kind][2]}', kind=kind, **options)
        return there[key]
    return path


@pytest.fixture(scope='session')
def empty_store(tmp_path_factory):
    "An SQLite store without runs; making one takes seconds, copying it none. Made by a process of its own, so that nothing is open here when a test forks."
    folder = tmp_path_factory.mktemp('empty')
    subprocess.run([sys.executable, '-c', 'from har_nb.learning.tracking import open_store; open_store()'], check=True, env=os.environ | dict(MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db'))
    return folder/'mlflow.db'


@pytest.fixture
def tracking(empty_store, tmp_path, monkeypatch):
    "An MLflow store of the test's own."
    shutil.copy(empty_store, tmp_path/'mlflow.db')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', uri := f'sqlite:///{tmp_path}/mlflow.db')
    return uri
