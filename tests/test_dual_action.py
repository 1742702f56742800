"""Dual-action Stream: published checkpoints of ResNeXt-101, losses against plain sums, memory of Gram matrices,
teachers that never change, tables with every printed number, and rows end to end."""
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from later import collecting, parametrize

from har_nb.data.synthetic import build
from har_nb.experiments.results import readable
from har_nb.learning.runs import load_table, runs_table
from har_nb.learning.tracking import open_store

if not collecting:
    import torch
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.optimizer import SGD
    from torch import nn
    from torch.utils._python_dispatch import TorchDispatchMode

    import har_nb.papers.dual_action.tables as D
    import har_nb.papers.dual_action.training as S
    from har_nb.experiments.tables import SettingsError, run, settings_of
    from har_nb.learning.callbacks import EpochCallback
    from har_nb.learning.distill import Distill, freeze, halves
    from har_nb.learning.predictor import load_predictor
    from har_nb.learning.recipe import Make
    from har_nb.models.backbones import WeightsError
    from har_nb.models.cost import count_parameters
    from har_nb.models.dual_action import (
        LEVELS,
        MARS,
        AttentionFusion,
        DualAction,
        Student,
        Taps,
        attended,
        feature_shapes,
        fit_fusion,
        gram,
        gram_loss,
        level_loss,
        mimic_loss,
        weights_by_class,
    )
    from har_nb.models.resnext3d import INPUTS, load_published, resnext3d
    from har_nb.samples.loaders import RandomFlip
    from har_nb.samples.pairs import TensorFlowPair

NARROW = dict(width=4, layers=(1, 1, 1, 1), cardinality=2)


def narrow(num_classes=3, **settings):
    torch.manual_seed(0)
    return resnext3d(num_classes=num_classes, **NARROW | settings)


def published_shapes(n_classes=400, channels=3):
    "Names and shapes as in the files of 3D-ResNets-PyTorch and MARS, written from their description, not from our net."
    norm = lambda name, n: {f'{name}.{part}': (n,) for part in ('weight', 'bias', 'running_mean', 'running_var')}
    shapes, n_in = {'conv1.weight': (64, channels, 7, 7, 7)} | norm('bn1', 64), 64
    for stage, (middle, blocks) in enumerate(((128, 3), (256, 4), (512, 23), (1024, 3)), 1):
        for block in range(blocks):
            at = f'layer{stage}.{block}'
            shapes |= {
                f'{at}.conv1.weight': (middle, n_in, 1, 1, 1),
                f'{at}.conv2.weight': (middle, middle//32, 3, 3, 3),
                f'{at}.conv3.weight': (2*middle, middle, 1, 1, 1),
            }
            shapes |= norm(f'{at}.bn1', middle) | norm(f'{at}.bn2', middle) | norm(f'{at}.bn3', 2*middle)
            if block == 0:
                shapes |= {f'{at}.downsample.0.weight': (2*middle, n_in, 1, 1, 1)}
                shapes |= norm(f'{at}.downsample.1', 2*middle)
            n_in = 2*middle
    return shapes | {'fc.weight': (n_classes, 2048), 'fc.bias': (n_classes,)}


@pytest.mark.parametrize('n_classes, channels, prefix, parameters',
                         [(400, 3, 'module.', 48_340_816), (51, 2, '', 47_603_763)])
def test_every_published_name_and_shape_has_its_place(tmp_path, n_classes, channels, prefix, parameters):
    state = {prefix + name: torch.tensor(float(i)).expand(shape)
             for i, (name, shape) in enumerate(published_shapes(n_classes, channels).items())}
    torch.save(dict(epoch=400, arch='resnext-101', state_dict=state, optimizer=dict(lr=.1)), tmp_path/'net.pth')
    with torch.device('meta'): net = resnext3d(num_classes=n_classes, channels=channels)
    net = load_published(net.to_empty(device='cpu'), tmp_path/'net.pth')
    loaded = net.state_dict()
    assert count_parameters(net) == parameters == sum(
        value.numel() for name, value in state.items() if 'running' not in name
    )
    for name, value in state.items(): assert torch.equal(loaded[name.removeprefix('module.')], value), name
    assert net.weights == INPUTS[channels]
    assert {name for name in loaded if not name.endswith('num_batches_tracked')} == {
        name.removeprefix('module.') for name in state
    }


def test_files_that_do_not_fit_are_named_and_nothing_is_loaded(tmp_path):
    file, net = tmp_path/'theirs.pth', narrow()
    fresh = {name: value.clone() for name, value in net.state_dict().items()}
    def saved(content): torch.save(content, file); return file
    state = {f'module.{name}': value + 1 for name, value in narrow().state_dict().items()}
    cases = [
        ({name: value for name, value in state.items() if 'layer3' not in name}, 'names missing'),
        (state | {'module.extra': torch.ones(1)}, '1 unexpected'),
        (dict(narrow(channels=2).state_dict()), 'pass channels=2'),
        (dict(narrow(7).state_dict()), 'Pass head=False'),
        (dict(narrow(width=8).state_dict()), 'another width'),
        ({}, 'holds no state dict'),
        (dict(epoch=3), 'holds no state dict'),
    ]
    for content, message in cases:
        with pytest.raises(WeightsError, match=message) as error: load_published(net, saved(content))
        assert str(file) in str(error.value)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match='Is the download complete'): load_published(net, file)
    assert all(torch.equal(value, fresh[name]) for name, value in net.state_dict().items())
    load_published(net, saved(dict(state_dict=dict(narrow(7).state_dict()))), head=False)
    assert torch.equal(net.fc.weight, fresh['fc.weight'])
    assert not torch.equal(resnext3d(file, 7, **NARROW).fc.weight, net.fc.weight[:1])


