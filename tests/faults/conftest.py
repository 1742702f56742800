"Fixtures of the tests of faults."
import os
import shutil
import subprocess
import sys

import pytest


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
