"""Key point shifts: the equations in loops, lines at odd places, empty regions, ties, kinds of numbers, gradients, and
a module behind other people's nets."""
import math
import pickle
from copy import deepcopy

import pytest
from later import collecting, parametrize

if not collecting:
    import torch
    from torch import nn
    from torchvision.models.video import r3d_18

    from har_nb.models.cost import count_operations, count_parameters
    from har_nb.models.kpsem import KPSEM, AReSE, first_maximum, membership, region_edges, region_spans, with_kpsem
    from har_nb.models.mfnet import mfnet
    from har_nb.models.r3d import r3d


def loops(x, centres, n, sharpness=1.):
    "Regional key point shifts, one number at a time, for any centres."
    n_clips, n_channels, n_frames, height, width = x.shape
    out = torch.zeros(n_clips, n_channels, n_frames - 1, centres.shape[2], n*n, 2, dtype=torch.float64)
    def lines(c, size):
        low, high = min(c, -.5), max(c, size - .5)
        return [low + 2*j/n*(c - low) if 2*j <= n else high - (2 - 2*j/n)*(high - c) for j in range(1, n)]
    for b, c, g in ((b, c, g) for b in range(n_clips) for c in range(n_channels) for g in range(centres.shape[2])):
        frames = []
        for t in range(n_frames):
            in_x, in_y = lines(centres[b, t, g, 0].item(), width), lines(centres[b, t, g, 1].item(), height)
            regions = [[] for _ in range(n*n)]
            for i in range(height):
                for j in range(width):
                    region = sum(i >= line for line in in_y)*n + sum(j >= line for line in in_x)
                    regions[region].append((x[b, c, t, i, j].item(), j, i))
            frames.append(regions)
        for t, (now, then) in enumerate(zip(frames, frames[1:], strict=False)):
            mean = lambda region: sum(cell[0] for cell in region)/len(region)
            brightness = [math.exp((mean(p) + mean(q))/2 if q else mean(p)) if p else 0
                          for p, q in zip(now, then, strict=True)]
            for k, region in enumerate(now):
                if not region: continue
                value, px, py = max(region, key=lambda cell: cell[0])
                others = [max(r, key=lambda cell: cell[0]) for r in then if r]
                match = [math.exp(sharpness/(abs(value - v) + .1)) for v, _, _ in others]
                share = brightness[k]/sum(brightness)/sum(match)
                out[b, c, t, g, k, 0] = share*sum(m*(qx - px) for m, (_, qx, _) in zip(match, others, strict=True))
                out[b, c, t, g, k, 1] = share*sum(m*(qy - py) for m, (_, _, qy) in zip(match, others, strict=True))
    return out


@pytest.mark.parametrize('regions', [1, 4, 9, 16])
@pytest.mark.parametrize('reach', [.3, 1.2])
@pytest.mark.parametrize('size', [(5, 7), (8, 8), (1, 9), (2, 3)])
def test_the_equations_hold_for_centres_anywhere(regions, reach, size):
    draw = torch.Generator().manual_seed(regions)
    x = torch.randn(2, 2, 3, *size, generator=draw, dtype=torch.float64)
    middle = torch.tensor(size[::-1])/2
    offsets = torch.rand(2, 3, 2, 2, generator=draw, dtype=torch.float64)*2 - 1
    centres = offsets*reach*torch.tensor(size[::-1]) + middle
    seen = AReSE(2, regions, 2, adaptive=False, sharpness=.7).look(x, centres)
    torch.testing.assert_close(seen.rkps, loops(x, centres, math.isqrt(regions), .7), atol=1e-12, rtol=1e-12)
    assert ((seen.weights.sum(-1) - 1).abs() < 1e-12).all() and (seen.match.sum(-1) - 1).abs().max() < 1e-12


def test_lines_on_cells_and_equal_values():
    x = torch.zeros(1, 1, 2, 4, 4, dtype=torch.float64)
    x[0, 0, 0, 1, 2] = x[0, 0, 0, 2, 1] = x[0, 0, 0, 3, 3] = 5
    centres = torch.tensor([[1., 2.], [2., 2.]], dtype=torch.float64).view(1, 2, 1, 2)
    seen = AReSE(1, 4, 1, adaptive=False).look(x, centres)
    assert seen.points[0, 0, 0, 0].tolist() == [[0, 0], [2, 1], [0, 2], [1, 2]]
    assert seen.points[0, 0, 1, 0].tolist() == [[0, 0], [2, 0], [0, 2], [2, 2]]
    one = AReSE(1, 1, 1).look(x)
    assert one.points[0, 0, :, 0, 0].tolist() == [[2, 1], [0, 0]]


