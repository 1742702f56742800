"Runs that die, stores that are busy, and the page: what the notebook on tracking cannot show."
import ast
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import pytest
from children import LIMIT, until

from har_nb.learning import provenance as P
from har_nb.learning import runs as R
from har_nb.learning import tracking as T

pytestmark = pytest.mark.usefixtures('tracking')
# a child has all imports already; each test's store is opened in the child first
FORK = multiprocessing.get_context('fork')


def hold(pipe):
    "Open a run and its child, say so, and stay."
    with R.tracked_run('table', 'faults') as parent, R.tracked_run('row', 'faults', parent_id=parent) as run_id:
        pipe.send([parent, run_id])
        while True: signal.pause()


@pytest.fixture
def holder():
    "A process with a run and its child open: the process and the two ids."
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(theirs,))
    process.start()
    theirs.close()
    yield process, ours.recv()
    process.kill()
    process.join()


def status(run_id): return T.open_store().get_run(run_id).info.status


def test_killed_process_is_closed_and_never_finished(holder):
    process, ids = holder
    assert R.close_dead_runs() == [], 'a living process was closed'
    assert [status(i) for i in ids] == ['RUNNING']*2
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT) # dead, and not buried
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert [status(i) for i in ids] == ['RUNNING']*2
    assert set(R.close_dead_runs()) == set(ids), 'an unreaped process counts as dead'
    assert [status(i) for i in ids] == ['KILLED']*2
    assert R.close_dead_runs() == []
    with R.tracked_run('next', 'faults') as following: pass
    assert status(following) == 'FINISHED'


@pytest.mark.parametrize('number, code', [
    (signal.SIGINT, 1),
    (signal.SIGTERM, 128 + signal.SIGTERM),
    (signal.SIGHUP, 128 + signal.SIGHUP),
])
def test_signals_kill_run_and_parent(holder, number, code):
    process, ids = holder
    os.kill(process.pid, number)
    process.join(LIMIT)
    # KeyboardInterrupt goes on to whoever called, a signal ends the process with its number
    assert process.exitcode == code
    assert [status(i) for i in ids] == ['KILLED']*2


def test_signal_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    with R.tracked_run('handlers', 'faults'): assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


def test_exception_and_keyboard_interrupt():
    with pytest.raises(ZeroDivisionError), R.tracked_run('fails', 'faults') as failed:
        raise ZeroDivisionError('no clips')
    with pytest.raises(KeyboardInterrupt), R.tracked_run('stopped', 'faults') as stopped: raise KeyboardInterrupt
    with pytest.raises(SystemExit), R.tracked_run('left', 'faults') as left: sys.exit(3)
    assert [status(i) for i in (failed, stopped, left)] == ['FAILED', 'KILLED', 'FAILED']
    run = T.open_store().get_run(failed)
    assert run.data.tags['error'] == 'ZeroDivisionError: no clips'
    assert 'raise ZeroDivisionError' in open(T.open_store().download_artifacts(failed, 'traceback.txt')).read()
    with pytest.raises(RuntimeError, match='no run is open'): R.current_run()


def test_runs_of_other_hosts_and_other_tools_are_left_alone():
    client, experiment = T.open_store(), T.experiment_id('faults')
    gone = P.process_tags() | dict(pid='999999999')
    own, foreign, unknown = (client.create_run(experiment, tags=tags).info.run_id
                             for tags in (gone, gone | dict(host='elsewhere'), {}))
    assert R.close_dead_runs() == [own]
    assert [status(i) for i in (foreign, unknown)] == ['RUNNING']*2


def test_two_processes_make_store_and_experiment_at_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/new/mlflow.db')
    both, (ours, theirs) = FORK.Barrier(2), FORK.Pipe()
    def work():
        both.wait(LIMIT)
        with R.tracked_run('one of two', 'at once'): theirs.send(T.experiment_id('at once'))
    children = [FORK.Process(target=work) for _ in range(2)]
    for child in children: child.start()
    for child in children: child.join(LIMIT)
    assert [child.exitcode for child in children] == [0, 0]
    assert ours.recv() == ours.recv()
    assert capfd.readouterr() == ('', ''), 'MLflow talks'
    assert list(R.runs_table('at once').status) == ['FINISHED']*2


def test_experiment_made_by_somebody_else_in_between(monkeypatch):
    made, client, answers = T.experiment_id('race'), T.open_store(), [None]
    real = client.get_experiment_by_name
    monkeypatch.setattr(client, 'get_experiment_by_name', lambda name: answers.pop() if answers else real(name))
    assert T.experiment_id('race') == made and not answers


