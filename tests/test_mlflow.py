"MLflow as its users know it: columns that are filled, a description, models that are served, and rows side by side."
import base64
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from children import free_port, until
from later import collecting

from har_nb.learning.runs import runs_table

if not collecting:
    import mlflow
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    from har_nb.experiments.tables import run
    from har_nb.learning.predictor import load_predictor
    from har_nb.learning.pyfunc import VideoModel
    from har_nb.learning.recipe import PredictError
    from har_nb.learning.runs import system_metrics, tracked_run
    from har_nb.learning.tracking import open_store
    from har_nb.papers.mei.tables import table2
    from har_nb.tools.cli import main


def rows(): return runs_table('mei.table2', "tags.kind = 'row'")
def sent(video): return dict(video=base64.b64encode(video.read_bytes()).decode())
def parent(): return open_store().get_run(runs_table('mei.table2', "tags.kind = 'table'").run_id.iloc[0])


def test_the_lists_of_runs_have_data_source_and_numbers(trained):
    for run_id in rows().run_id:
        one = open_store().get_run(run_id)
        data = one.inputs.dataset_inputs[0].dataset
        sizes = json.loads(data.profile)
        assert data.name == 'sports' and len(data.digest) == 36 and sizes['classes'] == 8
        assert sizes['train'] and sizes['test'] and json.loads(data.source)['uri'].startswith('file:')
        assert one.data.tags['mlflow.source.type'] == 'LOCAL' and one.data.tags['mlflow.source.name']
    whole, best = parent(), rows()['metrics.test_acc_video'].max()
    assert whole.data.metrics['best_acc_video'] == pytest.approx(best)
    assert 0 < whole.data.metrics['mean_acc_video'] <= best
    note = open_store().get_experiment(whole.info.experiment_id).tags['mlflow.note.content']
    for words in ('| normal |', '68.54', '#/experiments/'): assert words in note
    assert whole.data.tags['mlflow.note.content'] == note


def test_every_row_has_a_model_that_stands_alone(trained, monkeypatch):
    models = open_store().search_logged_models([parent().info.experiment_id])
    assert sorted(model.name for model in models) == sorted(row.name for row in table2.rows)
    assert {model.status.name for model in models} == {'READY'}
    assert not [file for file in trained.folder.rglob('*.pkl') if 'model' in str(file)]
    video = trained.dataset.paths[0]
    mlflow.set_tracking_uri(trained.uri)
    fused = next(model for model in models if model.name == 'two-stream')
    assert {metric.key for metric in fused.metrics} >= {'test_acc_video'}
    assert {metric.dataset_name for metric in fused.metrics} == {'sports'}
    assert f'models:/{fused.model_id}' in fused.tags['mlflow.note.content']
    gives = mlflow.models.get_model_info(f'models:/{fused.model_id}').signature.outputs.input_names()
    assert gives == ['predicted', *(f'p_{name}' for name in trained.dataset.classes)]
    said = mlflow.pyfunc.load_model(f'models:/{fused.model_id}').predict(pd.DataFrame([sent(video)]))
    expected = load_predictor(fused.source_run_id).predict(video)
    np.testing.assert_allclose(said.filter(like='p_').to_numpy()[0], expected.video, atol=1e-6)
    assert said.predicted[0] == expected.top(1)[0][0]
    assert int(mlflow.register_model(f'models:/{fused.model_id}', 'actions').version) == 1
    assert mlflow.pyfunc.load_model('models:/actions/1')


def test_a_request_with_a_video_is_answered_as_by_har_predict(trained, monkeypatch):
    "By the server of `mlflow models serve`, in this process."
    monkeypatch.setenv('HAR_NB_VIDEOS', str(trained.dataset.root))
    mlflow.set_tracking_uri(trained.uri)
    models = open_store().search_logged_models([parent().info.experiment_id])
    model = next(model for model in models if model.name == 'normal')
    server = TestClient(scoring_server.init(mlflow.pyfunc.load_model(f'models:/{model.model_id}')))
    video = trained.dataset.paths[1]
    lines = [sent(video), dict(path=str(video.relative_to(trained.dataset.root)))]
    expected = load_predictor(model.source_run_id).predict(video).video
    for line in lines:
        answer = server.post('/invocations', json=dict(dataframe_records=[line]))
        assert answer.status_code == 200, answer.text
        found = answer.json()['predictions'][0]
        np.testing.assert_allclose([found[f'p_{name}'] for name in trained.dataset.classes], expected, atol=1e-6)
    no_video = base64.b64encode(b'no video').decode()
    for wrong in (dict(path='../../etc/passwd'), dict(video='no base64!'), dict(video=no_video)):
        refused = server.post('/invocations', json=dict(dataframe_records=[wrong]))
        assert refused.status_code in (400, 500) and 'root:' not in refused.text


