"One net trained by several processes: the numbers of one process, one run, and no sample twice; and a process may die."
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from har_nb.data.synthetic import build
from har_nb.experiments.results import load_predictions
from har_nb.learning.processes import helper, processes
from har_nb.learning.runs import load_table, runs_table, tracked_run
from har_nb.learning.tracking import open_store
from har_nb.tools.data import open_any

EPOCHS = 3
TABLE = '''
from dataclasses import replace

from torch import nn

from har_nb.papers.mei.tables import fused, table2

def plain(weights=None, num_classes=1000):
    "Without batch norm, which would see the part of a process."
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes))

table = replace(table2, name='plain', rows=(table2.rows[0], fused('fused', 'normal')))
'''


def rows():
    runs = runs_table('plain')
    return runs[runs['tags.kind'] == 'row'] if len(runs) else runs


def curve(run_id, name): return [(m.step, m.value) for m in sorted(open_store().get_metric_history(run_id, name), key=lambda m: m.step)]


def test_a_helper_reads_and_writes_nothing(tracking, monkeypatch):
    with tracked_run('first', 'shared') as run_id: pass
    monkeypatch.setenv('RANK', '1'); monkeypatch.setenv('WORLD_SIZE', '2')
    assert processes() == 2 and helper()
    onlooker = open_store()
    onlooker.log_text(run_id, 'nothing', 'nothing.txt'); onlooker.set_terminated(run_id, 'FAILED'); onlooker.create_experiment('none')
    monkeypatch.delenv('RANK')
    assert not helper() and processes() == 1
    assert open_store().get_run(run_id).info.status == 'FINISHED' == onlooker.get_run(run_id).info.status
    assert [a.path for a in open_store().list_artifacts(run_id)] == ['environment.json'] and open_store().get_experiment_by_name('none') is None


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_even_when_one_was_killed(tmp_path, monkeypatch):
    sports = build(tmp_path/'sports', people=3, takes=1, size=(56, 72), progress=False)
    (tmp_path/'plain_table.py').write_text(TABLE)
    def command(launcher, name): # 23 images a batch: the parts are not equal, and the last batch is smaller
        environment = {k: v for k,v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | dict(MLFLOW_TRACKING_URI=f'sqlite:///{tmp_path/name}.db', HAR_NB_DATA=str(tmp_path/name), PYTHONPATH=str(tmp_path), OMP_NUM_THREADS='1')
        words = [*launcher, '-m', 'har_nb.tools.cli', 'run', 'plain_table:table', '--data', str(sports.root), *f'--preset demo --size 32 --epochs {EPOCHS} --batch-size 23 --backbone plain_table:plain'.split()]
        return dict(args=words, env=environment, text=True)
    two = [str(Path(sys.executable).parent/'torchrun'), '--standalone', '--nproc-per-node', '2']

    alone = subprocess.run(**command([sys.executable], 'one'), capture_output=True, timeout=600)
    assert alone.returncode == 0, alone.stderr
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/two.db')
    started = subprocess.Popen(**command(two, 'two'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(2400):
        time.sleep(.1)
        now = rows()
        if len(now) and (running := now[now.status == 'RUNNING'].run_id.tolist()) and len(curve(running[0], 'valid_loss')) >= 1: break
        assert started.poll() is None, 'it ended by itself'
    workers = psutil.Process(started.pid).children()
    helpers = [process for process in workers if process.environ().get('RANK') == '1']
    helpers[0].kill()
    assert started.wait(120) != 0
    assert not [process for process in workers if process.is_running() and process.status() != psutil.STATUS_ZOMBIE], 'all of them end'

    done = subprocess.run(**command(two, 'two'), capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('Runs, for har predict') == 1, 'the first process alone shows the table'
    shared = rows().set_index('tags.row')
    assert sorted(shared.index) == ['fused', 'normal'] and set(shared.status) == {'FINISHED'} and running[0] in set(shared.run_id)
    found = {name: (curve(run_id, 'valid_loss'), curve(run_id, 'train_loss'), curve(run_id, 'acc_video'), load_predictions(run_id), load_table('predictions.parquet', run_id)) for name,run_id in shared.run_id.items()}
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/one.db')
    single = rows().set_index('tags.row')
    test = open_any(sports.root).test
    for name,(valid, train, accuracy, predictions, videos) in found.items():
        run_id = single.run_id[name]
        assert sorted(videos.path) == sorted(test.clips.path), 'each test clip once'
        expected = load_predictions(run_id)
        assert np.array_equal(predictions.clip, expected.clip)
        assert np.allclose(predictions.probabilities, expected.probabilities, atol=1e-4)
        for ours, metric in ((valid, 'valid_loss'), (train, 'train_loss'), (accuracy, 'acc_video')):
            assert [step for step,_ in ours] == ([*range(EPOCHS)] if name == 'normal' else [])
            assert np.allclose(ours, curve(run_id, metric), atol=1e-4), metric