def test_locked_database_is_waited_for():
    """SQLite is asked to wait for 20 seconds, not for the 5 that Python's module waits by itself; tests/faults holds
    one for longer."""
    with T.open_store()._tracking_client.store.engine.connect() as connection:
        assert connection.exec_driver_sql('pragma busy_timeout').scalar() == 20_000


def test_long_and_odd_settings():
    settings = {'classes': ['v']*5000, 'a+b (c)': None, 'empty': {}, 'text': '', 'ä': 'ö'} | {
        f'p{i}': i for i in range(250)
    }
    with R.tracked_run('odd', 'faults', dict(long='x'*20000), settings) as run_id:
        R.log_metrics({f'm{i}': i for i in range(1500)} | dict(nan=float('nan'), none=None))
    data = T.open_store().get_run(run_id).data
    assert len(data.params) == 255 and len(data.params['classes']) == 500 and data.params['a_b _c_'] == 'None'
    assert len(data.metrics) == 1501 and len(data.tags['long']) == 5000


def test_resumed_run_keeps_id_and_counts_on():
    with pytest.raises(ValueError), R.tracked_run('resumed', 'faults', params=dict(lr=.1)) as run_id:
        R.log_metrics(dict(loss=2.), 0)
        raise ValueError
    with R.tracked_run('resumed', 'faults', params=dict(lr=.1), run_id=run_id) as again: R.log_metrics(dict(loss=1.), 1)
    assert again == run_id and status(run_id) == 'FINISHED'
    assert [m.step for m in T.open_store().get_metric_history(run_id, 'loss')] == [0, 1]


def test_store_in_a_folder_with_spaces(tmp_path, monkeypatch):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/my runs/ü/mlflow.db')
    with R.tracked_run('spaces', 'faults') as run_id: R.log_text('here', 'note.txt')
    assert (tmp_path/'my runs'/'ü'/'artifacts'/'faults'/run_id/'artifacts'/'note.txt').read_text() == 'here'


def test_default_store_is_in_the_checkout(monkeypatch, root, tmp_path):
    monkeypatch.delenv('MLFLOW_TRACKING_URI')
    monkeypatch.chdir(tmp_path)
    assert T.tracking_uri() == f'sqlite:///{root}/mlruns/mlflow.db'


def test_mlflow_comes_late_and_reports_nothing(root):
    "No module imports it before it is asked for; then its telemetry is off before its first line runs."
    for path in (root/'har_nb').rglob('*.py'):
        for part in ast.parse(path.read_text()).body:
            if isinstance(part, ast.FunctionDef | ast.ClassDef): continue
            imports = [node for node in ast.walk(part) if isinstance(node, ast.Import | ast.ImportFrom)]
            assert not any('mlflow' in ast.unparse(node) for node in imports), path
    code = (
        'import sys, warnings, har_nb.learning.tracking as tracking; assert "mlflow" not in sys.modules\n'
        'warnings.simplefilter("default")\n'
        'tracking.open_store()\n'
        'from mlflow.telemetry.utils import is_telemetry_disabled as off; assert off()'
    )
    env = {k: v for k, v in os.environ.items() if k not in T.QUIET}
    subprocess.run([sys.executable, '-W', 'error::FutureWarning', '-c', code], check=True, env=env)


def fetch(port, path, host=None):
    request = Request(f'http://127.0.0.1:{port}{path}', headers={'Host': host} if host else {})
    try:
        with urlopen(request, timeout=LIMIT) as answer: return answer.status, answer.read().decode()
    except HTTPError as e: return e.code, e.read().decode()


def test_page_answers_to_its_own_name_only():
    with R.tracked_run('shown', 'page') as run_id: R.log_text('for the page', 'note.txt')
    with socket.socket() as free: free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]
    command, environment = R.ui_command(port)
    server = subprocess.Popen(command,
                              env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        def answers():
            try: return fetch(port, '/')
            except (URLError, ConnectionError): return None
        page = until(answers, server)
        assert page[0] == 200 and 'MLflow' in page[1]
        assert fetch(port, f'/api/2.0/mlflow/runs/get?run_id={run_id}')[0] == 200
        assert fetch(port, f'/get-artifact?path=note.txt&run_uuid={run_id}') == (200, 'for the page')
        assert fetch(port, f'/api/2.0/mlflow/runs/get?run_id={run_id}', 'evil.example.org')[0] == 403
        assert fetch(port, '/', f'evil.example.org:{port}')[0] == 403
        listening = {c.laddr.ip
                     for p in [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
                     for c in p.net_connections()
                     if c.status == 'LISTEN'}
        assert listening == {'127.0.0.1'}
        assert len(psutil.Process(server.pid).children(recursive=True)) <= 3
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.communicate(timeout=LIMIT)
