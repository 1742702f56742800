"""The store of runs is away: a server that is gone in mid-run, a database that somebody else holds. Training goes on,
numbers are sent later; where nobody comes back, one clear end."""
import sqlite3
import threading
import time

import pytest
from later import collecting
from servers import free_port, mlflow_server

from har_nb.learning import runs as R
from har_nb.learning import tracking as T

if not collecting:
    from tiny import curve, fit, fitted, learner

    from har_nb.learning import callbacks as C
    from har_nb.learning.callbacks import EpochCallback, TrackingCallback, save_weights


if not collecting:
    class At(EpochCallback):
        "Do something behind an epoch, once its numbers are sent or wait, and its state is saved."
        order = 66
        def __init__(self, **work): self.work = {int(name.removeprefix('epoch')): do for name, do in work.items()}
        def trained_epoch(self, measured): self.work.pop(self.epoch, int)()


def steps(run_id): return [step for step, _ in curve(run_id)]


@pytest.fixture
def impatient(monkeypatch):
    "MLflow asks once more, where it would ask for four minutes."
    monkeypatch.setenv('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '1')


@pytest.mark.slow
def test_a_server_that_comes_back(tmp_path, monkeypatch, impatient):
    """Killed behind the second epoch, back behind the fourth: every number is there, once, under the time when it was
    measured."""
    back = []
    with mlflow_server(f'sqlite:///{tmp_path}/team.db', tmp_path/'objects') as server:
        monkeypatch.setenv('MLFLOW_TRACKING_URI', server.uri)
        with (
            R.tracked_run('fit', 'faults') as run_id,
            pytest.warns(UserWarning, match=f'{server.uri} does not answer .*; the numbers of [12] epochs wait for it'),
        ):
            fitted(tmp_path/'state.pth',
                   At(epoch1=server.kill, epoch3=lambda: (back.append(time.time()), server.start())))
        run = T.open_store().get_run(run_id)
        assert run.info.status == 'FINISHED' and steps(run_id) == [0, 1, 2, 3, 4]
        assert {file.path for file in T.open_store().list_artifacts(run_id)} >= {'model.pth'}
        times = [m.timestamp for m in T.open_store().get_metric_history(run_id, 'valid_loss')]
        assert times == sorted(times)
        assert times[3]/1000 <= back[0], 'two epochs were measured before the server was back, which took them'


@pytest.mark.slow
def test_a_server_that_stays_away(tmp_path, monkeypatch, impatient):
    """The fit ends with one clear error and keeps its state; called again when the server is back, the run goes on, and
    has the numbers of the epochs in between."""
    with mlflow_server(f'sqlite:///{tmp_path}/team.db', tmp_path/'objects') as server:
        monkeypatch.setenv('MLFLOW_TRACKING_URI', server.uri)
        with (
            pytest.warns(UserWarning, match='wait for it'),
            pytest.raises(T.StoreAway,
                          match='does not answer .*Start it, or check MLFLOW_TRACKING_URI; called again, '
                                'unfinished runs go on'),
        ):
            with R.tracked_run('fit', 'faults') as run_id: fitted(tmp_path/'state.pth', At(epoch1=server.kill))
        assert (tmp_path/'state.pth').exists()
        with pytest.raises(T.StoreAway, match='Connection refused'), R.tracked_run('other', 'faults'): pass
        server.start()
        assert T.open_store().get_run(run_id).info.status == 'RUNNING' and steps(run_id) == [0, 1]
        client = T.open_store()
        client.set_tag(run_id, 'process_started', '1') # as if that process had ended
        assert R.close_dead_runs() == [run_id]
        with R.tracked_run('fit', 'faults', run_id=run_id): fitted(tmp_path/'state.pth')
        assert client.get_run(run_id).info.status == 'FINISHED'
        assert steps(run_id) == [0, 1, 2, 3, 4]
        assert not (tmp_path/'state.pth').exists()
        assert {file.path for file in client.list_artifacts(run_id)} >= {'model.pth'}
        # what went wrong first is what is seen
        with pytest.raises(ZeroDivisionError), R.tracked_run('both', 'faults') as both:
            server.kill()
            raise ZeroDivisionError
        server.start()
        assert client.get_run(both).info.status == 'RUNNING'


def test_no_server_at_all(monkeypatch):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'http://127.0.0.1:{free_port()}')
    for work in (T.open_store, R.runs_table, R.close_dead_runs):
        with pytest.raises(T.StoreAway,
                           match='127.0.0.1:.* does not answer .*Connection refused.*Start it, '
                                 'or check MLFLOW_TRACKING_URI'):
            work()
    assert isinstance(T.StoreAway('x'), OSError), 'what the command line shows as one line'


