"""How much of training validates, and what is chosen by it: a share, none, or, as a paper did it, the test list itself,
which is said to leak."""
from dataclasses import replace

import numpy as np
import pytest
from later import collecting

from har_nb.experiments.results import compare, readable

if not collecting:
    import torch
    from torch import nn

    from har_nb.experiments.tables import Job, SettingsError, row_key, run, splits
    from har_nb.experiments.training import Seen, Training
    from har_nb.learning.callbacks import StopAbove
    from har_nb.learning.learner import fit, make_learner
    from har_nb.learning.recipe import Make
    from har_nb.papers.dual_action import tables as dual_action
    from har_nb.papers.dual_stream_attention import tables as dual_stream
    from har_nb.papers.mei import tables as mei
    from har_nb.samples.store import Frame, decode_samples

TINY = dict(preset='demo', size=32, epochs=1, progress=False)


def test_a_share_of_training_validates_or_none_does(built_set):
    bare = replace(built_set, clips=built_set.clips.assign(split=built_set.clips.split.replace('valid', 'train')))
    half, none = splits(bare, validation=.7)[0], splits(bare, validation=0)[0]
    assert len(half.valid) > len(splits(bare, validation=.3)[0].valid) > 0
    assert len(none.valid) == 0 and none.digest == bare.digest, 'all of them are trained on'
    assert len(none.test) == len(half.test) == len(bare.test)
    with pytest.raises(SettingsError, match='between 0 and 1'): splits(bare, validation=1.5)


def test_the_share_is_asked_for_on_the_command_line(har, built_set):
    from har_nb.tools.cli import parser
    asked = parser().parse_args
    assert asked(['run', 'x', '--data', 'y']).validation is None
    assert [asked(['run', 'x', '--data', 'y', '--validation', word]).validation for word in ('0.2', 'none')] == [.2, 0.]
    shown = har('run', '--help')
    assert '--stop-above' in shown.out
    assert '--validation SHARE' in shown.out
    assert 'accuracy of validation' in ' '.join(shown.out.split())
    stopped = har('run', 'mei.table2', '--data', built_set.root, '--preset', 'demo', '--validation', 'none')
    assert stopped.code == 1 and 'chooses by validation when to stop' in stopped.err


def test_what_chooses_by_validation_says_so():
    assert mei.table2.chosen and dual_action.table1.chosen and not dual_stream.table1.chosen
    for table in (mei.table2, dual_action.table1, dual_stream.table1):
        assert table.validation == .3, 'keys of rows depend on it'


@pytest.fixture
def samples(small_set, tmp_path):
    return decode_samples(small_set, [Frame(10, 10)], 32, tmp_path, progress=False)[0][0]


def training(small_set, samples, tmp_path, **seen):
    job = Job(splits(small_set)[0], 0, samples, {}, cache=tmp_path)
    net = Make('har_nb.models.backbones:build',
               dict(backbone=Make('har_nb.models.backbones:small_resnet'), n_classes=8))
    return Training(job, net, seen=Seen(sample='image', **seen))


def test_by_the_papers_way_the_test_list_validates_and_all_else_is_trained_on(small_set, samples, tmp_path, tracking):
    usual, leaky = (training(small_set, samples, tmp_path, **how) for how in ({}, dict(validation='test')))
    part = usual.job.dataset
    def clips(loader): return set(np.unique(loader.dataset.clip))
    def of(*names): return set(np.flatnonzero(part.clips.split.isin(names)))
    assert (clips(usual.loaders().train), clips(usual.loaders().valid)) == (of('train'), of('valid'))
    assert (clips(leaky.loaders().train), clips(leaky.loaders().valid)) == (of('train', 'valid'), of('test'))
    assert clips(leaky.test()) == clips(usual.test()) == of('test'), 'and it is tested as ever'


def test_the_papers_table_is_named_and_called_leaky(small_set, tmp_path, tracking):
    table = mei.table2_as_printed
    result = run(table, small_set, rows=['normal'], stop_above=0.,
                 **{name: value for name, value in TINY.items() if name != 'epochs'}, cache=tmp_path)
    assert list(result.protocol) == ['paper'] and readable(result).row[0] == 'normal (leaky: stopped by the test clips)'
    own = result.run_ids[0][0]
    from har_nb.learning.explain import metric_history
    history = metric_history([own], ['acc_image', 'test_acc_image'])
    assert len(history[history.metric == 'acc_image']) == 1, 'stopped after its first epoch, by the test'
    assert history[history.metric == 'acc_image'].value.item() == pytest.approx(result.test_acc_image[0]/100, abs=1e-6)
    assert compare(table).attrs['decided'] == mei.AS_PRINTED and compare(table).attrs['leaky']


def test_the_new_settings_leave_keys_alone(small_set):
    "A setting that came later is not among those of a row."
    class Split: digest = 'the same'
    job = Job(Split(), 0, None, {})
    first, second = mei.table2.rows[0], mei.table2_as_printed.rows[0]
    assert 'validate_on' not in first.settings
    assert row_key(first, first.settings, job) != row_key(second, second.settings, job)


class Loaders:
    "Two images of two classes, told apart by anything."
    def __new__(cls):
        from fastai.data.core import DataLoaders
        from fastai.data.load import DataLoader
        data = [(torch.tensor([1., 0.]), torch.tensor(0)), (torch.tensor([0., 1.]), torch.tensor(1))]*4
        return DataLoaders(DataLoader(data, bs=4), DataLoader(data, bs=4), device='cpu')


def test_an_epoch_with_a_frozen_body_never_ends_a_fit():
    "Accuracy is above any bound from the first epoch on; the body must be trained all the same."
    torch.manual_seed(0)
    body, head = nn.Linear(2, 2), nn.Linear(2, 2)
    for layer in (body, head): nn.init.eye_(layer.weight); nn.init.zeros_(layer.bias)
    model, stop = nn.Sequential(body, head), StopAbove(.5)
    learn = make_learner(Loaders(), model, callbacks=[stop],
                         splitter=lambda model: [list(model[0].parameters()), list(model[1].parameters())])
    before = body.weight.detach().clone()
    fit(learn, epochs=5, lr=.1, freeze_epochs=2, progress=False)
    assert not torch.equal(body.weight, before), 'the body is trained'
    assert stop.stopped and len(learn.recorder.values) == 1, 'and the first epoch with the whole net ends it'


def test_where_nothing_is_chosen_a_row_trains_on_all_that_is_not_tested(built_set, tmp_path, tracking):
    bare = replace(built_set, clips=built_set.clips.assign(split=built_set.clips.split.replace('valid', 'train')))
    tiny = dict(preset='demo', size=48, n=4, width=1/16, every=1, epochs=1, batch_size=4, progress=False)
    result = run(dual_stream.table1, bare,
                 rows=['early fusion'], protocols=['official'], validation=0., cache=tmp_path, **tiny)
    from har_nb.learning.explain import metric_history
    from har_nb.learning.runs import load_table
    kept = load_table('split.parquet', result.run_ids[0][0])
    assert set(kept.split) == {'train', 'test'} and len(kept) == len(bare)
    assert result.attrs['asked']['validation'] == '0.0' or result.attrs['asked']['validation'] == '0'
    seen = set(metric_history([result.run_ids[0][0]], ['train_loss', 'acc_train', 'acc_video', 'valid_loss']).metric)
    assert 'train_loss' in seen and 'acc_video' not in seen, 'nothing is validated'