@parametrize(
    'dtype',
    ['dtype0', 'dtype1', 'dtype2', 'dtype3'],
    lambda: [torch.float64, torch.float32, torch.float16, torch.bfloat16],
)
@pytest.mark.parametrize('size', [1, 2, 3, 7, 14, 33])
def test_first_maximum_against_the_plain_search(dtype, size):
    x = torch.randn(3, size, generator=torch.Generator().manual_seed(size)).mul(2).round().to(dtype)
    spans = torch.tensor([[i, j] for i in range(size) for j in range(i + 1, size + 1)])
    values, places = first_maximum(x, spans[:, 0], spans[:, 1])
    for row, value, place in zip(x, values, places, strict=True):
        for (i, j), v, p in zip(spans.tolist(), value, place.tolist(), strict=True):
            assert v == row[i:j].max() and p == i + row[i:j].tolist().index(v.item())


def test_regions_cover_every_cell_once_and_lines_never_cross():
    for n in (1, 2, 3, 4, 5):
        edges = region_edges(torch.linspace(-9, 20, 117), 11, n)
        assert (edges.diff() >= 0).all()
        start, stop = region_spans(edges, 11)
        assert (start[:, 0] == 0).all() and (stop[:, -1] == 11).all() and (start[:, 1:] == stop[:, :-1]).all()
        for soft in (False, True):
            share = membership(edges, 11, .7, soft)
            torch.testing.assert_close(share.sum(1), torch.ones(117, 11)); assert share.min() >= -1e-6


def test_empty_regions_weigh_nothing_and_poison_nothing():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 3, 6, 6, requires_grad=True)
    centres = torch.tensor([[9., 2.5], [2.5, 2.5], [2.5, -4.]]).view(1, 3, 1, 2).requires_grad_()
    seen = AReSE(3, 4, 1, adaptive=False).look(x, centres)
    assert seen.exists[0, 0, :, 0].tolist() == [[True, False, True, False], [True]*4, [False, False, True, True]]
    assert (seen.weights[:, :, 0, 0, [1, 3]] == 0).all()
    assert (seen.shifts[:, :, 0, 0, [1, 3]] == 0).all()
    assert (seen.match[:, :, 1, 0, :, :2] == 0).all()
    seen.rkps.square().sum().backward()
    assert x.grad.isfinite().all() and centres.grad.isfinite().all() and centres.grad.abs().sum() > 0


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 1e30])
def test_overflow_is_passed_on_and_never_crashes(value):
    x = torch.randn(1, 4, 3, 6, 6); x[0, 1, 1, 2, 3] = value
    module = AReSE(4, 4, 2)
    assert module(x).shape == (1, 4, 2, 2, 4, 2)
    assert module(torch.full_like(x, value)).shape == (1, 4, 2, 2, 4, 2)


def test_clips_channels_and_sets_do_not_see_each_other():
    torch.manual_seed(0)
    module, x = AReSE(6, 4, 3, adaptive=False).double(), torch.randn(4, 6, 3, 7, 8, dtype=torch.float64)
    order = torch.tensor([2, 0, 5, 4, 1, 3])
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])
    torch.testing.assert_close(module(x[1:2]), module(x)[1:2])
    adaptive = AReSE(6, 4, 3).double()
    torch.testing.assert_close(adaptive(x[1:2]), adaptive(x)[1:2])


def test_a_clip_reversed_moves_backwards_with_one_region():
    x = torch.randn(1, 5, 6, 8, 8)
    module = AReSE(5, 1, 1)
    assert torch.equal(module(x.flip(2)), -module(x).flip(2)) and module(x).abs().max() > 0


def test_movement_is_measured_in_cells():
    x = torch.zeros(1, 1, 4, 14, 14)
    for t in range(4): x[0, 0, t, 3 + 2*t, 10 - 3*t] = 2
    assert AReSE(1, 1, 1).look(x).shifts[0, 0, :, 0, 0].tolist() == [[-3, 2]]*3
    sharp = AReSE(1, 4, 1, adaptive=False, spread=0, sharpness=20.).look(x)
    path = sharp.points[0, 0, torch.arange(4), 0, sharp.values[0, 0, :, 0].argmax(1)]
    assert path.tolist() == [[10, 3], [7, 5], [4, 7], [1, 9]]


