"kill -9 where it hurts: what was begun goes on under the same run, and ends where an undisturbed one does."
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from children import die, dying, in_child
from later import collecting

from har_nb.experiments.results import load_predictions
from har_nb.learning.runs import close_dead_runs, current_run, log_metrics, runs_table, tracked_run
from har_nb.learning.tracking import database_file, open_store
from har_nb.samples.samplers import EveryKth
from har_nb.samples.store import decode_samples

if not collecting:
    import torch
    from tiny import DieAfter, DieIn, NoBatch, curve, fitted

    from har_nb.experiments.tables import run
    from har_nb.learning.recipe import Make
    from har_nb.motion.flow_pictures import DIS
    from har_nb.papers.dual_action import tables as D
    from har_nb.samples.flow import Flow

pytestmark = pytest.mark.usefixtures('one_thread')
NUMBERS = ('train_loss', 'valid_loss', 'acc_image', 'lr')


@pytest.fixture(scope='module')
def undisturbed(empty_store, tmp_path_factory):
    "Curves and weights of a fit that nothing happened to."
    file = shutil.copy(empty_store, tmp_path_factory.mktemp('undisturbed')/'mlflow.db')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{file}')
        with tracked_run('undisturbed', 'faults') as run_id: learn = fitted()
        return {name: curve(run_id, name) for name in NUMBERS}, learn.model.state_dict()


POINTS = dict(logged=lambda: DieAfter(2, 63), end=lambda: DieAfter(4, 65),
              middle=lambda: DieIn(2), saved=lambda: DieAfter(2, 65))


@pytest.mark.parametrize('point', ['logged', 'end',
                                   *(pytest.param(point, marks=pytest.mark.slow) for point in ('middle', 'saved'))])
def test_a_fit_goes_on(undisturbed, tracking, tmp_path, point):
    """When an epoch is logged and not saved; when the last one is saved, and the weights are not yet in the run; in the
    middle of an epoch; when one is saved."""
    def work():
        with tracked_run('fit', 'faults'): fitted(tmp_path/'state.pth', POINTS[point]())
    assert in_child(work) == -signal.SIGKILL
    dead, = close_dead_runs()
    with tracked_run('fit', 'faults', run_id=dead): resumed = fitted(tmp_path/'state.pth')
    assert {name: curve(dead, name) for name in NUMBERS} == undisturbed[0]
    kept = torch.load(open_store().download_artifacts(dead, 'model.pth', tmp_path), weights_only=True)
    for state in (kept, resumed.model.state_dict()):
        assert all(torch.equal(value, undisturbed[1][name]) for name, value in state.items())
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


def logger(run_id, told=None):
    "Log a number a step for ever, from where the run's curve ends; each step is said into a pipe."
    with tracked_run('logger', 'faults', run_id=run_id) as own:
        for step in range(len(curve(own, 'loss')), 10**6):
            log_metrics(dict(loss=step, acc_video=1/(step + 1)), step)
            if told is not None: os.write(told, b'.')


def whole_database():
    """Id of the one run and the number of its steps, in a database that is sound: no gap, no repeat, and both numbers
    of each step or none."""
    with closing(sqlite3.connect(database_file())) as database:
        assert database.execute('pragma integrity_check').fetchone() == ('ok',)
        run_id, = database.execute('select run_uuid from runs').fetchone()
        steps = [step for step, in database.execute("select step from metrics where key = 'loss' order by step")]
        assert steps == list(range(len(steps)))
        assert database.execute("select count(*) from metrics where key = 'acc_video'").fetchone() == (len(steps),)
    return run_id, len(steps)


def die_at(event, nth=3):
    "In this process, die when SQLAlchemy comes to an event of the nth writing of metrics."
    from sqlalchemy import event as events
    from sqlalchemy.engine import Engine
    writing = []
    def statement(connection, cursor, text, *_):
        if text.lower().startswith('insert into metrics'): writing.append(1)
    def reached(*_):
        if len(writing) == nth: die()
    events.listen(Engine, 'before_cursor_execute', statement)
    events.listen(Engine, event, reached)


@pytest.mark.parametrize('event, logged',
                         [('before_cursor_execute', 2), ('after_cursor_execute', 2), ('commit', 2), ('checkin', 3)])
