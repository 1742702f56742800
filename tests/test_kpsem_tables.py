"""Tables of key point shifts: every row there is, one trained end to end, stopped and gone on with, used again;
pictures of what it saw; distances that can be worked out by hand."""
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from later import collecting, parametrize
from matplotlib import pyplot as plt

from har_nb.data.synthetic import ORDER_PAIRS
from har_nb.experiments.results import NotRun, paired, readable
from har_nb.learning.runs import load_table, runs_table, tracked_run
from har_nb.samples.samplers import OneClip, SpreadClips
from har_nb.samples.store import decode_samples

if not collecting:
    import torch

    import har_nb.experiments.training as T
    import har_nb.papers.kpsem.figures as F
    import har_nb.papers.kpsem.tables as K
    from har_nb.experiments.tables import Job, RowsFailed, SettingsError, call_row, mean_of_splits, run, settings_of
    from har_nb.learning.callbacks import EpochCallback
    from har_nb.learning.predictor import load_predictor
    from har_nb.learning.recipe import Make
    from har_nb.models.kpsem import WithKPSEM, with_kpsem
    from har_nb.models.mfnet import mfnet

NARROW = dict(width=12, groups=2, blocks=(1, 1, 1, 1))
if not collecting:
    TINY = dict(preset='demo', size=32, n=6, interval=8, clips=2, epochs=2,
                mfnet=Make('har_nb.models.mfnet:mfnet', NARROW), progress=False)
    TABLES = (*K.TABLES1, *K.TABLES2, *K.FIGURE5, K.left_open)


@pytest.fixture(scope='module')
def sports(small_set): return small_set


@pytest.fixture(scope='module')
def stored(sports, tmp_path_factory):
    (samples,), _ = decode_samples(sports, [K.every_frame({})], 32, tmp_path_factory.mktemp('cache'), progress=False)
    return samples


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


def holding(kind, settings):
    return kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})
def net_of(settings, n_classes, size):
    return K.clip_net(holding(K.ClipNet, settings), n_classes, size, holding(K.Module, settings))


made = set() # descriptions, over all tables: most of their rows are the same nets


@parametrize('table',
             ['kpsem.table1', 'kpsem.table1_ucf101', 'kpsem.table1_hmdb51', 'kpsem.table1_something', 'kpsem.table2a',
              'kpsem.table2b', 'kpsem.table2c', 'kpsem.table2d', 'kpsem.figure5a', 'kpsem.figure5b', 'kpsem.figure5c',
              'kpsem.figure5d', 'kpsem.left_open'], lambda: TABLES)
def test_every_row_of_every_preset_can_be_made(table):
    for preset in table.presets:
        shared = settings_of(table, preset)
        for row in table.rows:
            s = shared | row.settings
            described = net_of(s, 7, (s['n'], s['size'], s['size']))
            if str(described) in made: continue # the same net under another name
            with torch.device('meta'): model = described.build()
            made.add(str(described))
            assert isinstance(model, WithKPSEM) == s.get('kpsem', True), row.name
            assert model.head.out_features == 7
    assert len({row.name for row in table.rows}) == len(table.rows)
    assert {'paper', 'multifiber', 'small', 'demo'} == set(table.presets)


def test_printed_numbers():
    printed = {table.name: {row.name: row.printed for row in table.rows} for table in TABLES}
    assert printed['kpsem.table2a'] == {'MFNet': 70.8, 'MF-KPSEM': 74.0, 'single key point': 72.1}
    for letter, name, value in (
        ('b', 'fixed regions', 72.5),
        ('c', 'one set', 72.4),
        ('d', 'R3D', 62.0),
        ('d', 'R3D-KPSEM', 65.8),
    ):
        assert printed[f'kpsem.table2{letter}'][name] == value
    assert len(K.LITERATURE) == 19
    assert K.LITERATURE.iloc[-1].tolist()[1:] == ['MF-KPSEM', 82.05, 97.4, 48.1, 77.7, 8.11, 11.21]
    assert {row.settings['regions'] for row in K.figure5b.rows[1:]} == {1, 4, 9, 16}
    assert {row.settings['sets'] for row in K.figure5c.rows[1:]} == {1, 2, 4, 8, 16}
    assert {row.settings['stage'] for row in K.figure5a.rows[1:]} == {'conv2', 'conv3', 'conv4', 'conv5'}
    assert all(any('test clips' in why for _, _, why in table.decided) for table in TABLES)


