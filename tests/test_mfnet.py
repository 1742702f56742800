"""MFNet: counts and shapes, sizes that nobody published, checkpoints under the authors' names, and files that are not
checkpoints."""
from copy import deepcopy

import pytest
from later import collecting

if not collecting:
    import torch
    from torch import nn

    from har_nb.models.backbones import WeightsError, build
    from har_nb.models.cost import count_operations, count_parameters
    from har_nb.models.mfnet import load_published, mfnet, our_name

SMALL = dict(width=24, groups=4, blocks=(2, 1, 1, 1))


def small(num_classes=3, **settings):
    torch.manual_seed(0)
    return mfnet(num_classes=num_classes, **SMALL | settings)


def published_shapes(n_classes=400):
    "Names and shapes as in the authors' file, written from their description, not from our net."
    def norm(name, n):
        return {f'{name}.{part}': (n,) for part in ('weight', 'bias', 'running_mean', 'running_var')}
    def layer(name, n_in, n_out, kernel=(1, 1, 1), groups=1):
        return norm(f'{name}.bn', n_in) | {f'{name}.conv.weight': (n_out, n_in//groups, *kernel)}
    shapes = {'conv1.conv.weight': (16, 3, 3, 5, 5)} | norm('conv1.bn', 16)
    n_in = 16
    for stage, (n_out, units) in enumerate(((96, 3), (192, 4), (384, 6), (768, 3)), 2):
        for unit in range(1, units + 1):
            at, first = f'conv{stage}.B{unit:02d}', unit == 1
            shapes |= layer(f'{at}.conv_i1', n_in, n_out//4)
            shapes |= layer(f'{at}.conv_i2', n_out//4, n_in)
            shapes |= layer(f'{at}.conv_m1', n_in, n_out, (3, 3, 3), 16)
            if first: shapes |= layer(f'{at}.conv_m2', n_out, n_out) | layer(f'{at}.conv_w1', n_in, n_out)
            else: shapes |= layer(f'{at}.conv_m2', n_out, n_out, (1, 3, 3), 16)
            n_in = n_out
    return shapes | norm('tail.bn', 768) | {
        'classifier.weight': (n_classes, 768),
        'classifier.bias': (n_classes,),
    }


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_every_published_name_and_shape_has_its_place(tmp_path, prefix):
    draw = torch.Generator().manual_seed(0)
    state = {prefix + name: torch.rand(shape, generator=draw) for name, shape in published_shapes().items()}
    torch.save(dict(epoch=10, state_dict=state, optimizer=dict(lr=.1)), tmp_path/'net.pth')
    net = load_published(mfnet(), tmp_path/'net.pth')
    loaded = net.state_dict()
    assert count_parameters(net) == 7_996_368
    assert sum(value.numel() for name, value in state.items() if 'running' not in name) == 7_996_368
    for name, value in state.items(): assert torch.equal(loaded[our_name(name)], value), name
    assert net.weights.mean == pytest.approx((.4863, .4588, .4078), abs=1e-4)
    assert net.weights.std == pytest.approx((.2348,)*3, abs=1e-4)


@pytest.mark.parametrize('n_classes, parameters',
                         [(400, 7_996_368), (200, 7_842_568), (101, 7_766_437), (51, 7_727_987)])
def test_counts(n_classes, parameters):
    with torch.device('meta'): net = mfnet(num_classes=n_classes)
    assert count_parameters(net) == parameters
    operations = count_operations(net, torch.zeros(1, 3, 16, 224, 224, device='meta'))
    assert operations == 11_045_449_728 + (n_classes - 400)*768


@pytest.mark.parametrize('size', [(16, 64, 64), (8, 112, 144), (7, 33, 47), (2, 32, 32), (1, 16, 16)])
def test_any_size_and_length(size):
    net, shapes = small().eval(), []
    for stage in (net.conv2, net.conv4, net.conv5):
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
    with torch.no_grad(): assert net(torch.randn(2, 3, *size)).shape == (2, 3)
    half = lambda n, times: n if times == 0 else half(-(-n//2), times - 1)
    assert shapes == [(half(size[0], 1), half(size[1], times), half(size[2], times)) for times in (2, 4, 5)]


def test_every_parameter_learns_and_memory_formats_agree():
    net, clip = small(), torch.randn(3, 3, 8, 48, 48)
    net(clip).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0
               for name, p in net.named_parameters())
    net.eval()
    other = deepcopy(net).to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        torch.testing.assert_close(other(clip.to(memory_format=torch.channels_last_3d)), net(clip),
                                   atol=1e-4, rtol=1e-4)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16): assert net(clip).isfinite().all()


def test_narrow_nets_with_every_number_of_channels_in_channels_last():
    for width, groups in ((12, 2), (24, 2), (48, 8), (96, 16)):
        net = mfnet(num_classes=2, width=width, groups=groups, blocks=(1, 1, 1, 1))
        net = net.to(memory_format=torch.channels_last_3d)
        net(torch.randn(2, 3, 4, 32, 32).to(memory_format=torch.channels_last_3d)).sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())


def test_dropout_works_in_training_only():
    net, clip = small(dropout=.5), torch.randn(1, 3, 4, 32, 32)
    net.eval()
    with torch.no_grad(): assert torch.equal(net(clip), net(clip))
    net.dropout.train()
    with torch.no_grad(): assert not torch.equal(net(clip), net(clip))


def test_a_file_in_our_own_names_loads_too(tmp_path):
    net = small()
    torch.save(net.state_dict(), tmp_path/'ours.pth')
    other = load_published(small(), tmp_path/'ours.pth')
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_other_classes_keep_their_head(tmp_path):
    torch.save(small(5).state_dict(), tmp_path/'five.pth')
    net = small(3)
    before = deepcopy(net.head.state_dict())
    with pytest.raises(WeightsError, match='Pass head=False'): load_published(net, tmp_path/'five.pth')
    load_published(net, tmp_path/'five.pth', head=False)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.head.state_dict().values(), strict=True))


def broken(kind, path):
    state = small().state_dict()
    if kind == 'page': path.write_text('<html>'); return 'Is the download complete'
    if kind == 'cut':
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:1000])
        return 'Is the download complete'
    if kind == 'absent': return 'absent.pth: not a checkpoint'
    if kind == 'list': torch.save([1, 2], path); return 'holds no state dict'
    if kind == 'numbers': torch.save(dict(epoch=1), path); return 'holds no state dict'
    if kind == 'missing':
        torch.save({k: v for k, v in state.items() if k != 'tail.norm.bias'}, path)
        return r"1 names missing \['tail.norm.bias'\]"
    if kind == 'extra':
        torch.save(state | {'conv6.weight': torch.zeros(1)}, path)
        return r"1 unexpected \['conv6.weight'\]"
    torch.save(small(width=48).state_dict(), path); return 'another width'


