"""Self-attention against sums, both fusion nets, pairs of frames and flow through store, loaders, training and
prediction."""
import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from later import collecting, no_grad, parametrize

from har_nb.learning.runs import tracked_run
from har_nb.learning.tracking import open_store
from har_nb.motion.mei import motion_embed
from har_nb.samples.modalities import Frames
from har_nb.samples.samplers import AllClips, EveryKth, OneClip, ShiftingFrames

if not collecting:
    import torch
    from torch import nn
    from torch.nn import functional as F

    from har_nb.experiments.tables import Job, SettingsError, call_row, settings_of
    from har_nb.models.attention_fusion import (
        EarlyFusion,
        LateFusion,
        SelfAttention,
        TwoStacks,
        attend,
        attention_maps,
        looked_at,
        stacked,
    )
    from har_nb.models.cost import count_parameters
    from har_nb.motion.flow_pictures import DIS
    from har_nb.papers.dual_stream_attention.ablations import streams
    from har_nb.papers.dual_stream_attention.tables import ShiftFrames, net_of, table1, train_streams
    from har_nb.samples.flow import Flow
    from har_nb.samples.loaders import RandomFlip, as_batch, mirrored
    from har_nb.samples.pairs import DueShift, Embeddings, Pair, Shifted, Shifts, TensorFlowPair, TensorPair, at_epoch

if not collecting:
    NARROW = dict(early=(EarlyFusion, dict(width=.1, places=3)), late=(LateFusion, dict(width=.1, places=3, norm=True)))