@pytest.mark.parametrize('size', [(16, 32, 32), (64, 16, 16), (7, 33, 47), (1, 16, 16)])
def test_any_length_and_size(size):
    net = narrow().eval()
    half = lambda n, times: n if times == 0 else half(-(-n//2), times - 1)
    with torch.no_grad(): assert net(torch.randn(1, 3, *size)).shape == (1, 3)
    assert feature_shapes(net, ['layer4'], torch.randn(1, 3, *size))['layer4'] == (
        128, half(size[0], 4), half(size[1], 5), half(size[2], 5)
    )


def some_levels(seed=0, dtype=None):
    dtype = dtype or torch.float64
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, *shape, generator=draw, dtype=torch.float64).to(dtype)
            for name, shape in dict(a=(5, 2, 3, 4), b=(2, 1, 1, 1), c=(6,)).items()}


def test_losses_are_the_sums_of_the_equations():
    x, y, n = some_levels(1), some_levels(2), 3
    mae = grams = 0.
    for b in range(3):
        for name in x:
            p, q = (np.asarray(levels[name][b]).reshape(levels[name].shape[1], -1) for levels in (x, y))
            mae += np.abs(p - q).sum()/p.size/n/3
            for i in range(len(p)):
                for j in range(len(p)): grams += abs(sum(p[i]*p[j]) - sum(q[i]*q[j]))/(n*p.size)/3
    assert level_loss(x, y).item() == pytest.approx(mae, rel=1e-12)
    assert gram_loss(x, y).item() == pytest.approx(grams, rel=1e-12)
    c = (x['c'] - y['c']).numpy()
    assert mimic_loss(x['c'], y['c']).item() == pytest.approx((c*c).mean(), rel=1e-12)
    assert mimic_loss(x['c'], y['c'], 'norm').item() == pytest.approx(np.sqrt((c*c).sum(1)).mean(), rel=1e-12)
    assert DualAction(levels=tuple(x))(x, y) == dict(mae=level_loss(x, y), gram=gram_loss(x, y))
    assert MARS(('c',))(x, y) == dict(mse=mimic_loss(x['c'], y['c']))
    both = DualAction(levels=tuple(x), mse=True, reduction='norm')(x, y)
    assert both['mse_last'] == mimic_loss(x['c'], y['c'], 'norm')
    assert both['mae'] == level_loss(x, y, reduction='norm')
    assert both['gram'] == gram_loss(x, y)
    assert 'mse_last' not in DualAction(levels=tuple(x))(x, y)
    assert all(value == 0
               for asked in (DualAction(), DualAction(squared=True, scale='mean', reduction='sum'), MARS(('c',)))
               for value in asked(x, x).values())


