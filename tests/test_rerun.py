"""Runs that are made again: the same to the last digit, in another process, from what MLflow holds alone; or a clear
word why not."""
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from later import collecting

from har_nb.experiments.results import Predictions
from har_nb.learning.runs import load_table, runs_table, tracked_run
from har_nb.learning.tracking import open_store
from har_nb.samples.store import Frame
from har_nb.tools.cli import main

if not collecting:
    import torch

    from har_nb.experiments.rerun import RerunError, recorded, rerun, side_by_side
    from har_nb.experiments.tables import Row, RowsFailed, Table, run


def noise(job, scale):
    test = job.samples.of(np.flatnonzero(job.dataset.clips.split == 'test'))
    return Predictions(np.random.default_rng(job.seed).dirichlet(np.full(len(job.dataset.classes), scale), len(test)),
                       job.samples.clip[test])


def sees(settings): return Frame(settings['n'], 10)


if not collecting:
    toy = Table('toy.table1', 'Noise', 'nobody',
                rows=(Row('noise', noise, modality=sees),), settings=dict(size=24, n=10, scale=1.))


@pytest.fixture(scope='module')
def sports(small_set): return small_set


@pytest.fixture(scope='module')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def made(sports, cache):
    "A store, and the ids of two finished runs in it: seeds 0 and 1."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{cache}/mlflow.db')
        run(toy, sports, seeds=2, cache=cache, progress=False)
        yield list(runs_table('toy.table1', "tags.kind = 'row'").sort_values('tags.seed').run_id)