def test_numbers_wait_with_the_state_of_the_fit(tracking, tmp_path, monkeypatch):
    "Killed while the store is away: what was not sent is in the checkpoint."
    real, away = C.log_metrics, []
    def refused(*args, **kwargs):
        if away: raise T.StoreAway('the store does not answer')
        return real(*args, **kwargs)
    monkeypatch.setattr(C, 'log_metrics', refused)
    def stop(): raise KeyboardInterrupt
    with (
        pytest.warns(UserWarning, match='the numbers of 2 epochs wait'),
        pytest.raises(KeyboardInterrupt),
        R.tracked_run('fit', 'faults') as run_id,
    ):
        fitted(tmp_path/'state.pth', At(epoch0=lambda: away.append(1), epoch2=stop))
    assert steps(run_id) == [0]
    away.clear()
    with R.tracked_run('fit', 'faults', run_id=run_id): fitted(tmp_path/'state.pth')
    with R.tracked_run('whole', 'faults') as whole: fitted()
    for name in ('train_loss', 'valid_loss', 'lr'): assert curve(run_id, name) == curve(whole, name), name


def test_an_answer_that_got_lost_counts_once(tracking, monkeypatch):
    "The store has the numbers, and its answer does not arrive: they are sent again."
    real, lost = C.log_metrics, []
    def answerless(*args, **kwargs):
        real(*args, **kwargs)
        if not lost: lost.append(1); raise T.StoreAway('timed out')
    monkeypatch.setattr(C, 'log_metrics', answerless)
    with R.tracked_run('fit', 'faults') as run_id, pytest.warns(UserWarning, match='wait for it'):
        fit(learner(TrackingCallback(save=save_weights)))
    assert steps(run_id) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_database_that_somebody_else_holds(tracking, tmp_path, monkeypatch):
    """For longer than SQLite waits (20 s): training goes on; at its end, one clear error; when it is free again, the
    run goes on."""
    holder = sqlite3.connect(T.database_file(), check_same_thread=False)
    def hold(): holder.execute('begin exclusive')
    send = C.EpochLog.send
    def released(self, wait=True):
        if wait: threading.Thread(target=holder.rollback).start() # the end of a fit waits for it
        send(self, wait)
    with (
        monkeypatch.context() as patch,
        pytest.warns(UserWarning, match='database is locked.*wait for it'),
        R.tracked_run('patient', 'faults') as run_id,
    ):
        patch.setattr(C.EpochLog, 'send', released)
        fitted(None, At(epoch3=hold))
    assert steps(run_id) == [0, 1, 2, 3, 4]
    with (
        pytest.raises(T.StoreAway, match='database is locked.*End what holds it'),
        R.tracked_run('fit', 'faults') as run_id,
    ):
        fitted(tmp_path/'state.pth', At(epoch4=hold))
    holder.rollback()
    assert (tmp_path/'state.pth').exists() and T.open_store().get_run(run_id).info.status == 'RUNNING'
    T.open_store().set_tag(run_id, 'process_started', '1')
    with R.tracked_run('fit', 'faults', run_id=run_id): fitted(tmp_path/'state.pth')
    assert T.open_store().get_run(run_id).info.status == 'FINISHED' and steps(run_id) == [0, 1, 2, 3, 4]
    holder.close()