@parametrize(
    'asked, message',
    ["asked0-no stage 'conv9'", 'asked1-two frames or more', 'asked2-5 regions', 'asked3-clips is at least 1',
     'asked4-at_once', 'asked5-no such file', 'asked6-multiple of 12', 'asked7-no setting backbone'],
    lambda: [
        (dict(stage='conv9'), "no stage 'conv9'"),
        (dict(n=2), 'two frames or more'),
        (dict(regions=5), '5 regions'),
        (dict(clips=0), 'clips is at least 1'),
        (dict(at_once=0), 'at_once'),
        (dict(weights='missing.pth'), 'no such file'),
        (dict(mfnet=Make('har_nb.models.mfnet:mfnet', dict(width=32))), 'multiple of 12'),
        (dict(backbone='x'), 'no setting backbone'),
    ],
)
def test_wrong_settings_are_known_before_anything_is_decoded(sports, tmp_path, asked, message):
    with pytest.raises(SettingsError, match=message): run(K.table2a, sports, cache=tmp_path/'cache', **TINY | asked)
    assert not (tmp_path/'cache').exists()


def test_weights_of_another_net_are_named(tmp_path):
    torch.save(mfnet(num_classes=5, **NARROW).state_dict(), tmp_path/'net.pth')
    settings = settings_of(K.table2a, 'demo', weights=tmp_path/'net.pth', mfnet=TINY['mfnet'])
    net = net_of(settings | dict(kpsem=False), 8, None).build(tmp_path/'net.pth')
    assert net.head.out_features == 8 and net.weights.mean[0] == pytest.approx(124/255)
    shifted = net_of(settings, 8, (6, 32, 32)).build(tmp_path/'net.pth')
    assert torch.equal(shifted.net.tail.norm.weight, net.tail.norm.weight) and shifted.weights == net.weights
    with pytest.raises(SettingsError, match='another net|other shapes'):
        settings_of(K.table2a, 'demo', weights=tmp_path/'net.pth')


