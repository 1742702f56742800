"kill -9 where it hurts: what was begun goes on under the same run, and ends where an undisturbed one does."
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DieAfter, DieIn, NoBatch, curve, die, fitted, in_child

from har_nb.data.synthetic import build
from har_nb.experiments.results import load_predictions
from har_nb.learning.runs import close_dead_runs, log_metrics, runs_table, tracked_run
from har_nb.learning.tracking import database_file, open_store
from har_nb.motion.flow_pictures import DIS
from har_nb.samples.flow import Flow
from har_nb.samples.samplers import EveryKth
from har_nb.samples.store import decode_samples

NUMBERS = ('train_loss', 'valid_loss', 'acc_image', 'lr')


@pytest.fixture(scope='module')
def undisturbed(empty_store, tmp_path_factory):
    "Curves and weights of a fit that nothing happened to."
    file = shutil.copy(empty_store, tmp_path_factory.mktemp('undisturbed')/'mlflow.db')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{file}')
        with tracked_run('undisturbed', 'faults') as run_id: learn = fitted()
        return {name: curve(run_id, name) for name in NUMBERS}, learn.model.state_dict()


POINTS = dict(logged=lambda: DieAfter(2, 63), end=lambda: DieAfter(4, 65), middle=lambda: DieIn(2), saved=lambda: DieAfter(2, 65))


@pytest.mark.parametrize('point', ['logged', 'end', *(pytest.param(point, marks=pytest.mark.slow) for point in ('middle', 'saved'))])
def test_a_fit_goes_on(undisturbed, tracking, tmp_path, point):
    "When an epoch is logged and not saved; when the last one is saved, and the weights are not yet in the run; in the middle of an epoch; when one is saved."
    def work():
        with tracked_run('fit', 'faults'): fitted(tmp_path/'state.pth', POINTS[point]())
    assert in_child(work) == -signal.SIGKILL
    dead, = close_dead_runs()
    with tracked_run('fit', 'faults', run_id=dead): resumed = fitted(tmp_path/'state.pth')
    assert {name: curve(dead, name) for name in NUMBERS} == undisturbed[0]
    kept = torch.load(open_store().download_artifacts(dead, 'model.pth', tmp_path), weights_only=True)
    for state in (kept, resumed.model.state_dict()): assert all(torch.equal(value, undisturbed[1][name]) for name, value in state.items())
    assert not list(tmp_path.glob('state.pth*')), 'nothing half-written stays'


def test_behind_a_fit(undisturbed, tracking, tmp_path):
    "The fit is over, and its run is not closed: predictions may be missing. No batch is trained again."
    def work():
        with tracked_run('fit', 'faults'): fitted(tmp_path/'state.pth'); die()
    assert in_child(work) == -signal.SIGKILL
    with tracked_run('fit', 'faults', run_id=close_dead_runs()[0]) as run_id:
        resumed = fitted(tmp_path/'state.pth', NoBatch())
        assert (tmp_path/'state.pth').exists()
    assert {name: curve(run_id, name) for name in NUMBERS} == undisturbed[0]
    assert all(torch.equal(value, undisturbed[1][name]) for name, value in resumed.model.state_dict().items())
    assert not list(tmp_path.glob('state.pth*'))


def test_while_a_state_is_written(tracking, tmp_path, monkeypatch):
    from har_nb.learning import callbacks
    save, file = callbacks.torch.save, tmp_path/'state.pth'
    def dying(state, target, *args):
        if state['epoch'] == 3: target.write(b'half of it'); target.flush(); os.kill(os.getpid(), signal.SIGKILL)
        save(state, target, *args)
    def work():
        monkeypatch.setattr(callbacks.torch, 'save', dying)
        with tracked_run('fit', 'faults'): fitted(file)
    assert in_child(work) == -signal.SIGKILL
    assert len(list(tmp_path.glob('state.pth.*.part'))) == 1 and torch.load(file, weights_only=False)['epoch'] == 2
    with tracked_run('fit', 'faults', run_id=close_dead_runs()[0]): fitted(file)
    assert not list(tmp_path.glob('state.pth*'))


def test_while_numbers_are_logged(tracking):
    "Five times at random moments: the database is whole, and the curve has neither gap nor repeat."
    chance, run_id = random.Random(1), None
    def work():
        with tracked_run('logger', 'faults', run_id=run_id) as own:
            done = [step for step, _ in curve(own, 'loss')]
            for step in range(len(done), 10**6): log_metrics(dict(loss=step, acc_video=1/(step + 1)), step)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            try: work()
            finally: os._exit(1)
        before = None
        for _ in range(1200):
            time.sleep(.05)
            with sqlite3.connect(database_file()) as database: now = database.execute("select count(*) from metrics where key = 'loss'").fetchone()[0]
            before = now if before is None else before
            if now > before + chance.randrange(1, 10): break
        time.sleep(chance.uniform(0, .05))
        os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
        with sqlite3.connect(database_file()) as database:
            assert database.execute('pragma integrity_check').fetchone() == ('ok',)
            run_id, = database.execute('select run_uuid from runs').fetchone()
            steps = [step for step, in database.execute("select step from metrics where key = 'loss' order by step")]
            assert steps == list(range(len(steps))) and len(steps) > before
            assert database.execute("select count(*) from metrics where key = 'acc_video'").fetchone() == (len(steps),)
    assert close_dead_runs() == [run_id] and open_store().get_run(run_id).info.status == 'KILLED'