@parametrize('dtype', ['dtype0', 'dtype1', 'dtype2'], lambda: [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_numbers_are_widened_before_they_are_summed(dtype):
    x, y = some_levels(1, dtype), some_levels(2, dtype)
    wide = [{name: value.double() for name, value in levels.items()} for levels in (x, y)]
    for loss in (level_loss, gram_loss):
        assert loss(x, y).dtype == torch.float32
        torch.testing.assert_close(loss(x, y).double(), loss(*wide), rtol=1e-5, atol=1e-6)


def test_gram_matrices_need_no_more_than_themselves():
    class Largest(TorchDispatchMode):
        numbers = 0
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor): self.numbers = max(self.numbers, out.numel())
            return out
    few, many = {'a': torch.randn(2, 6, 8, 16, 16)}, {'a': torch.randn(2, 64, 1, 1, 1)}
    for levels, bound in ((few, few['a'].numel()), (many, 2*64*64)):
        with Largest() as largest: gram_loss(levels, {'a': levels['a'] + 1})
        assert largest.numbers <= bound
    assert gram(many['a']).shape == (2, 64, 64)


def test_gradients_of_the_losses():
    torch.manual_seed(0)
    x, y = (torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=wanted) for wanted in (True, False))
    assert torch.autograd.gradcheck(lambda x: gram_loss({'a': x}, {'a': y}), x)
    assert torch.autograd.gradcheck(lambda x: level_loss({'a': x}, {'a': y}), x)
    assert torch.autograd.gradcheck(lambda x: mimic_loss(x, y, 'norm'), x)


def test_taps_leave_nothing_behind_even_after_a_fault():
    net, seen = narrow(), []
    with pytest.raises(ZeroDivisionError), Taps(net, ['layer1', 'layer2.0.conv2']) as taps:
        net(torch.randn(2, 3, 8, 32, 32)); seen.append(taps.features())
        raise ZeroDivisionError
    assert seen[0]['layer2.0.conv2'].shape == (2, 16, 2, 4, 4)
    assert not any(module._forward_hooks for module in net.modules())
    for level in ('', 'layer5', 'conv'):
        with pytest.raises(ValueError, match='has no module'): Taps(net, [level])


def test_projections_speak_for_levels_with_other_channels():
    small, levels = narrow(width=2), ('layer1', 'layer2.0', 'flatten')
    clip = torch.randn(2, 3, 8, 32, 32)
    own, its = feature_shapes(small, levels, clip[:1]), feature_shapes(narrow(channels=2), levels, clip[:1, :2])
    learner = Student(small, own, its)
    with Taps(small, levels) as taps:
        out = learner(clip)
        projected = learner.project(taps.features())
    assert {name: tuple(value.shape[1:]) for name, value in projected.items()} == its and out.shape == (2, 3)
    assert len(learner.projections) == 3 and not Student(small, own, own).projections
    with pytest.raises(ValueError, match='layer1'): Student(small, own, its | dict(layer1=(16, 9, 4, 4)))


def test_fusion_begins_as_the_average_and_trains_only_itself():
    draw = np.random.default_rng(0)
    streams = [draw.dirichlet([1]*5, 60).astype(np.float32) for _ in range(2)]
    labels = np.arange(60) % 5
    fresh = AttentionFusion(5)
    one, other = (torch.from_numpy(p) for p in streams)
    torch.testing.assert_close(fresh(one, other), (one + other)/2)
    fusion, again = (fit_fusion(streams, labels, steps=20, seed=3) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(fusion.parameters(), again.parameters(), strict=True))
    state = {name: value.tolist() for name, value in fusion.state_dict().items()}
    np.testing.assert_allclose(attended(streams, state), fusion(one, other).detach(), rtol=1e-5)
    table = weights_by_class(fusion, streams, labels[:60], list('abcde'), ('x', 'y'))
    np.testing.assert_allclose(table.x + table.y, 1, rtol=1e-5)
    assert table.clips.tolist() == [12]*5 and (fusion.weights(one, other) >= 0).all()