def test_sharpness_makes_the_match_one_hot():
    x = torch.rand(1, 8, 2, 10, 10)
    entropy = []
    for sharpness in (.1, 1, 10, 100):
        match = AReSE(8, 4, 1, adaptive=False, spread=0, sharpness=sharpness).look(x).match
        entropy.append(-(match*match.clamp(min=1e-30).log()).sum(-1).mean())
    assert entropy == sorted(entropy, reverse=True) and entropy[-1] < .2 < entropy[0]


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('regions', [4, 9, 16])
def test_gradients_reach_the_whole_mlp_of_every_set(soft, regions):
    torch.manual_seed(0)
    module = AReSE(8, regions, 3, soft=soft)
    module(torch.randn(2, 8, 3, 9, 9)).square().sum().backward()
    for sets in (module.hidden.weight.grad.flatten(1), module.bias.weight.grad.flatten(1)):
        assert (sets.abs().amax(1).unflatten(0, (3, -1)).amax(1) > 0).all()


@pytest.mark.parametrize('soft', [False, True])
def test_gradcheck_of_features(soft):
    torch.manual_seed(0)
    module = AReSE(2, 4, 2, adaptive=False, soft=soft).double()
    assert torch.autograd.gradcheck(module, torch.randn(1, 2, 3, 5, 4, dtype=torch.float64, requires_grad=True))
    if soft:
        weights = lambda centres: module.look(x, centres).weights
        x = torch.randn(1, 2, 2, 6, 5, dtype=torch.float64)
        centres = torch.tensor([[1.6, 2.4], [2.3, 3.2]], dtype=torch.float64).view(1, 2, 1, 2)
        centres = centres.expand(-1, -1, 2, -1).clone().requires_grad_()
        assert torch.autograd.gradcheck(weights, centres)


def test_soft_regions_become_exact_ones():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 8, 8)
    exact = AReSE(4, 4, 2, adaptive=False)
    off = []
    for softness in (1., .3, .001):
        soft = AReSE(4, 4, 2, adaptive=False, soft=True, softness=softness)
        soft.load_state_dict(exact.state_dict())
        off.append((soft(x) - exact(x)).abs().max().item())
    assert off[0] > off[1] > off[2] and off[2] < 1e-4


@parametrize('dtype', ['dtype0', 'dtype1'], lambda: [torch.float16, torch.bfloat16])
def test_mixed_precision_counts_in_32_bits(dtype):
    torch.manual_seed(0)
    module, x = KPSEM(16, 3, sets=2, regions=4), torch.randn(2, 16, 4, 9, 9, requires_grad=True)
    with torch.autocast('cpu', dtype):
        half = module(x.to(dtype))
        assert module.extract(x.to(dtype)).dtype == torch.float32
    half.float().square().sum().backward()
    assert half.isfinite().all() and x.grad.isfinite().all()
    fixed = KPSEM(16, 3, sets=2, adaptive=False)
    with torch.no_grad():
        full = fixed(x.to(dtype).float())
        with torch.autocast('cpu', dtype):
            torch.testing.assert_close(fixed(x.to(dtype)).float(), full, atol=.02*full.abs().max().item(), rtol=.05)


def test_memory_formats_agree():
    module, x = KPSEM(16, 3), torch.randn(2, 16, 4, 9, 9)
    torch.testing.assert_close(module(x.to(memory_format=torch.channels_last_3d)), module(x))


def test_section_4_2():
    module = KPSEM(384)
    assert module.features == 672
    assert [layer.weight.shape for layer in module.reduce if hasattr(layer, 'weight')] == [
        (192, 384, 1, 3),
        (96, 192, 1, 3),
    ]
    assert module.extract(torch.zeros(1, 384, 8, 14, 14)).shape == (1, 384, 7, 8, 4, 2)
    assert len(KPSEM(384, activation=nn.ReLU).reduce) == 3
    assert KPSEM(48, 3, widths=(20, 10)).features == 30
    with torch.no_grad():
        assert (KPSEM(32, 5, regions=1)(torch.randn(1, 32, 1, 6, 6).expand(-1, -1, 6, -1, -1)) == 0).all()


def test_fixed_regions_have_nothing_to_learn_and_travel_with_the_state():
    one, other = AReSE(8, 4, 3, adaptive=False), AReSE(8, 4, 3, adaptive=False)
    assert not list(one.parameters()) and (one.start.abs() <= .25).all() and len(one.start.unique(dim=0)) == 3
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 8, 3, 7, 7)
    assert torch.equal(one(x), other(x))
    assert (one.centres(x)[:, 0] == one.centres(x)[:, 2]).all()


def test_adaptive_centres_stay_in_the_frame():
    module = AReSE(8, 4, 3)
    with torch.no_grad(): module.bias.weight.mul_(1e4)
    centres = module.centres(torch.randn(4, 8, 5, 6, 9))
    assert (centres[..., 0].abs() <= 8.5).all() and centres[..., 0].min() >= -.5 and centres[..., 1].max() <= 5.5
    assert module(torch.randn(4, 8, 5, 6, 9)).isfinite().all()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return mfnet(num_classes=5, width=24, groups=4, blocks=(1, 1, 1, 1))