def test_while_numbers_are_logged(tracking, event, logged):
    """Before they are written, in the middle of the transaction, before it counts, and behind it: the third step is
    there as a whole, or not at all."""
    def work():
        die_at(event)
        logger(None)
    assert in_child(work) == -signal.SIGKILL
    run_id, steps = whole_database()
    assert steps == logged and close_dead_runs() == [run_id] and open_store().get_run(run_id).info.status == 'KILLED'


def test_while_numbers_are_logged_at_any_moment(tracking):
    "Three times, wherever it is by then: the database is whole, and the curve goes on where it ended."
    run_id, before = None, 0
    for count in (1, 4, 9):
        reads, writes = os.pipe()
        if (child := os.fork()) == 0:
            try: logger(run_id, writes)
            finally: os._exit(1)
        os.close(writes)
        for _ in range(count): assert os.read(reads, 1) == b'.'
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(reads)
        run_id, steps = whole_database()
        assert steps >= before + count
        before = steps
    assert close_dead_runs() == [run_id] and open_store().get_run(run_id).info.status == 'KILLED'


@pytest.mark.slow
def test_while_flow_is_computed(small_set, tmp_path):
    """Before a clip is in the store, and behind it; three times in one store, which is then finished by a build of its
    own."""
    from har_nb.samples import archive
    method, add = Flow(EveryKth(8), DIS(), 5.), archive.Archive.add
    def lines(): return sum(len(file.read_bytes().splitlines()) for file in (tmp_path/'cache').rglob('index.jsonl'))
    for when, known in ((dict(after=1), 2), (dict(before=2), 4), (dict(after=0), 5)):
        def work(when=when):
            archive.COMMIT_EVERY, archive.Archive.add = 0, dying(add, **when)
            decode_samples(small_set, [method], 40, tmp_path/'cache', workers=1, progress=False)
        assert in_child(work) == -signal.SIGKILL
        assert lines() == known
    (resumed,), _ = decode_samples(small_set, [method], 40, tmp_path/'cache', workers=1, progress=False)
    (whole,), _ = decode_samples(small_set, [method], 40, tmp_path/'whole', workers=1, progress=False)
    assert lines() == len(small_set)
    assert np.array_equal(resumed.read(slice(None)), whole.read(slice(None)))
    assert np.array_equal(resumed.clip, whole.clip)


@pytest.mark.slow
def test_a_student_goes_on(tracking, small_set, tmp_path):
    """Distillation with its own callbacks, killed when the fourth of eight epochs is saved: the best epoch, the rate
    that falls on a plateau, and the parts of the loss are those of an undisturbed fit."""
    from har_nb.learning.callbacks import Checkpoint
    clips = small_set.subset(['ClimbUp', 'ClimbDown', 'Running'])
    def distilled(cache, **more):
        run(D.table2, clips, preset='demo', rows=['Dual-action Stream'], size=32, crop=24, n=8, epochs=8,
            one_cycle=False, patience=0, lr=.05,
            net=Make(D.NET.name, dict(width=4, layers=[1, 1, 1, 1], cardinality=2)), cache=cache, progress=False,
            **more)
    save = Checkpoint.trained_epoch
    def saved(self, measured):
        save(self, measured)
        # its teacher is trained before
        if self.epoch == 3 and open_store().get_run(current_run()).data.tags['row'] == 'Dual-action Stream': die()
    def work():
        Checkpoint.trained_epoch = saved
        distilled(tmp_path/'cache')
    def rows(): return runs_table('dual_action.table2', "tags.row = 'Dual-action Stream'")
    assert in_child(work) == -signal.SIGKILL
    killed, = rows().run_id
    assert [step for step, _ in curve(killed, 'lr')] == list(range(4))
    distilled(tmp_path/'cache')
    assert rows().run_id.tolist() == [killed] and rows().status.tolist() == ['FINISHED']
    distilled(tmp_path/'other', again=True)
    whole, = set(rows().run_id) - {killed}
    assert [step for step, _ in curve(killed, 'lr')] == list(range(8))
    assert len({lr for _, lr in curve(whole, 'lr')}) > 1, 'the plateau is reached'
    for name in ('lr', 'train_loss', 'valid_loss', 'loss_labels', 'loss_mae', 'loss_gram'):
        assert (resumed := curve(killed, name)) and [step for step, _ in resumed] == list(range(8)), name
        np.testing.assert_allclose([value for _, value in resumed], [value for _, value in curve(whole, name)],
                                   rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(load_predictions(killed).probabilities, load_predictions(whole).probabilities, atol=1e-6)
    assert not list(Path(tmp_path/'cache'/'checkpoints').glob('*'))