def pairs(n=6):
    draw = torch.Generator().manual_seed(0)
    data = [(torch.randn(5, 4, 16, 16, generator=draw), i % 3) for i in range(n)]
    return DataLoaders(*[DataLoader(data, bs=3)]*2, device='cpu')


@parametrize(
    'asked',
    ['asked0', 'asked1', 'asked2'],
    lambda: [MARS(), DualAction(), DualAction(levels=('layer2',), gram=False, squared=True)],
)
def test_a_teacher_never_changes_and_every_tapped_level_is_reached(asked):
    teacher, student = narrow(channels=2), narrow()
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm3d): module.running_mean.uniform_(-1, 1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    reached = {}
    class Reached(EpochCallback):
        order = 70
        def before_step(self):
            reached.update(
                {name: p.grad.abs().max().item() for name, p in self.model.named_parameters() if p.grad is not None}
            )
    distill = Distill(teacher.train(), asked, Taps, asked.levels)
    learn = Learner(pairs(), student, nn.CrossEntropyLoss(), opt_func=partial(SGD, mom=.9), cbs=[distill, Reached()])
    with learn.no_bar(), learn.no_logging(): learn.fit(2, .01)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training
    assert len(distill.history) == 2 and all(np.isfinite([*epoch.values()]).all() for epoch in distill.history)
    assert all(value > 0 for name, value in reached.items() if 'conv' in name) and 'layer1.0.conv2.weight' in reached
    with learn.no_bar(), learn.no_logging(): assert learn.get_preds(ds_idx=1)[0].shape == (6, 3)
    assert not any(module._forward_hooks for net in (teacher, student) for module in net.modules())


def test_a_level_gets_gradients_of_its_own():
    asked = DualAction(levels=('layer1', 'layer3'))
    for level in asked.levels:
        student, teacher = narrow(), freeze(narrow(channels=2))
        x, y = halves(torch.randn(2, 5, 4, 16, 16))
        with Taps(student, (level,)) as own, Taps(teacher, (level,)) as its:
            student(x), teacher(y)
            sum(DualAction(levels=(level,))(own.features(), its.features()).values()).backward()
        touched = {name.split('.')[0]
                   for name, p in student.named_parameters()
                   if p.grad is not None and p.grad.abs().max() > 0}
        assert level in touched and not touched & {'layer4', 'fc'} and all(p.grad is None for p in teacher.parameters())


def test_frames_and_flow_are_cropped_and_mirrored_together():
    place = torch.arange(24).expand(20, 5, 3, 24, 24).to(torch.uint8)*5
    cut = S.CornerCrops(12)(TensorFlowPair(place), split_idx=0).as_subclass(torch.Tensor)
    assert cut.shape == (20, 5, 3, 12, 12)
    assert all(torch.equal(cut[:, 0], cut[:, c]) for c in range(5))
    assert len({round(v, 4) for v in cut[:, 0, 0, 0, 0].tolist()}) > 3
    turned = RandomFlip()(TensorFlowPair(place), split_idx=0).as_subclass(torch.Tensor)
    mirrored = turned[:, 0, 0, 0, 0] > 0
    assert mirrored.any() and not mirrored.all()
    assert torch.equal(turned[mirrored, 3], 255 - place[mirrored, 3].flip(-1))
    assert torch.equal(turned[mirrored, 4], place[mirrored, 4].flip(-1))
    assert torch.equal(turned[~mirrored], place[~mirrored])


if not collecting:
    TABLES = (*D.TABLES1, D.table2, D.left_open)
made = set() # descriptions, over all tables: most of their rows are the same nets


def holding(kind, settings):
    return kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})