def asked(port, how, path, body=None):
    "Status and answer of a server on this machine; None where nothing listens yet."
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    try:
        connection.request(how, path, body, {'Content-Type': 'application/json'})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except ConnectionError: return None
    finally: connection.close()


def test_mlflow_models_serve_says_of_a_video_what_har_predict_says(trained, tmp_path):
    "The command as its users type it, in an environment that is activated: a process of its own."
    run_id, port = rows().set_index('tags.row').run_id['normal'], free_port()
    model = open_store().search_logged_models([parent().info.experiment_id], f"source_run_id = '{run_id}'")[0]
    bin_ = str(Path(sys.executable).parent)
    with open(tmp_path/'served.txt', 'w+') as told:
        server = subprocess.Popen(
            [sys.executable, '-m', 'mlflow', 'models', 'serve', '--env-manager', 'local', '--host', '127.0.0.1',
             '--port', str(port), '--workers', '1', '--model-uri', f'models:/{model.model_id}'],
            env=os.environ | dict(PATH=os.pathsep.join([bin_, os.environ['PATH']]), MLFLOW_TRACKING_URI=trained.uri),
            stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            until(lambda: (asked(port, 'GET', '/ping') or [0])[0] == 200, server)
            video = trained.dataset.paths[2]
            lines = json.dumps(dict(dataframe_records=[sent(video)]))
            status, answer = asked(port, 'POST', '/invocations', lines)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
        assert status == 200, (answer, (tmp_path/'served.txt').read_text())
    found = json.loads(answer)['predictions'][0]
    main(['predict', str(video), '--run', run_id, '--top', '8', '--csv', str(tmp_path/'said.csv')])
    said = pd.read_csv(tmp_path/'said.csv').set_index('class').probability
    for name in trained.dataset.classes: assert found[f'p_{name}'] == pytest.approx(said[name], abs=1e-6)
    assert found['predicted'] == said.idxmax()


def test_weights_are_stored_once(trained_table):
    "Three nets under eleven names: their runs', their models' and those of both fusions."
    files = [file.stat() for file in trained_table.folder.rglob('model.pth')]
    assert len(files) == 10 and len({file.st_ino for file in files}) == 3


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path/'videos').mkdir()
    (tmp_path/'secret.avi').write_bytes(b'x')
    (tmp_path/'videos'/'link.avi').symlink_to(tmp_path/'secret.avi')
    model = VideoModel(None, tmp_path/'videos')
    with pytest.raises(PredictError, match='does not lie below'): model.predict([dict(path='link.avi')])


def test_system_metrics_are_those_of_the_run_and_can_be_left_out(tracking, monkeypatch):
    told = []
    class Monitor:
        def __init__(self, run_id, **how): told.append((run_id, how['sampling_interval']))
        def start(self): told.append('start')
        def finish(self): told.append('finish')
    monkeypatch.setattr('mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor', Monitor)
    with tracked_run('x', 'x') as run_id:
        with system_metrics(): pass
        assert told == []
        monkeypatch.setenv('HAR_NB_SYSTEM_METRICS', '1')
        with pytest.raises(ValueError), system_metrics(): raise ValueError
    assert told == [(run_id, 1), 'start', 'finish']


def test_other_rows_of_a_table_are_measured_at_the_same_time(tracking, small_set, tmp_path):
    "The table's run is open in another process that lives: its own parent, here."
    tiny = dict(preset='demo', size=24, epochs=1, cache=tmp_path, progress=False)
    first = run(table2, small_set, rows=['normal'], **tiny)
    store, whole, other = open_store(), first.attrs['parent'], psutil.Process(os.getppid())
    store.update_run(whole, status='RUNNING')
    theirs = dict(pid=other.pid, process_started=other.create_time())
    for name, value in theirs.items(): store.set_tag(whole, name, value)
    second = run(table2, small_set, rows=['MEI, Gradient Division'], **tiny)
    assert second.attrs['parent'] == whole and list(second.row) == ['normal', 'MEI, Gradient Division']
    now = store.get_run(whole)
    assert (now.info.status, now.data.tags['pid']) == ('RUNNING', str(other.pid)), 'the other one ends it'


def test_the_page_opens_on_the_newest_table(trained):
    from har_nb.experiments.results import newest_page
    whole = parent()
    place = newest_page()
    assert place.startswith(f'#/experiments/{whole.info.experiment_id}/runs?')
    assert place.endswith(f'workflowType=machine_learning&viewStateShareKey={whole.info.run_id}')
    kept = open_store().get_experiment(whole.info.experiment_id).tags[f'mlflow.sharedViewState.{whole.info.run_id}']
    view = json.loads(kept)
    assert whole.info.run_id in view['searchFilter'] and 'metrics.`test_acc_video`' in view['selectedColumns']