def test_rows_end_to_end_and_their_figures(sports, tmp_path, tracking):
    result = run(K.table2b, sports, pairs=ORDER_PAIRS, cache=tmp_path/'cache', **TINY).set_index('row')
    assert result.index.tolist() == ['MFNet', 'MF-KPSEM', 'fixed regions']
    assert result.parameters['MF-KPSEM'] > result.parameters['fixed regions']
    assert result.parameters['fixed regions'] > result.parameters['MFNet']
    assert {'clip', 'video', 'order pairs', 'GFLOPs', 'ms'} <= set(readable(result.reset_index()).columns)
    samples = load_table('samples.parquet', result.run_ids['MF-KPSEM'][0])
    assert samples['clip'].value_counts().tolist() == [2]*len(sports.test)
    predictor = load_predictor(result.run_ids['MF-KPSEM'][0])
    said = load_table('predictions.parquet', result.run_ids['MF-KPSEM'][0])
    assert isinstance(predictor.model, WithKPSEM) and predictor.modality.sampler == SpreadClips(2, 6, 8)
    one = predictor.predict(sports.root/said.path[0])
    np.testing.assert_allclose(one.video, said[[f'p_{name}' for name in sports.classes]].iloc[0], atol=1e-5)

    taken = run(K.figure5b, sports, rows=['K = 4', 'MFNet'], cache=tmp_path/'cache', **TINY).set_index('row')
    assert taken.test_acc_video['K = 4'] == result.test_acc_video['MF-KPSEM']
    assert runs_table('kpsem.figure5b')['tags.reused_from'].notna().sum() == 2
    with pytest.raises(NotRun, match='no finished run'): F.both(K.figure5b, 'K = 1', 'MFNet')

    pairs = F.both(K.table2b, 'MF-KPSEM', 'MFNet')
    gained = F.gains(pairs)
    assert set(gained['class']) == set(sports.classes)
    assert (gained.accuracy - gained.baseline - gained.difference).abs().max() < 1e-12
    assert (100*gained.difference*gained['count']).sum()/len(sports.test) == pytest.approx(
        paired(K.table2b, 'MF-KPSEM', 'MFNet').difference.iloc[-1]
    )
    for turned in (False, True):
        found = F.examples(pairs[0], turned=turned)
        right = [table.set_index('path').predicted[found.path] == table.set_index('path').label[found.path]
                 for table in pairs[0]]
        assert right[turned].all() and not right[not turned].any()
        if len(found): assert len(F.plot_examples(found, sports.root).axes) == len(found)
    nets = {name: load_predictor(result.run_ids[name][0]).model for name in ('MFNet', 'MF-KPSEM', 'fixed regions')}
    pictures, clip, joints = F.known_clip('StarJump', 3, OneClip(6, 8), 32)
    assert len(F.strips({name: nets[name] for name in ('MFNet', 'MF-KPSEM')}, clip, pictures, stage='conv3').axes) == 8
    assert len(F.key_points(nets['MF-KPSEM'], clip, pictures, frames=2).axes) == 4
    clips = [(person, *F.known_clip(action, person, OneClip(6, 8), 32))
             for person in (3, 4)
             for action in ('StarJump', 'ClimbUp')]
    told = F.summary(F.distances({name: nets[name] for name in ('MF-KPSEM', 'fixed regions')}, clips, k=4))
    assert told.index.tolist() == ['MF-KPSEM', 'MF-KPSEM, another clip', 'fixed regions',
                                   'fixed regions, another clip', 'random']
    assert (told.low <= told.distance).all()
    assert (told.distance <= told.high).all()
    assert (told.clips == 4).all()


def test_r3d_cannot_tell_a_movement_from_its_reversal_and_its_key_points_can():
    rows = {row.name: K.DEMO | row.settings for row in K.table2d.rows if 'R3D' in row.name}
    for name, s in rows.items():
        torch.manual_seed(0)
        net = net_of(s, 8, (6, 32, 32)).build()
        clip = torch.randn(2, 3, 6, 32, 32, dtype=torch.float64)
        with torch.no_grad(): apart = (net.double().eval()(clip) - net(clip.flip(2))).abs().max()
        assert (apart < 1e-9) == (name == 'R3D')


if not collecting:
    class Stop(EpochCallback):
        order = 70
        def trained_epoch(self, measured):
            if self.epoch == 1: raise KeyboardInterrupt


def trained(sports, stored, checkpoint=None, **settings):
    tiny = {k: v for k, v in TINY.items() if k not in ('preset', 'progress')}
    asked = tiny | dict(stage='conv3', epochs=3, batch_size=8, at_once=3, lr=.02, sets=2) | settings
    with tracked_run('row', 'kpsem.test'):
        return call_row(K.train_clips, Job(sports.carve_validation(.3), 0, stored, {}, checkpoint), asked)


def test_a_fit_that_was_stopped_ends_where_an_undisturbed_one_does(sports, stored, tmp_path, tracking, monkeypatch):
    whole, learner = trained(sports, stored), T.make_learner
    def stopping(loaders, model, metrics, callbacks, **options):
        return learner(loaders, model, metrics, [*callbacks, Stop()], **options)
    with monkeypatch.context() as patched:
        patched.setattr(T, 'make_learner', stopping)
        with pytest.raises(KeyboardInterrupt): trained(sports, stored, tmp_path/'state.pth')
    assert (tmp_path/'state.pth').exists()
    again = trained(sports, stored, tmp_path/'state.pth')
    np.testing.assert_array_equal(again.probabilities, whole.probabilities)
    assert again.metrics['epochs'] == 3 and not (tmp_path/'state.pth').exists()