def test_printed_numbers():
    names = ('MARS', 'MARS + RGB', 'MARS + Flow', 'Dual-action Stream',
             'Dual-action Stream + RGB', 'Dual-action Stream + Flow')
    found = {}
    for table in D.TABLES1:
        printed = {row.name: row.printed for row in table.rows}
        found[table.name.removeprefix('dual_action.table1_')] = [printed[name] for name in names]
    assert found == dict(ucf101_16f=[94.6, 95.6, 94.9, 95.2, 95.6, 95.6],
                         ucf101_64f=[97.1, 95.8, 97.5, 97.2, 97.6, 97.7],
                         hmdb51_16f=[72.3, 73.1, 74.5, 73.7, 73.5, 76.8],
                         hmdb51_64f=[80.1, 80.6, 80.9, 80.3, 80.8, 81.2])
    assert [row.printed for row in D.table2.rows[1:]] == [94.6, 94.7, 94.8, 95.2, 95.6, 95.7]
    assert [table.settings['n'] for table in D.TABLES1] == [16, 64, 16, 64]
    assert all(table.settings['alpha'] == 50 and table.settings['lr'] == .1 for table in TABLES)


@parametrize('table',
             ['dual_action.table1_ucf101_16f', 'dual_action.table1_ucf101_64f', 'dual_action.table1_hmdb51_16f',
              'dual_action.table1_hmdb51_64f', 'dual_action.table2', 'dual_action.left_open'], lambda: TABLES)
def test_every_row_of_every_preset_can_be_made(table):
    for preset in ('small', 'demo'):
        for row in table.rows:
            s = table.settings | table.presets[preset] | row.settings
            if row.work is S.stream:
                described = holding(S.StreamNet, s).described(5, 2 if s.get('motion') else 3, 'crop', s['crop'], s['n'])
                inner = described.arguments['net'] if s.get('stage') else described
                assert inner.arguments['crop'] == s['crop']
                if s.get('mimic'): assert set(holding(S.Imitation, s).asked.levels) <= set(LEVELS)
                if str(described) in made: continue # the same net under another name
                with torch.device('meta'): net = described.build()
                made.add(str(described))
                assert (net.head if s.get('stage') else net.fc).out_features == 5
            assert all(need in [other.name for other in table.rows] for need in row.needs)


def test_what_a_row_asks_of_a_student_is_what_it_gets():
    assert S.Imitation(mimic='mars', reduction='norm').asked == MARS(LEVELS[-1:], 'norm')
    assert S.Imitation(mimic='mars').asked == MARS(LEVELS[-1:])
    assert S.Imitation(mimic='dual action', mse=True).asked == DualAction(mse=True)
    added = {row.name: row.settings for row in D.left_open.rows if row.name.startswith('added to MARS')}
    assert [settings.get('gram', True) for settings in added.values()] == [False, True]
    assert all(settings['mse'] for settings in added.values())


def test_frames_come_as_often_as_printed():
    assert settings_of(D.table1)['fps'] == settings_of(D.table1, 'corners')['fps'] == 25
    assert 'fps' not in settings_of(D.table1, 'demo')
    s = settings_of(D.table1)
    assert D.table1.rows[0].sees(s).fps == 25


@parametrize('preset', ['paper', 'mars', 'mars_leaky', 'corners', 'small', 'demo'], lambda: D.table1.presets)
def test_presets_hold(preset): assert settings_of(D.table1, preset)['alpha'] == 50


@parametrize(
    'asked, message',
    ['asked0-does not fit', 'asked1-layer7', 'asked2-no such file', 'asked3-neither probabilities nor logits',
     'asked4-neither', 'asked5-neither', 'asked6-no method', 'asked7-must divide'],
    lambda: [
        (dict(size=40), 'does not fit'),
        (dict(levels=('layer7',)), 'layer7'),
        (dict(flow_weights='no.pth'), 'no such file'),
        (dict(average='votes'), 'neither probabilities nor logits'),
        (dict(scale='odd'), 'neither'),
        (dict(reduction='odd'), 'neither'),
        (dict(flow='nowhere:TVL1'), 'no method'),
        (dict(net=Make('har_nb.models.resnext3d:resnext3d', dict(width=10))), 'must divide'),
    ],
)
def test_wrong_settings_are_known_before_anything_is_decoded(asked, message):
    with pytest.raises(SettingsError, match=message): settings_of(D.table2, 'demo', **asked)