@parametrize(
    'settings',
    ['{}', "{'regions': 1}", "{'regions': 9}", "{'regions': 16}", "{'sets': 1}", "{'adaptive': False}",
     "{'embedding': 8}", "{'sharpness': 10.0}", "{'soft': True}", '9'],
    lambda: [{}, dict(regions=1), dict(regions=9), dict(regions=16), dict(sets=1), dict(adaptive=False),
             dict(embedding=8), dict(sharpness=10.), dict(soft=True), dict(activation=nn.ReLU)],
)
@pytest.mark.parametrize('stage', ['conv2', 'conv3', 'conv4.0', 'conv5', 'tail'])
def test_ablations_run_and_learn(small, stage, settings):
    net = with_kpsem(small, stage, size=(8, 64, 64), **settings)
    net(torch.randn(2, 3, 8, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.abs().max() > 0 for p in net.kpsem.reduce.parameters())


def test_the_net_inside_is_left_alone(small):
    plain = deepcopy(small).eval()
    net = with_kpsem(small, 'conv4', size=(8, 48, 48)).eval()
    clip = torch.randn(2, 3, 8, 48, 48)
    with torch.no_grad():
        spatial = net.net(clip)
        torch.testing.assert_close(spatial @ plain.head.weight.T + plain.head.bias, plain(clip))
        temporal = net(clip) - (spatial @ net.head.weight[:, :192].T + net.head.bias)
    assert torch.equal(net.head.weight[:, :192], plain.head.weight) and temporal.abs().max() > 0
    assert with_kpsem(plain, 'conv4', 7, size=(8, 48, 48)).head.out_features == 7


@pytest.mark.parametrize('make, stage', [
    (lambda: r3d_18(num_classes=3), 'layer2'),
    (lambda: r3d_18(num_classes=3), 'layer3.1'),
    (lambda: r3d(num_classes=3), 'res3'),
])
def test_other_nets(make, stage):
    net = with_kpsem(make(), stage, 4, size=(8, 48, 48))
    net(torch.randn(2, 3, 8, 48, 48)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_other_sizes_and_lengths_than_those_it_was_made_for(small):
    net = with_kpsem(small, 'conv3', size=(16, 64, 64)).eval()
    with torch.no_grad():
        for size in ((16, 64, 64), (8, 80, 48), (32, 64, 64), (4, 40, 40)):
            assert net(torch.randn(1, 3, *size)).shape == (1, 5)


def test_no_hook_stays_behind(small):
    net = with_kpsem(small, 'conv3', size=(8, 48, 48))
    net(torch.randn(1, 3, 8, 48, 48))
    with pytest.raises(RuntimeError): net(torch.randn(1, 4, 8, 48, 48))
    assert not net.net.conv3._forward_hooks and not any(torch.is_tensor(v) for v in vars(net).values())


def test_copies_and_files_answer_alike(small, tmp_path):
    net, clip = with_kpsem(small, 'conv3', size=(8, 48, 48)).eval(), torch.randn(1, 3, 8, 48, 48)
    fresh = with_kpsem(mfnet(num_classes=5, width=24, groups=4, blocks=(1, 1, 1, 1)), 'conv3', size=(8, 48, 48)).eval()
    fresh.load_state_dict(net.state_dict())
    with torch.no_grad():
        for other in (deepcopy(net), pickle.loads(pickle.dumps(net)), fresh): assert torch.equal(other(clip), net(clip))


def test_sizes_of_mf_kpsem():
    with torch.device('meta'): plain, net = mfnet(num_classes=51), with_kpsem(mfnet(num_classes=51))
    clip = torch.zeros(1, 3, 16, 224, 224, device='meta')
    assert net.head.in_features == 768 + 672 and net.kpsem.features == 672
    assert count_parameters(net) == 7_727_987 + 51*672 + 276_480 + 1_536 + 8*(16*385 + 2*(4*16 + 1))
    assert 0 < count_operations(net, clip)/count_operations(plain, clip) - 1 < .0125


@pytest.mark.parametrize('stage, size, settings, message', [
    ('conv6', (8, 48, 48), {}, "no stage 'conv6'.*conv2, conv3"),
    ('conv4', (2, 48, 48), {}, 'two frames or more'),
    ('flatten', (8, 48, 48), {}, 'shifts need B C T H W'),
    ('conv4', (8, 48, 48), dict(regions=6), '6 regions'),
])
def test_what_cannot_be_says_so(small, stage, size, settings, message):
    with pytest.raises(ValueError, match=message): with_kpsem(small, stage, size=size, **settings)