def the_sums(layer, y):
    "Equations 2 to 4 for one map, C H W, index by index."
    C, (H, W) = len(y), y.shape[1:]
    def conv(which, i):
        return [float(sum(which.weight[o, c, 0, 0]*y[c, i//W, i % W] for c in range(C)) + which.bias[o])
                for o in range(len(which.weight))]
    j, k, l = ([conv(which, i) for i in range(H*W)] for which in (layer.j, layer.k, layer.l))
    out = torch.empty_like(y)
    for i in range(H*W):
        e = np.exp([sum(a*b for a, b in zip(j[i], k[n], strict=True)) for n in range(H*W)])
        for c in range(C):
            out[c, i//W, i % W] = layer.gamma*float((e/e.sum())@[l[n][c] for n in range(H*W)]) + y[c, i//W, i % W]
    return out


@pytest.mark.parametrize('channels,size', [(8, (2, 3)), (16, (4, 1)), (4, (3, 3)), (20, (2, 2)), (1, (1, 5))])
@no_grad
def test_attention_is_the_papers_sums(channels, size):
    torch.manual_seed(channels)
    layer, y = SelfAttention(channels).double(), torch.randn(2, channels, *size, dtype=torch.float64)
    said = torch.stack([the_sums(layer, one) for one in y])
    explicit, e = layer(y, return_attention=True)
    torch.testing.assert_close(explicit, said, atol=1e-10, rtol=0)
    torch.testing.assert_close(layer(y), said, atol=1e-10, rtol=0)
    torch.testing.assert_close(e.sum(2), torch.ones_like(e[:, 0]))


def test_both_forms_have_the_same_gradients():
    torch.manual_seed(0)
    layer, y = SelfAttention(16).double(), torch.randn(2, 16, 5, 4, dtype=torch.float64)
    gradients = []
    for explicit in (False, True):
        inputs = y.clone().requires_grad_()
        layer.zero_grad()
        out = layer(inputs, return_attention=True)[0] if explicit else layer(inputs)
        out.sin().sum().backward()
        gradients.append([inputs.grad, *(p.grad.clone() for p in layer.parameters())])
    for one, other in zip(*gradients, strict=True): torch.testing.assert_close(one, other)


@no_grad
def test_large_scores_stay_finite():
    layer = SelfAttention(16, gamma=1.)
    y = 1e3*torch.randn(1, 16, 6, 6)
    assert torch.isfinite(layer(y)).all()
    torch.testing.assert_close(layer(y), layer(y, return_attention=True)[0], rtol=1e-3, atol=1e-1)


@no_grad
def test_gamma_zero_is_the_identity_and_only_gamma_learns():
    layer, y = SelfAttention(8, gamma=0), torch.randn(2, 8, 3, 4)
    assert torch.equal(layer(y), y)
    with torch.enable_grad(): layer(y).square().sum().backward()
    assert layer.gamma.grad.abs() > 0
    assert all(not p.grad.any() for part in (layer.j, layer.k, layer.l) for p in part.parameters())


def test_gamma_is_drawn_or_given():
    torch.manual_seed(0)
    drawn = [SelfAttention(8).gamma.item() for _ in range(200)]
    assert abs(np.mean(drawn)) < .25 and .8 < np.std(drawn) < 1.2
    assert SelfAttention(8, gamma=.3).gamma.item() == pytest.approx(.3)


@no_grad
def test_groups_of_l_share_their_weights():
    j, k = torch.randn(2, 2, 4, 9, dtype=torch.float64)
    l = torch.randn(2, 12, 9, dtype=torch.float64)
    e = (j.transpose(1, 2)@k).softmax(-1)
    torch.testing.assert_close(attend(j, k, l), l@e.transpose(1, 2))
    torch.testing.assert_close(attend(j, k, l[:, :7]), l[:, :7]@e.transpose(1, 2)) # 4 does not divide 7


def test_printed_parameters():
    with torch.device('meta'):
        assert count_parameters(EarlyFusion(101)) == 4_956_442
        assert count_parameters(LateFusion(101, frames=30, motion=2)) == 280_314_599
        assert count_parameters(EarlyFusion(101, frames=30)) - count_parameters(EarlyFusion(101)) == 20*9*128
        assert count_parameters(LateFusion(101, frames=30, motion=2)) - count_parameters(LateFusion(101)) == 2*9*32


@parametrize('name', ['early', 'late'], lambda: NARROW)
def test_gradients_reach_both_streams(name):
    make, settings = NARROW[name]
    net = make(4, 3, 6, dropout=0 if name == 'early' else (0, 0), **settings)
    frames, motion = (torch.randn(3, n, 48, 50, requires_grad=True) for n in (3, 6))
    F.cross_entropy(net(frames, motion), torch.tensor([0, 1, 3])).backward()
    assert frames.grad.abs().sum() > 0 and motion.grad.abs().sum() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@parametrize('name', ['early', 'late'], lambda: NARROW)
@no_grad
def test_a_stream_that_is_left_out_is_not_looked_at(name):
    make, settings = NARROW[name]
    frames, motion = torch.randn(2, 3, 48, 48), torch.randn(2, 6, 48, 48)
    alone = make(4, 3, 0, **settings).eval()
    assert torch.equal(alone(frames, motion), alone(frames, motion + 1))
    assert not torch.equal(alone(frames, motion), alone(frames + 1, motion))
    other = make(4, 0, 6, **settings).eval()
    assert torch.equal(other(frames, motion), other(frames + 1, motion))
    with pytest.raises(ValueError, match='at least one stream'): make(4, 0, 0)


@parametrize('name', ['early', 'late'], lambda: NARROW)
@pytest.mark.parametrize('size', [(46, 46), (47, 90), (101, 64)])
@no_grad
def test_any_size(name, size):
    make, settings = NARROW[name]
    assert make(4, 3, 6, **settings).eval()(torch.zeros(1, 3, *size), torch.zeros(1, 6, *size)).shape == (1, 4)


def test_pictures_too_small_for_the_late_net():
    with pytest.raises(ValueError, match='46 pixels'):
        LateFusion(4, 3, 6, width=.1, places=3)(torch.zeros(1, 3, 45, 60), torch.zeros(1, 6, 45, 60))


@no_grad
def test_stacks():
    clips = torch.arange(2*5*3*2*2.).view(2, 5, 3, 2, 2)
    frames, motion = TwoStacks(nn.Identity(), grey=False).stacks(clips)
    assert frames.shape == (2, 9, 2, 2) and motion.shape == (2, 6, 2, 2)
    assert torch.equal(frames[:, 3:6], clips[:, :3, 1]) and torch.equal(motion[:, 2:4], clips[:, 3:, 1])
    grey, _ = TwoStacks(nn.Identity()).stacks(clips)
    torch.testing.assert_close(grey[:, 2], .299*clips[:, 0, 2] + .587*clips[:, 1, 2] + .114*clips[:, 2, 2])
    assert torch.equal(stacked(clips)[:, 5:10], clips[:, :, 1])
    assert TwoStacks(nn.Identity()).stacks(clips[:, :, 0])[1].shape == (2, 2, 2, 2)


@no_grad
def test_maps_of_every_layer_are_found():
    late = LateFusion(4, 3, 6, width=.1, places=3).eval()
    frames, motion = torch.randn(2, 3, 50, 60), torch.randn(2, 6, 50, 60)
    before = late(frames, motion)
    maps = attention_maps(late, frames, motion)
    assert set(maps) == {'frames.attention', 'motion.attention'}
    for found in maps.values():
        assert found.ndim == 5 and found.shape[1:3] == found.shape[3:]
        torch.testing.assert_close(found.sum((3, 4)), torch.ones(found.shape[:3]))
    assert torch.equal(late(frames, motion), before)
    heat = looked_at(maps['frames.attention'], (50, 60), (.99, .99))
    assert heat.shape == (2, 50, 60) and torch.allclose(heat.amax((1, 2)), torch.ones(2))
    assert attention_maps(EarlyFusion(4, 3, 6, width=.1, attention=False).eval(), frames, motion) == {}


def test_copies_and_pickles():
    net = TwoStacks(EarlyFusion(4, 3, 6, width=.1, places=3)).eval()
    clips = torch.randn(1, 5, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(deepcopy(net)(clips), net(clips))
        assert torch.equal(pickle.loads(pickle.dumps(net))(clips), net(clips))


def video(n, size=(20, 24), seed=0): return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def streamed(modality, frames, size, known=True):
    return [s for s in modality.stream(iter(frames), size, len(frames) if known else None) if s is not None]


@pytest.mark.parametrize('n', [1, 2, 5, 9, 10, 11, 30, 63, 64, 95])
@parametrize('modality', ['modality0', 'modality1', 'modality2', 'modality3', 'modality4', 'modality5'], lambda: [
    Embeddings(OneClip(6, 9)), Embeddings(ShiftingFrames(4, 5, 2, 3, 1), n=3, division='equal'),
    Pair(Frames(OneClip(6, 9)), Embeddings(OneClip(6, 9))), Pair(Frames(AllClips(5)), Frames(AllClips(5))),
    Shifted(Pair(Frames(ShiftingFrames(6, 9, 2, 4, 1)), Embeddings(ShiftingFrames(6, 9, 2, 4, 1))), 3),
    Shifted(Pair(Frames(ShiftingFrames(4, 9, 2, 4, 1)), Flow(ShiftingFrames(4, 9, 2, 4, 1), DIS())), 2)])
def test_streams_give_what_whole_videos_give(modality, n):
    frames = video(n)
    whole, parts = modality(frames), streamed(modality, frames, frames.shape[1:3])
    assert whole.shape[1:] == modality.shape(frames.shape[1:3])
    assert np.array_equal(np.stack(parts), whole)
    assert len(whole) == len(modality.sampler(n))


def test_embeddings_begin_at_their_moments():
    frames, sampler = video(40), OneClip(5, 6)
    moments = sampler(40)[0]
    for image, moment in zip(Embeddings(sampler, n=4)(frames)[0], moments, strict=True):
        assert np.array_equal(image, motion_embed(frames[moment:moment + 4], 4, 4)[0])


def test_every_clip_has_every_shift():
    shifts = Shifts(ShiftingFrames(10, 10, 4, 3, 100), 4)
    for n in (1, 3, 50, 97, 98, 200): assert shifts(n).shape == (4, 10) and shifts(n).max() < n
    assert shifts(200)[:, 0].tolist() == [4, 7, 0, 3] and shifts.span == 98


def test_the_due_shift_follows_the_epoch():
    due = DueShift(every=2)
    assert [due.at(epoch)(3)[0, 0] for epoch in range(8)] == [0, 0, 1, 1, 2, 2, 0, 0]
    assert due.at(9)(1).tolist() == [[0]]


def test_nested_samplers_move_on_together():
    pair = Pair(Frames(ShiftingFrames(every=1)), Embeddings(ShiftingFrames(every=1)))
    later = at_epoch(pair, 2)
    assert later.first.sampler == later.second.sampler == ShiftingFrames(every=1, epoch=2)
    assert at_epoch(Frames(EveryKth(3)), 7) == Frames(EveryKth(3))


def test_halves_that_differ_are_refused():
    with pytest.raises(ValueError, match='different moments'): Pair(Frames(OneClip(4)), Embeddings(OneClip(5)))


def test_the_flip_negates_x_and_nothing_else():
    pair = Pair(Frames(OneClip(3)), Flow(OneClip(3), DIS()))
    batch = as_batch(np.random.default_rng(0).integers(0, 256, (6, 3, 8, 9, 5), dtype=np.uint8), pair.kinds)
    before, flipped = batch.clone(), mirrored(batch)
    assert torch.equal(batch, before) and type(batch) is type(flipped) is TensorFlowPair
    assert torch.equal(flipped[:, [0, 1, 2, 4]], batch[:, [0, 1, 2, 4]].flip(-1))
    assert torch.equal(flipped[:, 3], 255 - batch[:, 3].flip(-1))
    some = RandomFlip(p=.5).encodes(batch)
    assert all(torch.equal(some[i], batch[i]) or torch.equal(some[i], flipped[i]) for i in range(6))
    pictures = as_batch(batch.movedim(1, -1).numpy(), Pair(Frames(OneClip(3)), Embeddings(OneClip(3))).kinds)
    assert type(pictures) is TensorPair and torch.equal(mirrored(pictures), pictures.flip(-1))


def test_pairs_are_shown():
    for n in (1, 4):
        pair = Pair(Frames(OneClip(n)), Flow(OneClip(n), DIS()))
        batch = as_batch(pair(video(8)), pair.kinds)
        for one in (batch[0], batch[0].float()/255): assert one.show() is not None


class Stored:
    "Three shifts of twelve clips, held in memory: whether a square shines, or moves to the right, is the class."
    def __init__(self, clips=18, shifts=3):
        random = np.random.default_rng(0)
        self.label = np.arange(clips) % 2
        pair = Pair(Frames(ShiftingFrames(3, every=1)), Flow(ShiftingFrames(3, every=1), DIS()))
        self.modality = Shifted(pair, shifts)
        self.clip = np.repeat(np.arange(clips), shifts)
        self.shape, self.size, self.coding = (3, 16, 16, 5), (16, 16), 'raw'
        self.images = random.integers(100, 150, (clips*shifts, *self.shape), dtype=np.uint8)
        self.images[self.label[self.clip] == 1, :, 4:12, 4:12, 3] += 60
    def __len__(self): return len(self.clip)
    def read(self, rows): return self.images[np.asarray(rows)]
    def of(self, rows): return np.flatnonzero(np.isin(self.clip, rows))


def job_of(stored, protocol='official', **more):
    from pathlib import Path

    from har_nb.data.dataset import ActionDataset
    n = len(stored.label)
    table = pd.DataFrame(dict(path=[f'{i}.avi' for i in range(n)], label=[('still', 'right')[i] for i in stored.label],
                              group=[str(i) for i in range(n)], split=(['train']*6 + ['valid']*6 + ['test']*6)[:n]))
    return Job(ActionDataset(Path(), ['still', 'right'], table, protocol=protocol), 0, stored, {}, **more)


TINY = dict(width=.1, early=dict(places=2), epochs=4, lr=5e-3, batch_size=6, every=1, zoom=1.)


def test_training_sees_the_due_shift_and_the_test_all(tracking, monkeypatch):
    seen = []
    before = ShiftFrames.before_train
    monkeypatch.setattr(ShiftFrames, 'before_train',
                        lambda self: (before(self), seen.append(self.dls.train.dataset.choice.epoch)))
    with tracked_run('a', 'test') as run_id:
        said = call_row(train_streams, job_of(Stored()), TINY)
    assert seen == [0, 1, 2, 3]
    assert said.probabilities.shape == (18, 2) and said.metrics['epochs'] == 4
    logged = open_store().get_run(run_id).data.metrics
    assert 0 <= logged['acc_train'] <= 1 and 'acc_test' not in logged
    with tracked_run('b', 'test') as run_id: call_row(train_streams, job_of(Stored(), 'paper'), TINY)
    assert len(open_store().get_metric_history(run_id, 'acc_test')) == 4


def test_a_killed_fit_goes_on(tracking, tmp_path, monkeypatch):
    with tracked_run('whole', 'test'): whole = call_row(train_streams, job_of(Stored()), TINY)
    killed, before = [], ShiftFrames.before_train
    def kill(self):
        before(self)
        if self.epoch == 2 and not killed: killed.append(True); raise KeyboardInterrupt
    monkeypatch.setattr(ShiftFrames, 'before_train', kill)
    file = tmp_path/'fit.pth'
    with pytest.raises(KeyboardInterrupt), tracked_run('killed', 'test'):
        call_row(train_streams, job_of(Stored(), checkpoint=file), TINY)
    assert file.exists()
    with tracked_run('resumed', 'test'): resumed = call_row(train_streams, job_of(Stored(), checkpoint=file), TINY)
    assert not file.exists()
    np.testing.assert_allclose(resumed.probabilities, whole.probabilities, atol=1e-6)


def test_the_recipe_makes_the_same_net():
    from har_nb.learning.recipe import Recipe, describe, make
    pair = Stored().modality
    for net in ('early', 'late'):
        model = net_of((3, 48, 48, 5), 2, net, grey=False, layout=dict(width=.1, places=3, gamma=0.))
        recipe = Recipe.from_json(Recipe(('a', 'b'), model, describe(pair), 48,
                                         mean=(.5,)*5, std=(.1,)*5, sample='clip').to_json())
        assert make(recipe.modality) == pair and recipe.mean == (.5,)*5
        one, other = make(recipe.model).eval(), make(model).eval()
        other.load_state_dict(one.state_dict())
        clips = torch.randn(1, 5, 3, 48, 48)
        with torch.no_grad(): assert torch.equal(one(clips), other(clips))


@pytest.mark.parametrize('wrong,said', [
    (dict(n=1), 'at least 2 frames'),
    (dict(size=40), '46 pixels'),
    (dict(flow='har_nb.motion.flow:Nothing'), 'no method of optical flow'),
    (dict(late=dict(depth=3)), 'depth'),
])
def test_settings_that_cannot_work_are_refused(wrong, said):
    for table in (table1, streams):
        with pytest.raises(SettingsError, match=said): settings_of(table, 'demo', **wrong)


@pytest.mark.slow
def test_rows_run_and_predict_what_their_test_said(tracking, tmp_path):
    from har_nb.data import synthetic
    from har_nb.experiments.results import load_predictions
    from har_nb.experiments.tables import run
    from har_nb.learning.predictor import load_predictor
    dataset = synthetic.build(tmp_path/'built_in', people=3, takes=2, progress=False)
    rows = ['late fusion', 'early, flow only', 'early, MEIs instead of flow',
            'early, colour stack', 'early, frames instead of flow']
    result = run(streams, dataset, 'demo',
                 rows=rows, cache=tmp_path/'cache', progress=False, size=48, n=5, width=.1, epochs=1)
    assert result.row.tolist() == [row.name for row in streams.rows if row.name in rows]
    for line in result.itertuples():
        tested, predictor = load_predictions(line.run_ids[0]), load_predictor(line.run_ids[0], device='cpu')
        clip = int(tested.clip[0])
        np.testing.assert_allclose(predictor.predict(dataset.paths[clip]).samples,
                                   tested.probabilities[tested.clip == clip], atol=1e-4)