def test_settings_of_training_reach_the_learner(sports, stored, tracking, monkeypatch):
    seen, learner = [], T.make_learner
    def keep(loaders, *arguments, **options):
        seen.append((loaders, learner(loaders, *arguments, **options)))
        return seen[-1][1]
    monkeypatch.setattr(T, 'make_learner', keep)
    trained(sports, stored, epochs=1, lr=.004, momentum=.8, weight_decay=.003, zoom=.5, flip=False)
    loaders, learn = seen[0]
    assert (learn.opt.hypers[0]['mom'], learn.opt.hypers[0]['wd']) == (.8, .003)
    assert set(learn.recorder.lrs)
    assert max(learn.recorder.lrs) <= .004
    assert loaders.train.bs == 3 and any(isinstance(cb, T.Accumulate) and cb.n_acc == 8 for cb in learn.cbs)
    names = [type(transform).__name__ for transform in loaders.train.after_batch.fs]
    assert 'RandomZoom' in names and 'RandomFlip' not in names
    assert loaders.train.dataset.choice == OneClip(6, 8)
    assert len(loaders.valid.dataset) == len(sports.carve_validation(.3).valid)


class Optimised(Exception):
    "An optimiser was made, and that is all that was asked."


def test_weight_decay_is_that_of_torchs_sgd_where_a_table_says_so(sports, stored, tracking, monkeypatch):
    "Runs from before that do not know the setting are trained as they were."
    seen, sgd = [], K.fused_sgd
    def keep(*arguments, **options):
        seen.append(sgd(*arguments, **options))
        raise Optimised
    monkeypatch.setattr(K, 'fused_sgd', keep)
    for asked in ({}, dict(coupled=True)):
        with pytest.raises(Optimised): trained(sports, stored, epochs=1, **asked)
    assert [optimizer.hypers[0]['decouple_wd'] for optimizer in seen] == [True, False]
    assert all((table.settings | preset)['coupled'] for table in TABLES for preset in table.presets.values())


def test_ten_clips_are_spread_and_averaged(sports, stored, tracking):
    said = trained(sports, stored, epochs=1, clips=10, n=4, interval=3)
    assert np.bincount(said.clip)[said.clip].tolist() == [10]*10*len(sports.test)
    assert np.allclose(said.probabilities.sum(1), 1, atol=1e-5)
    frames = SpreadClips(10, 4, 3)(75)
    assert frames.shape == (10, 4)
    assert frames[0, 0] == 0
    assert frames[-1, -1] == 74
    assert (np.diff(frames, axis=1) == 3).all()
    assert (np.diff(frames[:, 0]) > 0).all()
    few = SpreadClips(10, 4, 3)(7)
    assert few.shape == (10, 4) and few.max() <= 6


@pytest.mark.slow
def test_the_mean_of_three_splits(sports, tmp_path, tracking):
    parts = [sports.holdout(.3, seed=seed) for seed in range(3)]
    once = TINY | dict(epochs=1)
    results = {number: run(K.table1_hmdb51, part, rows=['MFNet'], cache=tmp_path/'cache', **once)
               for number, part in enumerate(parts, 1)}
    one = mean_of_splits(K.table1_hmdb51, results)
    line = one.loc['MFNet']
    assert line.printed == 74.6
    assert line.runs == 3
    assert line['mean'] == pytest.approx(np.mean([line[f'split {i}'] for i in (1, 2, 3)]))
    assert line.lowest <= line['mean'] <= line.highest


