"""A team's MLflow: a server with PostgreSQL behind it, which keeps the artifacts, too. Everything works by
MLFLOW_TRACKING_URI alone."""
from dataclasses import replace

import numpy as np
import pytest
from later import collecting
from servers import driver, free_port, mlflow_server, postgres, postgres_programs

from har_nb.experiments.results import compare, to_markdown
from har_nb.learning.runs import load_table, log_metrics, page_address, runs_table, tracked_run
from har_nb.learning.tracking import StoreAway, open_store

if not collecting:
    from har_nb.experiments.tables import run
    from har_nb.learning.predictor import load_predictor
    from har_nb.papers.mei.tables import table2

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not postgres_programs(), reason='PostgreSQL is not installed (initdb, pg_ctl)'),
              pytest.mark.skipif(not driver(), reason='neither psycopg nor psycopg2 is installed')]

TINY = dict(preset='demo', size=32, epochs=2, progress=False)


@pytest.fixture(scope='module')
def team(tmp_path_factory):
    "Server, and the folder of artifacts that only it may look into."
    folder = tmp_path_factory.mktemp('team')
    with postgres() as store, mlflow_server(store, folder/'objects') as server: yield server, folder/'objects'


@pytest.fixture
def store(team, monkeypatch, tmp_path):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', team[0].uri)
    monkeypatch.chdir(tmp_path)
    return team[0]


@pytest.fixture
def sports(built_set): return built_set


def rows(table):
    runs = runs_table(table.name)
    return runs[runs['tags.kind'] == 'row'] if len(runs) else runs


def test_a_table_as_with_sqlite(store, team, sports, tmp_path, monkeypatch):
    first = run(table2, sports, rows=['normal'], cache=tmp_path/'cache', **TINY)
    ids = first.run_ids[0]
    trained = rows(table2)
    assert trained.run_id.tolist() == ids
    assert trained.status.tolist() == ['FINISHED']
    assert trained.artifact_uri.str.startswith('mlflow-artifacts:').all()
    assert [m.step for m in open_store().get_metric_history(ids[0], 'valid_loss')] == [0, 1]
    # the finished row is read, the others are trained
    second = run(table2, sports, rows=['two-stream'], cache=tmp_path/'cache', **TINY)
    assert second.set_index('row').run_ids['normal'] == ids
    assert len(rows(table2)) == 3
    assert (rows(table2).status == 'FINISHED').all()
    other = replace(table2, name='mei.other')
    taken = run(other, sports, rows=['normal'], cache=tmp_path/'cache', **TINY) # another table takes the row over
    assert rows(other)['tags.reused_from'].tolist() == ids and taken.test_acc_video[0] == first.test_acc_video[0]
    shown = compare(table2)
    assert shown.row.tolist() == ['normal', 'MEI, Gradient Division', 'two-stream']
    assert f'({store.uri}/#/experiments/' in to_markdown(shown, page_address())
    names = {file.path for file in open_store().list_artifacts(ids[0])}
    assert names >= {'predictions.parquet', 'samples.parquet', 'model.pth',
                     'recipe.json', 'confusion.png', 'environment.json'}
    assert {p.name for p in team[1].rglob('*.pth')} == {'model.pth'}, 'the server keeps the artifacts'
    assert not list(tmp_path.glob('mlruns*'))
    assert not list(tmp_path.glob('mlartifacts*')), 'nothing is kept beside the caller'
    measured = load_table('predictions.parquet', ids[0]).set_index('path')
    for row, run_ids in zip(shown.row, shown.run_ids, strict=True):
        said = load_predictor(run_ids[0], device='cpu')
        table = load_table('predictions.parquet', run_ids[0]).set_index('path')
        for path in table.index[:2]:
            np.testing.assert_allclose(said.predict(sports.root/path).video,
                                       table.loc[path, [f'p_{name}' for name in sports.classes]].to_numpy(float),
                                       atol=2e-4, err_msg=row)
    assert len(measured) == len(sports.test)


def test_numbers_equal_those_of_sqlite(store, sports, tmp_path, monkeypatch):
    here = run(table2, sports, rows=['normal'], cache=tmp_path/'cache', **TINY)
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/mlflow.db')
    there = run(table2, sports, rows=['normal'], cache=tmp_path/'cache', **TINY)
    own, other = (table.set_index('row').loc['normal'].drop(['run_ids', 'latency_ms']).dropna()
                  for table in (here, there))
    assert own.to_dict() == other.to_dict() and 'test_acc_video' in own


def test_a_stopped_row_goes_on(store, sports, tmp_path, monkeypatch):
    from har_nb.learning.callbacks import Checkpoint
    saved, stop = Checkpoint.trained_epoch, [True]
    def stumble(self, measured):
        saved(self, measured)
        if stop and self.epoch == 1: stop.clear(); raise KeyboardInterrupt
    monkeypatch.setattr(Checkpoint, 'trained_epoch', stumble)
    longer, table = TINY | dict(epochs=4), replace(table2, name='mei.stopped')
    with pytest.raises(KeyboardInterrupt): run(table, sports, rows=['normal'], cache=tmp_path/'cache', **longer)
    assert rows(table).status.tolist() == ['KILLED']
    run(table, sports, rows=['normal'], cache=tmp_path/'cache', **longer)
    assert rows(table).status.tolist() == ['FINISHED']
    assert [m.step for m in open_store().get_metric_history(rows(table).run_id[0], 'valid_loss')] == [0, 1, 2, 3]


def test_long_texts_and_odd_numbers(store):
    with tracked_run('odd', 'limits', dict(long='x'*20000), {'classes': ['v']*5000, 'ä': 'ö'}) as run_id:
        log_metrics(dict(nan=float('nan'), large=float('inf'), small=-float('inf'), tiny=1e-300)
                    | {f'm{i}': i for i in range(1500)})
    data = open_store().get_run(run_id).data
    assert len(data.tags['long']) == 5000
    assert len(data.params['classes']) == 500
    assert len(data.metrics) == 1504
    assert data.metrics['nan'] != data.metrics['nan']


def test_a_password_is_not_told(monkeypatch):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'http://har:secret@127.0.0.1:{free_port()}')
    with pytest.raises(StoreAway, match='does not answer') as told: open_store()
    assert 'secret' not in str(told.value)