if not collecting:
    SMALL_NET = Make(D.NET.name, dict(width=4, layers=[1, 1, 1, 1], cardinality=2))
    TINY = dict(preset='demo', size=32, crop=24, n=8, epochs=2, net=SMALL_NET, progress=False)


@pytest.mark.slow
def test_rows_end_to_end(tmp_path, tracking, monkeypatch):
    built = build(tmp_path/'set', people=4, takes=1, size=(48, 64), workers=1, progress=False)
    clips = built.subset(['ClimbUp', 'ClimbDown', 'Running'])
    options = TINY | dict(cache=tmp_path/'cache')
    names = ['MARS', 'Dual-action Stream + Flow', 'Dual-action Stream + Flow, attention']
    logged, stop = Distill.after_epoch, [True]
    def killed(self):
        logged(self)
        if stop and len(self.history) == 2: stop.clear(); raise KeyboardInterrupt
    monkeypatch.setattr(Distill, 'after_epoch', killed)
    with pytest.raises(KeyboardInterrupt): run(D.table2, clips, rows=names, **options)
    result = run(D.table2, clips, rows=names, **options)
    assert result.row.tolist() == ['Flow stream', 'MARS', 'Dual-action Stream', *names[1:]] and (result.runs == 1).all()
    ids = {row: run_ids[0] for row, run_ids in zip(result.row, result.run_ids, strict=True)}
    mars = open_store().get_metric_history(ids['MARS'], 'loss_mse')
    assert [m.step for m in mars] == [0, 1] and len(runs_table(D.table2.name, "tags.row = 'MARS'")) == 1
    assert [m.step for m in open_store().get_metric_history(ids['Dual-action Stream'], 'loss_gram')] == [0, 1]
    video = clips.test.clips.path.iloc[0]
    for row in result.row:
        said = load_predictor(ids[row]).predict(clips.root/video)
        table = load_table('predictions.parquet', ids[row]).set_index('path')
        np.testing.assert_allclose(said.video,
                                   table.loc[video, [f'p_{name}' for name in clips.classes]].to_numpy(float), atol=2e-4,
                                   err_msg=row)
    assert 'Flow' not in repr(load_predictor(ids['MARS']).modality)
    assert set(load_table('weights_by_class.csv', ids[names[2]])['class']) == set(clips.classes)
    labels = {text.get_text() for text in D.plot_cost(D.table2).axes[0].texts}
    assert labels == set(result.row)
    again = run(D.table2, clips, rows=['MARS'], **options | dict(alpha=5.))
    assert again.runs.tolist() == [1, 1] and len(readable(again)) == 2


@pytest.mark.slow
def test_a_student_of_motion_images_and_one_of_key_points(tmp_path, tracking):
    sports = build(tmp_path/'set', people=4, takes=1, size=(56, 72), workers=1, progress=False)
    result = run(D.left_open, sports, 'demo', rows=['from motion images', 'from key points'], cache=tmp_path/'cache',
                 progress=False, epochs=1, size=40, crop=32).set_index('row')
    nets = {name: load_predictor(ids[0], device='cpu') for name, ids in result.run_ids.items()}
    assert result.index.tolist() == ['MEI stream', 'from motion images', 'Key point stream', 'from key points']
    parameters = result.parameters
    assert parameters['from key points'] == parameters['from motion images'], 'students are the plain net'
    assert parameters['from key points'] < parameters['Key point stream']
    assert [type(nets[name].modality).__name__ for name in nets] == ['Embeddings', 'Frames', 'Frames', 'Frames']
    for name, parts in (('from motion images', ['gram', 'labels', 'mae']), ('from key points', ['labels', 'mse'])):
        logged = open_store().get_run(result.run_ids[name][0]).data.metrics
        assert sorted(part.removeprefix('loss_') for part in logged if part.startswith('loss_')) == parts
