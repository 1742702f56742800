"One net trained by several processes: the numbers of one process, one run, and no sample twice; and a process may die."
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from children import LIMIT

from har_nb.data.synthetic import build
from har_nb.experiments.results import load_predictions
from har_nb.learning.processes import helper, processes
from har_nb.learning.runs import load_table, runs_table, tracked_run
from har_nb.learning.tracking import open_store
from har_nb.tools.data import open_any

EPOCHS = 3
TABLE = '''
from dataclasses import replace

import os
import signal

from torch import nn

from har_nb.learning.callbacks import FiniteLoss
from har_nb.papers.mei.tables import table2
from har_nb.experiments.training import fused

def dies(self):
    "The helper dies where its last epoch begins: the first process has logged and saved the one before the last."
    if self.epoch == 3 - 1: os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get('HELPER_DIES') and os.environ.get('RANK') == '1': FiniteLoss.before_epoch = dies

def plain(weights=None, num_classes=1000):
    "Without batch norm, which would see the part of a process."
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes))

table = replace(table2, name='plain', rows=(table2.rows[0], fused('fused', 'normal')))
'''


def rows():
    runs = runs_table('plain')
    return runs[runs['tags.kind'] == 'row'] if len(runs) else runs


def curve(run_id, name):
    return [(m.step, m.value) for m in sorted(open_store().get_metric_history(run_id, name), key=lambda m: m.step)]


def test_a_helper_reads_and_writes_nothing(tracking, monkeypatch):
    with tracked_run('first', 'shared') as run_id: pass
    monkeypatch.setenv('RANK', '1'); monkeypatch.setenv('WORLD_SIZE', '2')
    assert processes() == 2 and helper()
    reader = open_store()
    reader.log_text(run_id, 'nothing', 'nothing.txt')
    reader.set_terminated(run_id, 'FAILED'); reader.create_experiment('none')
    monkeypatch.delenv('RANK')
    assert not helper() and processes() == 1
    assert open_store().get_run(run_id).info.status == 'FINISHED' == reader.get_run(run_id).info.status
    assert [a.path for a in open_store().list_artifacts(run_id)] == ['environment.json']
    assert open_store().get_experiment_by_name('none') is None


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_even_when_one_was_killed(tmp_path, monkeypatch):
    sports = build(tmp_path/'sports', people=3, takes=1, size=(56, 72), progress=False)
    (tmp_path/'plain_table.py').write_text(TABLE)
    def command(launcher, name, **more): # 23 images a batch: the parts are not equal, and the last batch is smaller
        environment = {k: v for k,v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | dict(
            MLFLOW_TRACKING_URI=f'sqlite:///{tmp_path/name}.db', HAR_NB_DATA=str(tmp_path/name),
            PYTHONPATH=str(tmp_path), OMP_NUM_THREADS='1',
        ) | more
        words = [*launcher, '-m', 'har_nb.tools.cli', 'run', 'plain_table:table', '--data', str(sports.root),
                 *f'--preset demo --size 32 --epochs {EPOCHS} --batch-size 23 --backbone plain_table:plain'.split()]
        return dict(args=words, env=environment, text=True)
    two = [str(Path(sys.executable).parent/'torchrun'), '--standalone', '--nproc-per-node', '2']

    alone = subprocess.run(**command([sys.executable], 'one'), capture_output=True, timeout=LIMIT)
    assert alone.returncode == 0, alone.stderr
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/two.db')
    died = subprocess.Popen(**command(two, 'two', HELPER_DIES='1'), stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)
    assert died.wait(LIMIT) != 0
    with pytest.raises(ProcessLookupError): os.killpg(died.pid, 0) # all of them end
    running = rows().run_id.tolist()
    assert len(running) == 1 and len(curve(running[0], 'valid_loss')) >= 1, 'it died in its last epoch'

    done = subprocess.run(**command(two, 'two'), capture_output=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('Runs, for har predict') == 1, 'the first process alone shows the table'
    shared = rows().set_index('tags.row')
    assert sorted(shared.index) == ['fused', 'normal']
    assert set(shared.status) == {'FINISHED'}
    assert running[0] in set(shared.run_id)
    found = {name: (curve(run_id, 'valid_loss'), curve(run_id, 'train_loss'), curve(run_id, 'acc_video'),
                    load_predictions(run_id), load_table('predictions.parquet', run_id))
             for name,run_id in shared.run_id.items()}
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