def test_a_row_that_cannot_be_made_fails_alone(sports, tmp_path, tracking):
    broken = replace(K.table2b,
                     name='kpsem.broken', rows=(K.row('behind nothing', stage='head'), K.row('MFNet', kpsem=False)))
    with pytest.raises(RowsFailed, match='shifts need B C T H W'):
        run(broken, sports, cache=tmp_path/'cache', **TINY | dict(epochs=1))
    assert dict(runs_table('kpsem.broken').query("`tags.kind` == 'row'").set_index('tags.row').status) == {
        'behind nothing': 'FAILED', 'MFNet': 'FINISHED'
    }


@pytest.mark.slow
def test_frames_kept_as_jpeg_give_the_same_numbers_again(sports, tmp_path, tracking):
    (samples,), _ = decode_samples(sports, [K.every_frame({})], 32, tmp_path, progress=False, limit=0)
    with tracked_run('row', 'kpsem.test') as run_id:
        said = call_row(K.train_clips, Job(sports.carve_validation(.3), 0, samples, {}),
                        dict(stage='conv3') | TINY | dict(epochs=1))
    again = load_predictor(run_id).predict(sports.paths[said.clip[0]])
    np.testing.assert_allclose(again.samples, said.probabilities[said.clip == said.clip[0]], atol=1e-5)


def test_regions_without_a_cell_have_no_key_points():
    net = with_kpsem(mfnet(num_classes=2, **NARROW), 'conv3',
                     size=(6, 32, 32), regions=16, sets=2, adaptive=False, spread=0.).eval()
    net.kpsem.extract.start.fill_(-.5)
    places, shifts, frames = F.drawn_points(net, torch.randn(3, 6, 32, 32), (56, 72), k=None)
    assert np.isnan(places).any() and not np.isnan(places).all() and (np.isnan(places) == np.isnan(shifts)).all()
    assert places[~np.isnan(places)].min() >= 0 and np.nanmax(places[..., 0]) <= 71 and np.nanmax(places[..., 1]) <= 55
    distance, _ = F.to_moving_joints(places, shifts, np.cumsum(np.full((3, 4, 2), 5.), 0))
    assert distance > 0


def test_distances_are_those_of_the_nearest_joint_that_moves():
    joints = np.zeros((3, 2, 2)); joints[:, 0] = 100; joints[1:, 1] = [0, 2]
    positions = np.array([[[3., 4.]], [[90., 90.]]])
    directions = np.array([[[0., 5.]], [[1., 1.]]])
    assert F.to_moving_joints(positions, directions, joints) == pytest.approx((5., 1.))
    assert F.to_moving_joints(np.array([[[3., 4.]], [[90., 90.]]]), None, joints)[0] == pytest.approx(5.)
    table = pd.DataFrame([dict(clip=clip, group=clip//2, positions=name, distance=distance + clip, direction=np.nan)
                          for clip in range(6)
                          for name, distance in (('net', 3.), ('random', 9.))])
    told = F.summary(table)
    assert told.loc['net', 'difference'] == -6
    assert told.loc['net', 'from'] == told.loc['net', 'to'] == -6
    assert np.isnan(told.loc['net', 'direction'])


def test_settings_that_came_later_are_unseen_where_neutral():
    "Neither the settings of a run, nor the description of its net, know of them then."
    before = settings_of(K.table2a, 'demo')
    assert settings_of(K.table2a, 'demo', **K.LATER) == before and not set(K.LATER) & set(before)
    assert not set(K.LATER) & set(K.clip_net(K.ClipNet(), 8).arguments)
    asked = settings_of(K.table2a, 'demo', activation='har_nb.models.kpsem:relu', ends='repeated', drop=1)
    assert set(asked) - set(before) == {'activation', 'ends', 'drop'}
    for wrong in (dict(activation='har_nb.models.kpsem:nothing'), dict(ends='mirrored'), dict(drop=9)):
        with pytest.raises(SettingsError): settings_of(K.table2a, 'demo', **wrong)