@pytest.mark.parametrize('kind', ['page', 'cut', 'absent', 'list', 'numbers', 'missing', 'extra', 'width'])
def test_what_is_no_checkpoint_is_refused_and_changes_nothing(tmp_path, kind):
    net = small()
    before = deepcopy(net.state_dict())
    message = broken(kind, tmp_path/f'{kind}.pth')
    with pytest.raises(WeightsError, match=message): load_published(net, tmp_path/f'{kind}.pth')
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert not hasattr(net, 'weights')


def test_it_is_a_backbone():
    net = build(lambda weights=None: mfnet(weights, num_classes=400, **SMALL), 6)
    assert net(torch.randn(2, 3, 4, 32, 32)).shape == (2, 6) and isinstance(net.head, nn.Linear)
    with pytest.raises(WeightsError, match='no ImageNet weights'): build(mfnet, 6, 'imagenet')


@pytest.mark.parametrize('settings', [dict(width=32), dict(width=24, groups=16), dict(width=100, groups=4)])
def test_nets_that_cannot_be(settings):
    with pytest.raises(ValueError): mfnet(**settings)


def test_weights_that_are_no_file_are_refused():
    with pytest.raises(WeightsError, match='mfnet downloads nothing'): mfnet('imagenet')


def test_a_published_file_goes_in_by_argument(tmp_path):
    torch.save(small(5).state_dict(), tmp_path/'five.pth')
    same, other = mfnet(tmp_path/'five.pth', 5, **SMALL), mfnet(tmp_path/'five.pth', 3, **SMALL)
    assert torch.equal(same.head.weight, small(5).head.weight) and other.head.out_features == 3
    assert torch.equal(other.conv3[0].shortcut.conv.weight, same.conv3[0].shortcut.conv.weight)
