"A table on Dask's workers: one of them is killed in the middle of a row, and every row is there once."
import os
import signal
import subprocess
import sys
import threading

import pytest
from children import until
from later import collecting

from har_nb.data.synthetic import build
from har_nb.learning.runs import runs_table
from har_nb.learning.tracking import open_store

if not collecting:
    from har_nb.papers.mei.tables import table2


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_row_loses_none_and_writes_none_twice(tmp_path, tracking):
    from dask.distributed import Client

    from har_nb.experiments.cluster import run
    sports = build(tmp_path/'sports', people=3, takes=1, size=(56, 72), progress=False)
    result = {}
    with Client(n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=None) as client:
        def train():
            result['table'] = run(table2, sports, client, preset='demo', size=32, epochs=6, rows=['two-stream'],
                                  cache=tmp_path/'cache', progress=False)
        work = threading.Thread(target=train)
        work.start()
        def rows(): return runs[runs['tags.kind'] == 'row'] if len(runs := runs_table('mei.table2')) else runs
        def steps(run_id): return [m.step for m in open_store().get_metric_history(run_id, 'valid_loss')]
        def middle():
            assert work.is_alive(), 'it ended by itself'
            running = rows()
            if not len(running): return []
            return [run for run in running[running.status == 'RUNNING'].run_id if 1 <= len(steps(run)) < 5]
        victim = open_store().get_run(until(middle)[0])
        assert int(victim.data.tags['pid']) in client.run(os.getpid).values()
        os.kill(int(victim.data.tags['pid']), signal.SIGKILL)
        work.join(300)
    assert not work.is_alive()
    found = rows()
    finished = found[found.status == 'FINISHED']
    expected = sorted((name, str(seed))
                      for name in ('normal', 'MEI, Gradient Division', 'two-stream')
                      for seed in range(1))
    assert sorted(zip(finished['tags.row'], finished['tags.seed'], strict=True)) == expected
    assert len(found) == len(expected)
    assert list(result['table'].runs) == [1, 1, 1]
    again = finished.set_index('run_id')
    assert victim.info.run_id in again.index
    assert again['tags.pid'][victim.info.run_id] != victim.data.tags['pid'], 'another worker went on with the same run'
    for run_id in finished.run_id[finished['tags.row'] != 'two-stream']:
        assert sorted(steps(run_id)) == list(range(6)), 'no gap, no repeat'


@pytest.mark.slow
def test_without_dask_one_error_says_what_to_install(tmp_path):
    block = "import sys; sys.modules['dask'] = sys.modules['accelerate'] = None\n"
    root = build(tmp_path/'sports', people=3, takes=1, size=(56, 72), progress=False).root
    code = (
        'from har_nb.tools.cli import main; '
        "main(['run', 'mei.table2', '--data', sys.argv[1], '--scheduler', '2'])"
    )
    asked = subprocess.run([sys.executable, '-c', block + code, str(root)], capture_output=True, text=True)
    assert asked.returncode == 1 and "pip install 'har_nb[cluster]'" in asked.stderr and 'Traceback' not in asked.stderr
    joined = subprocess.run([sys.executable, '-c', block + 'import har_nb.learning.distributed'],
                            capture_output=True, text=True)
    assert "pip install 'har_nb[cluster]'" in joined.stderr