FLOW = '''
import sys, time
from har_nb.data.lists import from_lists
from har_nb.motion.flow_pictures import DIS
from har_nb.samples import store
from har_nb.samples.flow import Flow
from har_nb.samples.samplers import EveryKth
from har_nb.samples import archive
archive.COMMIT_EVERY = 0
add = archive.Archive.add
def slowly(*args): time.sleep(.1); add(*args)
archive.Archive.add = slowly
store.decode_samples(from_lists(sys.argv[1]), [Flow(EveryKth(8), DIS(), 5.)], 40, sys.argv[2], workers=1, progress=False)
'''


@pytest.mark.slow
def test_while_flow_is_computed(tmp_path):
    clips, chance, counts = build(tmp_path/'sports', people=2, takes=1, size=(48, 64), workers=1, progress=False), random.Random(3), []
    def lines(): return sum(len(file.read_bytes().splitlines()) for file in (tmp_path/'cache').rglob('index.jsonl'))
    for _ in range(3):
        process, before = subprocess.Popen([sys.executable, '-c', FLOW, clips.root, tmp_path/'cache']), lines()
        while lines() < before + 2 and process.poll() is None: time.sleep(.01)
        time.sleep(chance.uniform(0, .1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        counts.append(lines())
    assert counts == sorted(counts) and counts[-1] < len(clips)
    method = Flow(EveryKth(8), DIS(), 5.)
    (resumed,), _ = decode_samples(clips, [method], 40, tmp_path/'cache', workers=1, progress=False)
    (whole,), _ = decode_samples(clips, [method], 40, tmp_path/'whole', workers=1, progress=False)
    assert lines() == len(clips) and np.array_equal(resumed.read(slice(None)), whole.read(slice(None))) and np.array_equal(resumed.clip, whole.clip)


STUDENT = '''
import sys
from dataclasses import replace
from har_nb.data.synthetic import build
from har_nb.learning.recipe import Make
from har_nb.papers.dual_action import tables as D
from har_nb.experiments.tables import run
clips = build(sys.argv[1], people=4, takes=1, size=(48, 64), workers=1, progress=False).subset(['ClimbUp', 'ClimbDown', 'Running'])
run(D.table2, clips, preset='demo', rows=['Dual-action Stream'], size=32, crop=24, n=8, epochs=8, one_cycle=False, patience=0, lr=.05,
    net=Make(D.NET.name, dict(width=4, layers=[1, 1, 1, 1], cardinality=2)), cache=sys.argv[2], progress=False, again=len(sys.argv) > 3)
'''


@pytest.mark.slow
def test_a_student_goes_on(tracking, tmp_path):
    "Distillation with its own callbacks: the best epoch, the rate that falls on a plateau, and the parts of the loss are those of an undisturbed fit."
    command = [sys.executable, '-c', STUDENT, tmp_path/'set']
    def rows(): return runs_table('dual_action.table2', "tags.row = 'Dual-action Stream'")
    process = subprocess.Popen([*command, tmp_path/'cache'])
    for _ in range(3000):
        time.sleep(.1)
        if len(now := rows()) and len(curve(now.run_id[0], 'lr')) >= 4: break
        assert process.poll() is None, 'it ended by itself'
    process.send_signal(signal.SIGKILL); process.wait()
    killed = rows().run_id[0]
    assert 4 <= len(curve(killed, 'lr')) < 8
    subprocess.run([*command, tmp_path/'cache'], check=True, timeout=300)
    assert rows().run_id.tolist() == [killed] and rows().status.tolist() == ['FINISHED']
    subprocess.run([*command, tmp_path/'other', 'again'], check=True, timeout=300)
    whole, = set(rows().run_id) - {killed}
    assert [step for step, _ in curve(killed, 'lr')] == list(range(8)) and len({lr for _, lr in curve(whole, 'lr')}) > 1, 'the plateau is reached'
    for name in ('lr', 'train_loss', 'valid_loss', 'loss_labels', 'loss_mae', 'loss_gram'):
        assert (resumed := curve(killed, name)) and [step for step, _ in resumed] == list(range(8)), name
        np.testing.assert_allclose([value for _, value in resumed], [value for _, value in curve(whole, name)], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(load_predictions(killed).probabilities, load_predictions(whole).probabilities, atol=1e-6)
    assert not list(Path(tmp_path/'cache'/'checkpoints').glob('*'))
