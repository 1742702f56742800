"Several labels a clip: `har study` finds each of them, and its run says how probable each is."
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


def test_labels_are_found_and_said(har, labelled, weights, monkeypatch): # noqa: F811
    root, names = labelled
    every = module.candidates_of
    monkeypatch.setattr(module, 'candidates_of', lambda seen, heads: every(seen, heads)[1:4])
    done = har('study', root, '--group', 'person', '--encoders', 'small_resnet', '--weights', weights, '--size', 48)
    assert done.code == 0, done.err
    assert 'several labels a clip' in done.err and '**mAP' in done.out
    run = done.out.partition('--run ')[2].split(';')[0]
    board, table = load_table('candidates.csv', run), load_table('labels.csv', run)
    assert (board.candidate.iloc[0], board.candidate.iloc[-1]) == ('chosen', 'chance') and list(table.label) == names
    assert 'macro F1' not in load_text('report.md', run) and 'Labels' in load_text('report.html', run)
    assert open_store().get_run(run).data.metrics['nested_mAP'] == pytest.approx(board.mAP[0])
    dataset = open_dataset(root, 'person')
    assert labels_of(dataset)[1].sum(1).max() == 2
    said = load_predictor(run).predict(dataset.paths[0])
    assert said.classes == tuple(names) and ((said.video > 0) & (said.video < 1)).all()
    assert har('predict', dataset.paths[0], '--run', run).code == 0
    refused = har('study', root, '--group', 'person', '--encoders', 'small_resnet', '--weights', weights, '--size', 48,
                  '--unknown')
    assert refused.code == 1 and '--unknown is for one class a clip' in refused.err
