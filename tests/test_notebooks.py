"Every notebook runs from top to bottom; cells marked `#| slow` are left to make test-slow."
import os
import random
import shutil
from pathlib import Path

import pytest
from execnb.shell import CaptureShell
from matplotlib_inline.backend_inline import set_matplotlib_formats
from nbdev.test import test_nb as run_notebook

FOLDER = Path(__file__).parent.parent/'nbs'
NOTEBOOKS = sorted(FOLDER.rglob('*.ipynb'))
NOTEBOOKS = [p for p in NOTEBOOKS if '.ipynb_checkpoints' not in p.parts]


def name_of(path): return path.relative_to(FOLDER).as_posix()


@pytest.fixture(autouse=True)
def quick_store(empty_store, monkeypatch):
    """A new store is a copy of an empty one, seconds sooner; learning.tracking, which defines how one is made, makes
    its own."""
    from har_nb.learning import tracking
    client = tracking._client
    def copied(uri, file):
        if file and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(empty_store, file)
        return client(uri, file)
    monkeypatch.setattr(tracking, '_client', copied)


@pytest.fixture
def unpainted(monkeypatch):
    """Figures are drawn and closed as in Jupyter, but not painted: no cell fails by what Jupyter makes of a figure, and
    two hundred of them, in twice the size, take a minute."""
    made = CaptureShell.__init__
    def shell(self, *args, **options):
        made(self, *args, **options)
        set_matplotlib_formats()
    monkeypatch.setattr(CaptureShell, '__init__', shell)


def run(path, tmp_path, monkeypatch, **flags):
    "In one process, so seed, folder, run and tracking store are set anew for each."
    import matplotlib.pyplot as plt
    import numpy as np
    import torch
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')
    monkeypatch.setenv('HAR_NB_DATA', str(tmp_path/'data'))
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = os.getcwd()
    try:
        with plt.rc_context(): passed, _ = run_notebook(path, basepath=FOLDER.parent, **flags)
    finally: os.chdir(before), plt.close('all')
    assert passed, f'{path.name} fails; the traceback stands above'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_notebook(path, tmp_path, monkeypatch, unpainted):
    run(path, tmp_path, monkeypatch, skip_flags=['slow', 'notest'])


# it publishes three seeds of each row, hours of work; one shows that its cells run
ONE_SEED = {'papers/mei/01_ablations.ipynb'}


@pytest.mark.slow
@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if '#| slow' in p.read_text()], ids=name_of)
def test_notebook_with_its_slow_cells(path, tmp_path, monkeypatch):
    from har_nb.experiments import tables
    measure = tables.run
    if name_of(path) in ONE_SEED:
        monkeypatch.setattr(tables, 'run', lambda *args, **options: measure(*args, **options | dict(seeds=1)))
    run(path, tmp_path, monkeypatch, skip_flags=['notest'], cell_timeout=None)
