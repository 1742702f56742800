"Uneven classes: every trained table takes their settings, no key sees neutral ones, and they reach the fit."
import numpy as np
import pytest
from later import collecting

if not collecting:
    from har_nb.experiments.tables import Job, SettingsError, came_later, row_key, settings_of
    from har_nb.experiments.training import Fitting, Seen, Training
    from har_nb.learning.recipe import Make
    from har_nb.learning.runs import runs_table, tracked_run
    from har_nb.learning.uneven import FocalLoss
    from har_nb.models.backbones import head_name
    from har_nb.papers.dual_action.tables import table1 as dual_action
    from har_nb.papers.dual_stream_attention.tables import table1 as attention
    from har_nb.papers.kpsem.tables import table2a as kpsem
    from har_nb.papers.mei.tables import table2 as mei
    from har_nb.papers.transnet.tables import table2 as transnet
    from har_nb.samples.store import Frame, decode_samples

    NEUTRAL = dict(focal_gamma=0., class_weights=0., balanced_sampling=False)
    ASKED = dict(focal_gamma=2, class_weights=.999)


class Split: digest = 'the same'


def test_every_trained_table_takes_them_and_no_key_sees_them_where_they_are_neutral():
    job = Job(Split(), 0, None, {})
    for table in (mei, transnet, attention, kpsem, dual_action):
        plain = settings_of(table, 'demo')
        assert came_later(table.rows) == NEUTRAL and not set(NEUTRAL) & set(plain), table.name
        assert settings_of(table, 'demo', **NEUTRAL) == plain
        asked = settings_of(table, 'demo', **ASKED)
        assert set(asked) - set(plain) == set(ASKED)
        row = table.rows[0]
        assert row_key(row, plain | row.settings, job) != row_key(row, asked | row.settings, job)


@pytest.mark.parametrize('wrong, why', [
    (dict(focal_gamma=-1), 'at least 0'), (dict(class_weights=2), 'between 0 and 1'),
    (dict(class_weights=1, balanced_sampling=True), 'count twice'), (dict(focal_gama=2), 'no setting focal_gama'),
])
def test_what_cannot_be_is_said_before_anything_is_decoded(wrong, why):
    with pytest.raises(SettingsError, match=why): settings_of(mei, 'demo', **wrong)


def test_from_the_command_line_to_the_run_and_once_more(har, small_set):
    done = har('run', 'mei.table2', '--data', small_set.root, '--preset', 'demo', '--rows', 'normal', '--epochs', 1,
               '--size', 32, '--set', 'focal_gamma=2', '--set', 'balanced_sampling=True')
    assert done.code == 0, done.err
    assert 'focal_gamma' in done.out and 'balanced_sampling' in done.out
    run = runs_table('mei.table2', "tags.kind = 'row'").iloc[0]
    assert (run['params.focal_gamma'], run['params.balanced_sampling']) == ('2', 'True')
    again = har('rerun', run.run_id)
    assert again.code == 0, again.err


def test_both_ways_of_fitting_use_them(small_set, tmp_path, tracking):
    part = small_set.carve_validation(.3)
    (stored,), _ = decode_samples(part, [Frame(10, 10)], 32, tmp_path/'cache', progress=False)
    net = Make('har_nb.models.backbones:small_resnet', dict(num_classes=len(part.classes), width=8))

    def fitted(way, **how):
        fitting = Fitting(epochs=1, lr=1e-2, **how)
        with tracked_run('a row', 'toy'):
            return way(Training(Job(part, 0, stored, {}), net, fitting, seen=Seen(sample='image')))

    def whole(training): return training.fit()
    def phases(training):
        return training.fit_in_two_phases(training.model.get_submodule(head_name(training.model)))
    for way in (whole, phases):
        learn = fitted(way, class_weights=1, focal_gamma=.5)
        counts = np.bincount(learn.dls.train.dataset.labels)
        assert isinstance(learn.loss_func, FocalLoss) and learn.loss_func.gamma == .5
        np.testing.assert_allclose(learn.loss_func.weights*counts, counts.mean(), rtol=1e-5)
        learn = fitted(way, balanced_sampling=True)
        assert not isinstance(learn.loss_func, FocalLoss)
        assert np.ptp(np.bincount(np.concatenate([y for _, y in learn.dls.train]))) <= 1