def har(*words, folder, threads=1):
    "The command in a process of its own."
    environment = os.environ | dict(MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db', HAR_NB_DATA=str(folder),
                                    OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    return subprocess.run([Path(sys.executable).parent/'har', *map(str, words)],
                          env=environment, capture_output=True, text=True)


def trained_and_repeated(folder, sports, monkeypatch, table, row, *words, threads=1):
    "A row, trained and repeated in two processes: what MLflow holds of both."
    done = har('run', table, '--data', sports.root, '--preset', 'demo', '--rows', row, *words,
               folder=folder, threads=threads)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{folder}/mlflow.db')
    runs = runs_table(table)
    first = runs[runs['tags.row'] == row].run_id.iloc[0]
    done = har('rerun', first, folder=folder, threads=threads)
    assert done.returncode == 0 and 'The same: every metric' in done.stdout, done.stdout + done.stderr
    runs = runs_table(table)
    return first, runs[runs['tags.repeats'].eq(first) & runs['tags.kind'].eq('repeat')].run_id.item()


def assert_equal(first, second):
    "Metrics to the last bit, files of predictions to the last byte."
    one, other = recorded(first), recorded(second)
    numbers = [{name: value
                for name, value in each.metrics.items()
                if name not in ('seconds', 'latency_ms') and 'memory' not in name and 'per' not in name}
               for each in (one, other)]
    assert numbers[0] == numbers[1]
    assert any(name.startswith('train_loss') or name.startswith('test_acc') for name in numbers[0])
    for name in ('samples.parquet', 'predictions.parquet'):
        files = [Path(open_store().download_artifacts(each, name)).read_bytes() for each in (first, second)]
        assert files[0] == files[1], name
    assert one.tags['pid'] != other.tags['pid']


@pytest.mark.slow
def test_another_process_trains_the_same_net(sports, tmp_path, monkeypatch):
    first, second = trained_and_repeated(tmp_path, sports, monkeypatch, 'mei.table2', 'normal', '--size', 32,
                                         '--epochs', 2)
    assert_equal(first, second)
    history = [[(m.step, m.value) for m in open_store().get_metric_history(each, 'train_loss')]
               for each in (first, second)]
    assert history[0] == history[1] and len(history[0]) == 2
    weights = [torch.load(open_store().download_artifacts(each, 'model.pth'), weights_only=True)
               for each in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
@pytest.mark.parametrize('table, row, words, threads', [
    ('mei.table2', 'two-stream', ('--size', 32, '--epochs', 2), 2),
    ('kpsem.table1', 'MF-KPSEM', ('--size', 48, '--epochs', 1), 1),
    ('transnet.table2', 'MobileNet, none', ('--size', 32, '--epochs', 1), 2),
    ('dual_stream_attention.table1', 'early fusion', ('--size', 48, '--epochs', 1), 1)])
def test_rows_of_other_papers_come_out_the_same(table, row, words, threads, sports, tmp_path, monkeypatch):
    assert_equal(*trained_and_repeated(tmp_path, sports, monkeypatch, table, row, *words, threads=threads))


def test_another_seed_is_not_the_same(made):
    "The comparison can fail: two seeds are told apart, by metric and by probability."
    result = side_by_side(*map(recorded, made))
    assert not result.attrs['same'] and result.attrs['probabilities'] > .01 and result.attrs['environment'] == []
    table = result.set_index('metric')
    assert 'seconds' in table.index and (table.difference == table['repeat'] - table.original).all()


def test_a_row_that_another_table_took_over_is_repeated_where_it_was_trained(made, sports, cache):
    run(replace(toy, name='toy.table2'), sports, seeds=2, cache=cache, progress=False)
    taken = runs_table('toy.table2', "tags.seed = '1'").run_id.item()
    said = recorded(taken)
    assert (said.run_id, said.tags['table'], said.tags['seed']) == (made[1], 'toy.table1', '1')
    result = rerun(said, toy, cache, progress=False)
    assert result.attrs['same']
    assert result.attrs['original'] == made[1]
    assert recorded(result.attrs['repeat']).tags['seed'] == '1'
    run(replace(toy, name='toy.table3'), sports, cache=cache, progress=False)
    assert runs_table('toy.table3', "tags.kind = 'row'")['tags.reused_from'].item() == made[0] # never from a repeat


def test_what_cannot_be_repeated_says_why(made, sports, cache):
    def breaks(job): raise MemoryError('too large')
    with pytest.raises(RowsFailed):
        run(replace(toy, name='toy.fails', rows=(Row('breaks', breaks, modality=sees),)), sports,
            cache=cache, progress=False)
    failed = runs_table('toy.fails', "tags.kind = 'row'").run_id.item()
    with tracked_run('by hand', 'toy.table1') as by_hand: pass
    with tracked_run('older', 'toy.table1', dict(kind='row', key='0'*16, table='toy.table1')) as older: pass
    for run_id, told in (
        (failed, 'is FAILED'),
        (by_hand, 'not of a table'),
        (older, 'earlier version'),
        ('gone', 'there is no run'),
    ):
        with pytest.raises(RerunError, match=told): recorded(run_id)
    file = Path(open_store().get_run(made[0]).info.artifact_uri.removeprefix('file://'))/'split.parquet'
    before = file.read_bytes()
    load_table('split.parquet', made[0]).assign(split='train').to_parquet(file, index=False)
    with pytest.raises(RerunError, match='split.parquet is not'): recorded(made[0])
    file.write_bytes(before)


@pytest.mark.slow # the switch imports torch's compiler
def test_the_repeatable_switch_is_kept(sports, tmp_path, tracking):
    result = run(toy, sports, deterministic=True, cache=tmp_path/'cache', progress=False)
    run(replace(toy, name='toy.other'), sports, cache=tmp_path/'cache', progress=False)
    one, other = (runs_table(name, "tags.kind = 'row'").iloc[0] for name in ('toy.table1', 'toy.other'))
    assert one['tags.deterministic'] == 'True'
    assert one['tags.key'] != other['tags.key']
    assert 'tags.reused_from' not in other
    said = recorded(result.run_ids[0][0])
    assert said.environment['variables']['CUBLAS_WORKSPACE_CONFIG'] and not torch.are_deterministic_algorithms_enabled()
    repeat = rerun(said, toy, tmp_path/'cache', progress=False)
    assert recorded(repeat.attrs['repeat']).tags['deterministic'] == 'True' and repeat.attrs['same']


def test_the_command_answers_in_a_line(made, sports, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HAR_NB_DATA', str(cache))
    main(['rerun', made[1], '--table', f'{__name__}:toy'])
    out = capsys.readouterr().out
    assert 'test_acc_video' in out and 'The same' in out and 'are the same, too' in out
    other = side_by_side(*map(recorded, made)) # two seeds
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr('har_nb.experiments.rerun.rerun', lambda *_: other)
        main(['rerun', made[1], '--table', f'{__name__}:toy'])
    assert ended.value.code == 1 and 'The same' not in capsys.readouterr().out
    moved = shutil.copytree(sports.root, tmp_path/'moved')
    shutil.copy(moved/sports.clips.path[1], moved/sports.clips.path[0])
    for words, told in (
        ([], 'no table'),
        (['--table', f'{__name__}:toy', '--data', tmp_path/'nowhere'], 'not there'),
        (['--table', f'{__name__}:toy', '--data', moved], 'not the videos'),
        (['--table', 'mei.table2'], 'is a row of toy.table1'),
    ):
        before = len(runs_table('toy.table1'))
        with pytest.raises(SystemExit) as ended: main(['rerun', made[1], *map(str, words)])
        assert str(ended.value).startswith('har: ') and told in str(ended.value), ended.value
        assert len(runs_table('toy.table1')) == before
