"Tables that are stopped, called again, extended and shared; nothing finished is trained twice, nothing different is taken for the same."
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from har_nb.data.synthetic import build
from har_nb.experiments.results import NotRun, compare, load_predictions, paired
from har_nb.experiments.tables import Row, RowsFailed, run
from har_nb.learning.runs import runs_table
from har_nb.learning.tracking import open_store
from har_nb.papers.mei.tables import fused, stream, table2
from har_nb.samples.store import Frame
from har_nb.tools.data import open_any

TINY = dict(preset='demo', size=32, epochs=1, progress=False)


@pytest.fixture(scope='module')
def sports(tmp_path_factory): return build(tmp_path_factory.mktemp('sets')/'sports', people=4, takes=1, progress=False)


def rows(table='mei.table2'):
    runs = runs_table(table)
    return runs[runs['tags.kind'] == 'row'] if len(runs) else runs


def test_a_set_with_the_same_names_and_other_videos_is_another_experiment(sports, tmp_path, tracking):
    other = replace(sports, root=build(tmp_path/'sports', people=4, takes=1, seed=1, progress=False).root)
    assert other.digest == sports.digest
    for dataset in (sports, other): run(table2, dataset, rows=['normal'], cache=tmp_path/'cache', **TINY)
    done = rows()
    assert len(done) == 2 and done['tags.key'].nunique() == 2 and done.get('tags.reused_from', pd.Series(dtype=str)).isna().all()


def test_another_table_takes_a_stream_over_and_says_from_where(sports, tmp_path, tracking):
    first = run(table2, sports, rows=['normal'], cache=tmp_path/'cache', **TINY)
    second = run(replace(table2, name='mei.other'), sports, rows=['two-stream'], cache=tmp_path/'cache', **TINY)
    taken = rows('mei.other').set_index('tags.row')
    assert taken.loc['normal', 'tags.reused_from'] == first.run_ids[0][0]
    assert isinstance(taken.loc['MEI, Gradient Division', 'tags.reused_from'], float)
    assert second.set_index('row').test_acc_video['normal'] == first.test_acc_video[0]
    assert (second.parameters.iloc[:2] == first.parameters[0]).all() and second.parameters.iloc[2] == 2*first.parameters[0]
    one, other = (load_predictions(ids[0]) for ids in (first.run_ids[0], second.set_index('row').run_ids['normal']))
    assert np.array_equal(one.probabilities, other.probabilities)


def test_a_fusion_of_a_failed_row_fails_and_only_it(sports, tmp_path, tracking):
    def broken(job, **_): raise ValueError('no such luck')
    table = replace(table2, name='mei.fragile', rows=(table2.rows[0], Row('broken', broken, modality=lambda s: Frame(s['n'], s['interval'])), fused('both', 'normal', 'broken')))
    with pytest.raises(RowsFailed, match='no such luck'): run(table, sports, cache=tmp_path/'cache', **TINY)
    assert dict(rows('mei.fragile').set_index('tags.row').status) == {'normal': 'FINISHED', 'broken': 'FAILED', 'both': 'FAILED'}


def test_an_ensemble_needs_the_same_moments(sports, tmp_path, tracking):
    table = replace(table2, name='mei.apart', rows=(table2.rows[0], Row('other moments', stream, dict(interval=7), modality=lambda s: Frame(s['n'], s['interval'])), fused('both', 'normal', 'other moments')))
    with pytest.raises(RowsFailed, match='different samples'): run(table, sports, cache=tmp_path/'cache', **TINY)


def test_again_measures_anew(sports, tmp_path, tracking):
    first = run(table2, sports, rows=['normal'], cache=tmp_path/'cache', **TINY)
    second = run(table2, sports, rows=['normal'], again=True, cache=tmp_path/'cache', **TINY)
    assert first.attrs['parent'] != second.attrs['parent'] and len(rows()) == 2
    assert first.test_acc_image[0] == second.test_acc_image[0], 'the same seed gives the same number'
    assert compare(table2).attrs['parent'] == second.attrs['parent']
    assert compare(table2, first.attrs['parent']).run_ids[0] == first.run_ids[0]
    with pytest.raises(NotRun, match='as nonsense'): compare(table2, 'nonsense')
    with pytest.raises(NotRun, match='no finished run'): paired(table2, 'normal', 'two-stream')


@pytest.mark.slow
def test_killed_twice_and_called_again_it_finishes_without_repeating_anything(sports, tmp_path, tracking):
    command = [str(Path(sys.executable).parent/'har'), 'run', 'mei.table2', '--data', str(sports.root), *'--preset demo --size 32 --epochs 6 --rows two-stream'.split()]
    environment = os.environ | dict(MLFLOW_TRACKING_URI=tracking, HAR_NB_DATA=str(tmp_path/'data'))
    def steps(run_id): return [m.step for m in open_store().get_metric_history(run_id, 'valid_loss')]
    for wanted in (0, 1): # rows that are finished when the next one has trained three epochs
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            time.sleep(.1)
            now = rows()
            if len(now) and (now.status == 'FINISHED').sum() == wanted and (running := now[now.status == 'RUNNING'].run_id.tolist()) and len(steps(running[0])) >= 3: break
            assert process.poll() is None, 'it ended by itself'
        process.send_signal(signal.SIGKILL)
        process.wait()
    stopped = rows().set_index('tags.row')
    assert stopped.status['normal'] == 'FINISHED'
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    finished = rows()
    assert sorted(finished['tags.row']) == sorted(['normal', 'MEI, Gradient Division', 'two-stream']) and set(finished.status) == {'FINISHED'}
    assert dict(zip(finished['tags.row'], finished.run_id, strict=True)).items() >= dict(stopped.run_id).items(), 'a resumed row keeps its run'
    for name in ('normal', 'MEI, Gradient Division'): assert steps(finished.set_index('tags.row').run_id[name]) == list(range(6)), 'no gap, no repeat'
    assert len(runs_table('mei.table2')) == 4
    whole = run(table2, open_any(sports.root), preset='demo', size=32, epochs=6, rows=['normal'], again=True, cache=tmp_path/'data'/'cache', progress=False)
    assert whole.test_acc_image[0] == 100*finished.set_index('tags.row')['metrics.test_acc_image']['normal'], 'a fit that was killed ends where an undisturbed one does'
