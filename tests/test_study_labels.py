"Several labels a clip: `har study` finds each of them, and its run says how probable each is."
import json

import pandas as pd
import pytest
from later import collecting
from test_study import folder, weights  # noqa: F401

from har_nb.learning.runs import load_table, load_text

if not collecting:
    from test_study import small_resnet  # noqa: F401 -- what its fixtures need is there, too

    from har_nb.data.lists import open_dataset
    from har_nb.experiments import study as module
    from har_nb.experiments.several import labels_of
    from har_nb.learning.predictor import load_predictor
    from har_nb.learning.tracking import open_store


@pytest.fixture
def labelled(folder): # noqa: F811
    "Two labels of which a clip has one or both."
    table, first = pd.read_csv(folder/'index.csv'), None
    first, second, third = sorted(table.label.unique())
    names = {first: first, second: second, third: f'{first}; {second}'}
    table.assign(label=table.label.map(names)).to_csv(folder/'index.csv', index=False)
    return folder, [first, second]


@pytest.fixture
def few(monkeypatch):
    "Three candidates are enough here."
    every = module.candidates_of
    monkeypatch.setattr(module, 'candidates_of', lambda seen, heads: every(seen, heads)[1:4])


def test_labels_are_found_said_and_measured_again(har, labelled, weights, few, tmp_path): # noqa: F811
    root, names = labelled
    told, dataset = [], open_dataset(root, 'person')
    run = module.study(dataset, encoders=['small_resnet'], weights=[weights], size=48, cache=tmp_path, repeats=1,
                       unknown=True, said=told.append, files=False)
    told = '\n'.join(told)
    assert 'several labels a clip' in told and 'heads that read order' not in told
    board, table = load_table('candidates.csv', run), load_table('labels.csv', run)
    assert (board.candidate.iloc[0], board.candidate.iloc[-1]) == ('chosen', 'chance') and list(table.label) == names
    report = load_text('report.md', run)
    assert '**mAP' in report and 'macro F1' not in report and '## How sure' in report
    assert 'Labels' in load_text('report.html', run)
    logged = open_store().get_run(run).data
    assert logged.metrics['nested_mAP'] == pytest.approx(board.mAP[0])
    limits, about = json.loads(logged.tags['labels_above']), load_table('thresholds.csv', run)
    assert set(limits) == set(names) and about.above.tolist() == pytest.approx([limits[name] for name in names])
    assert list(load_table('left_out_labels.csv', run).label) == names # each stands alone on some clips
    assert labels_of(dataset)[1].sum(1).max() == 2
    said = load_predictor(run).predict(dataset.paths[0])
    assert said.classes == tuple(names) and ((said.video > 0) & (said.video < 1)).all()
    predicted = har('predict', dataset.paths[0], '--run', run, '--top', 1, '--json')
    assert predicted.code == 0
    shown = {row['class']: row['known'] for row in json.loads(predicted.out)['predictions']}
    above = {name for name, p in zip(names, said.video, strict=True) if p >= limits[name]}
    assert {name for name, known in shown.items() if known == 'yes'} == above
    assert above or set(shown.values()) == {'none of these'}
    again = har('rerun', run)
    assert again.code == 0, again.out + again.err
    refused = har('diagnose', run)
    assert refused.code == 1 and 'several labels' in refused.err


def test_a_test_of_several_labels_is_read_once(tracking, labelled, weights, few, monkeypatch, tmp_path): # noqa: F811
    root, names = labelled
    table = pd.read_csv(root/'index.csv')
    tested = sorted(table.person.unique())[:2]
    parts = table.person.isin(tested).map({True: 'test', False: 'train'})
    table.assign(split=parts, take=table.file).to_csv(root/'index.csv', index=False) # each clip by itself: six and six
    read, ours, dataset = [], module.said_of, open_dataset(root, 'take')
    monkeypatch.setattr(module, 'said_of', lambda *args: read.append(1) or ours(*args))
    monkeypatch.setattr(module, 'judged_classes', lambda dataset: (names, []))
    monkeypatch.setattr(module, 'judged_labels', lambda labels, groups: range(2))
    run = module.study(dataset, encoders=['small_resnet'], weights=[weights], size=48, cache=tmp_path, repeats=1,
                       files=False)
    logged = open_store().get_run(run).data.metrics
    assert len(read) == 1 and 'read once' in load_text('report.md', run)
    assert logged['test_low'] <= logged['test_mAP'] <= logged['test_high']
    said = load_table('predictions.parquet', run)
    assert sorted(said.path) == sorted(dataset.test.clips.path)
    place = dataset.clips.path.tolist().index(said.path[0])
    by_net = load_predictor(run).predict(dataset.paths[place])
    assert said[[f'p_{name}' for name in names]].iloc[0].tolist() == pytest.approx(by_net.video.tolist(), abs=1e-4)
