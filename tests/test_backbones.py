"Backbones with real weights, without a network, and with files that do not fit."
import json
import urllib.error
from dataclasses import replace
from functools import partial

import pytest
from later import collecting, no_grad

if not collecting:
    import torch
    from torch import nn
    from torchvision import models
    from weights import squares

    from har_nb.models.backbones import (
        IMAGENET_MEAN,
        SameConv2d,
        Weights,
        WeightsError,
        build,
        feature_maps,
        freeze_batch_norm,
        head_name,
        inception_v3,
        mobilenet_v1,
        mobilenet_v2,
        replace_head,
        resolve,
        same_padding,
        small_resnet,
        timm_net,
    )
    from har_nb.models.cost import count_operations, count_parameters


def quiet_dropout(model):
    "Training mode, but for dropout, which is random by design."
    for module in model.train().modules():
        if isinstance(module, nn.Dropout): module.eval()
    return model


def centred_cosine(a, b): return torch.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))


@no_grad
def test_published_weights_name_what_is_to_be_seen(one_thread, shared_data):
    """Beside what the drawn weights show: that published ones, read in this way, see basketball, arm wrestling, pool
    cleaning, make-up, baseball."""
    names = ('basketball.mp4', 'k400_arm_wrestling.mp4', 'k400_cleaning_pool.mp4',
             'v_ApplyEyeMakeup_g01_c01.avi', 'v_BaseballPitch_g01_c01.avi', 'v_Basketball_g01_c01.avi')
    pictures = torch.stack([next(squares(shared_data/'clips'/name, 5)) for name in names])
    labels = (shared_data/'weights'/'imagenet_labels.txt').read_text().splitlines()[1:]
    model = build(mobilenet_v2, weights=shared_data/'weights'/'mobilenet_v2_imagenet_fp16.pth').eval()
    assert (model.weights.mean, model.weights.std, model.weights.padding, model.weights.batch_norm) == (
        (.5,)*3, (.5,)*3, 'same', 'folded'
    )
    top5 = [{labels[i] for i in row} for row in model(pictures).topk(5).indices.tolist()]
    plausible = [
        {'volleyball', 'basketball', 'horizontal bar, high bar'},
        {'barbershop', 'barbell'},
        {'tub, vat', 'stingray', 'catamaran'},
        {'wig', 'hair spray', 'gown'},
        {'croquet ball', 'golf ball'},
        {'volleyball', 'basketball', 'ping-pong ball'},
    ]
    assert all(named & expected for named, expected in zip(top5, plausible, strict=True)), top5


@no_grad
def test_padding_changes_the_answer_and_only_at_even_sizes(one_thread, mobilenet_file, pictures):
    same = build(mobilenet_v2, weights=mobilenet_file).eval()
    plain = build(mobilenet_v2, weights=replace(same.weights, padding='torch')).eval()
    alike = centred_cosine(same(pictures), plain(pictures))
    assert alike.max() < .99, alike # .6 to .9 with published weights
    odd = nn.functional.interpolate(pictures, size=225)
    assert centred_cosine(same(odd), plain(odd)).min() > .9999


@no_grad
def test_folded_weights_survive_training_mode_only_when_frozen(one_thread, mobilenet_file, pictures):
    frozen = build(mobilenet_v2, weights=mobilenet_file).eval()
    expected = frozen(pictures)
    torch.testing.assert_close(quiet_dropout(frozen)(pictures), expected)
    loose = build(mobilenet_v2, weights=replace(frozen.weights, batch_norm='plain')).eval()
    torch.testing.assert_close(loose(pictures), expected, atol=1e-4, rtol=1e-4)
    ruined = quiet_dropout(loose)(pictures)
    # .88 of the drawn net; published ones lose their meaning altogether
    assert centred_cosine(ruined, expected).max() < .95


def test_half_precision_becomes_float32_and_the_head_ours(mobilenet_file):
    stored = torch.load(mobilenet_file, weights_only=True)
    model = build(mobilenet_v2, 9, mobilenet_file)
    assert stored['features.0.0.weight'].dtype == torch.float16
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(model.features[0][0].weight, stored['features.0.0.weight'].float())
    assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 9)
    trainable = sum(p.numel() for p in models.mobilenet_v2().parameters()) - 34112 - 1281*1000 + 1281*9
    assert count_parameters(model, trainable=True) == trainable


def test_an_optimiser_step_leaves_frozen_statistics_alone(one_thread, mobilenet_file):
    model = build(mobilenet_v2, 4, mobilenet_file).train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    optimizer = torch.optim.SGD(model.parameters(), .01)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
    optimizer.step()
    assert len(before) and all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())


def test_features_without_a_head_do_not_pass_for_another_net(features_file):
    with pytest.raises(WeightsError, match='another net than mobilenet_v2'): build(mobilenet_v2, 8, features_file)


# Padding, against its definition

def tensorflow_padded(conv, x):
    "The definition: pad to ceil(size / stride) windows, the odd pixel at the end."
    for axis in (2, 3):
        size = x.shape[axis]
        kernel = conv.kernel_size[axis - 2]
        stride = conv.stride[axis - 2]
        dilation = conv.dilation[axis - 2]
        total = max((-(-size//stride) - 1)*stride + (kernel - 1)*dilation + 1 - size, 0)
        shape = list(x.shape)
        before, after = ([*shape[:axis], count, *shape[axis + 1:]] for count in (total//2, total - total//2))
        x = torch.cat([x.new_zeros(before), x, x.new_zeros(after)], axis)
    return nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


@pytest.mark.parametrize('size', [(8, 8), (9, 9), (15, 16), (33, 10), (5, 5)])
@pytest.mark.parametrize('settings', [
    dict(kernel_size=3),
    dict(kernel_size=5),
    dict(kernel_size=(3, 7), stride=(2, 3)),
    dict(kernel_size=7, stride=4),
    dict(kernel_size=3, groups=4),
    dict(kernel_size=3, dilation=2),
])
def test_same_padding_is_tensorflows(size, settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, **{'stride': 2, 'padding': 1} | settings))
    weight = net[0].weight
    conv = same_padding(net)[0]
    assert isinstance(conv, SameConv2d) and conv.weight is weight
    x = torch.randn(2, 4, *size)
    torch.testing.assert_close(conv(x), tensorflow_padded(conv, x))
    assert conv(x).shape[2:] == tuple(-(-side//step) for side, step in zip(size, conv.stride, strict=True))


def test_only_convolutions_that_pad_and_stride_change():
    net = same_padding(nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 0), nn.Conv2d(4, 4, 1, 2),
                                     nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding='same')))
    assert [type(conv) is SameConv2d for conv in net] == [False, False, False, True, False]
    keys = models.mobilenet_v2().state_dict().keys()
    assert same_padding(models.mobilenet_v2()).state_dict().keys() == keys


# Frozen batch norm

@pytest.mark.parametrize('affine', [True, False])
def test_frozen_batch_norm_computes_what_evaluation_did(affine):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, eps=.01, affine=affine)
    for _ in range(3): norm(torch.randn(8, 5, 4, 4)*3 + 1)
    net, x = nn.Sequential(norm).eval(), torch.randn(2, 5, 4, 4)
    expected = net(x)
    torch.testing.assert_close(freeze_batch_norm(net).train()(x), expected)
    assert count_parameters(net) == 0


# Any classifier

@pytest.mark.parametrize('name', ['alexnet', 'vgg11_bn', 'resnet18', 'resnext50_32x4d', 'densenet121', 'googlenet',
                                  'mobilenet_v3_small', 'shufflenet_v2_x0_5', 'mnasnet0_5', 'wide_resnet50_2',
                                  'efficientnet_v2_s', 'convnext_tiny', 'swin_t', 'vit_b_16', 'maxvit_t'])
def test_every_kind_of_classifier_gets_our_head(name):
    kwargs = dict(init_weights=False) if name == 'googlenet' else {}
    with torch.device('meta'):
        model = build(partial(resolve(f'torchvision.models:{name}'), **kwargs), 7).eval()
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 7)


def test_a_net_without_a_linear_layer_says_so():
    with torch.device('meta'), pytest.raises(ValueError, match='no linear layer'): build(models.squeezenet1_0, 8)


def test_counting_leaves_the_net_in_its_mode():
    for mode in (True, False):
        net = small_resnet().train(mode)
        count_operations(net, torch.zeros(1, 3, 64, 64))
        assert net.training == mode


@pytest.mark.parametrize('size', [(64, 64), (63, 65), (48, 80), (112, 144), (17, 9)])
def test_the_small_net_takes_any_size(size):
    assert small_resnet(num_classes=5).eval()(torch.zeros(2, 3, *size)).shape == (2, 5)
    assert count_parameters(small_resnet()) <= 300_000


# Files

@pytest.fixture
def saved(tmp_path):
    "Saves tensors and what is said about them; gives the path."
    def save(state, **said):
        torch.save(state, tmp_path/'net.pth')
        if said: (tmp_path/'net.json').write_text(json.dumps(said))
        return tmp_path/'net.pth'
    return save


def test_a_file_round_trips_with_its_head_or_with_ours(saved):
    net = small_resnet(num_classes=3).eval()
    path, x = saved(net.state_dict(), mean=[.1, .2, .3], std=[1, 2, 3]), torch.randn(2, 3, 32, 32)
    again = build(small_resnet, weights=str(path)).eval()
    torch.testing.assert_close(again(x), net(x))
    assert again.weights == Weights(path, (.1, .2, .3), (1., 2., 3.))
    assert build(small_resnet, 6, path).eval()(x).shape == (2, 6)
    assert build(small_resnet, 6, Weights(mean=(0, 0, 0))).weights.file is None


def test_a_file_without_a_head_needs_ours(saved):
    path = saved({key: value for key, value in small_resnet().state_dict().items() if not key.startswith('head.')})
    assert build(small_resnet, 5, path).head.out_features == 5
    with pytest.raises(WeightsError, match='2 keys missing'): build(small_resnet, weights=path)


def test_inceptions_auxiliary_keys_are_left_out(saved):
    model = models.inception_v3(init_weights=False)
    net = build(inception_v3, 5, saved(model.state_dict()))
    assert head_name(net) == 'fc' and not any('AuxLogits' in key for key in net.state_dict())
    torch.testing.assert_close(net.Mixed_7c.branch_pool.conv.weight, model.Mixed_7c.branch_pool.conv.weight)
    assert isinstance(net.train()(torch.zeros(2, 3, 75, 75)), torch.Tensor)


@pytest.mark.parametrize('change,message', [
    (lambda state: state | {'extra.weight': torch.zeros(1)}, '1 unexpected'),
    (lambda state: {key: value for key, value in state.items() if key != 'stem.0.weight'}, '1 keys missing'),
    (lambda state: state | {'stem.0.weight': torch.zeros(1, 2, 3, 4)}, 'size mismatch for stem.0.weight'),
    (lambda state: {'state_dict': state, 'epoch': 3}, 'holds more than a state dict'),
    (lambda state: torch.zeros(3), 'holds more than a state dict'),
], ids=['extra', 'missing', 'shape', 'checkpoint', 'tensor'])
def test_weights_that_do_not_fit_say_why(saved, change, message):
    path = saved(change(small_resnet().state_dict()))
    with pytest.raises(WeightsError, match=message) as caught: build(small_resnet, 5, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('said,message', [
    ('{"mean": [0.5]}', 'three numbers'),
    ('{"std": [0, 1, 1]}', 'above zero'),
    ('{"padding": "valid"}', "'torch' or 'same'"),
    ('{"batch_norm": "gone"}', "'plain' or 'folded'"),
    ('[1, 2]', 'needs an object'),
    ('{"mean": ', 'not readable as JSON'),
])
def test_descriptions_without_sense_say_why(saved, tmp_path, said, message):
    path = saved(small_resnet().state_dict())
    (tmp_path/'net.json').write_text(said)
    with pytest.raises(WeightsError, match=message): build(small_resnet, 5, path)


@pytest.mark.parametrize('content', [b'', b'<html>Not Found</html>', b'PK\x03\x04 cut off'])
def test_files_that_are_no_weights_say_so(tmp_path, content):
    (tmp_path/'net.pth').write_bytes(content)
    with pytest.raises(WeightsError, match='not a state dict'): build(small_resnet, 5, tmp_path/'net.pth')


def test_a_missing_file_is_no_silent_random_net(tmp_path):
    with pytest.raises(WeightsError, match='no such weights file'): build(small_resnet, 5, tmp_path/'net.pth')


# Downloads

def test_without_a_network_the_error_names_the_remedy(monkeypatch, tmp_path):
    def no_network(*args, **kwargs): raise urllib.error.URLError('no network')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', no_network)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(WeightsError, match=r'mobilenet_v2.*could not be downloaded.*weights=PATH'):
        build(mobilenet_v2, 8, 'imagenet')
    with pytest.raises(WeightsError, match='inception_v3.*could not be downloaded'): build(inception_v3, 8, 'imagenet')


def test_downloads_say_how_they_are_fed(monkeypatch):
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url',
                        lambda *args, **kwargs: models.mobilenet_v2().state_dict())
    model = build(mobilenet_v2, 8, 'imagenet')
    assert model.weights.mean == IMAGENET_MEAN and model(torch.zeros(1, 3, 64, 64)).shape == (1, 8)


def test_a_downloaded_inception_has_one_output_and_takes_imagenet_inputs(monkeypatch):
    published = models.inception_v3(init_weights=False)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url',
                        lambda *args, **kwargs: published.state_dict())
    net, x = build(inception_v3, weights='imagenet').eval(), torch.randn(2, 3, 75, 75)
    published.transform_input = True
    torch.testing.assert_close(net(x), published.eval()(x))
    assert not any('AuxLogits' in key for key in net.state_dict())


# Names

@pytest.mark.parametrize('name', ['resnet5', '', 'no.such:net', 'torchvision.models:nothing',
                                  ':', 'har_nb.models.backbones:IMAGENET_MEAN'])
def test_names_that_lead_nowhere_fail(name):
    with pytest.raises(ValueError): resolve(name)


def test_names_lead_to_functions():
    assert resolve('small_resnet') is small_resnet
    assert resolve('torchvision.models:resnet18') is models.resnet18


def test_a_replaced_head_keeps_features_and_bias():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    head = replace_head(net, 9)[2]
    assert (head.in_features, head.out_features, head.bias) == (4, 9, None)


# Nets of timm

@no_grad
def test_mobilenet_v1_is_timms_own(one_thread, features_file, pictures):
    timm, file = pytest.importorskip('timm'), features_file
    original = timm.create_model('mobilenetv1_100', pad_type='same').eval()
    original.load_state_dict({key: value.float() for key, value in torch.load(file, weights_only=True).items()},
                             strict=False)
    expected = original.forward_features(pictures)
    for backbone in (mobilenet_v1, timm.models.mobilenetv1_100, resolve('timm.models:mobilenetv1_100'),
                     partial(timm_net, 'mobilenetv1_100', pad_type='same')):
        net = build(backbone, 5, file).eval()
        torch.testing.assert_close(net.forward_features(pictures), expected, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(quiet_dropout(net).forward_features(pictures), expected, atol=1e-3, rtol=1e-3)
        assert net(pictures).shape == (6, 5)
    maps = build(mobilenet_v1, weights=file, maps=True).train()
    torch.testing.assert_close(maps(pictures), expected, atol=1e-3, rtol=1e-3)
    assert maps.weights.mean == (.5,)*3
    plain = build(mobilenet_v1, 5, replace(net.weights, padding='torch')).eval()
    assert centred_cosine(plain.forward_features(pictures).mean((2, 3)), expected.mean((2, 3))).min() < .95


def test_timms_weights_that_cannot_be_had_say_so(monkeypatch):
    timm = pytest.importorskip('timm')
    def no_network(name, pretrained=False, **kwargs): raise OSError('no network')
    monkeypatch.setattr(timm, 'create_model', no_network)
    with pytest.raises(WeightsError, match=r'timm_net mobilenetv1_100.*could not be downloaded.*weights=PATH'):
        build(mobilenet_v1, 8, 'imagenet')


def test_timms_weights_say_how_they_are_fed(monkeypatch):
    timm = pytest.importorskip('timm')
    create, asked = timm.create_model, []
    def offline(name, pretrained=False, **kwargs): asked.append(pretrained); return create(name, **kwargs)
    monkeypatch.setattr(timm, 'create_model', offline)
    assert build(mobilenet_v1, 8, 'imagenet').weights == Weights(mean=(.5,)*3, std=(.5,)*3) and asked == [True]


# Maps

@pytest.mark.parametrize('name', ['resnet18', 'densenet121', 'inception_v3', 'efficientnet_b0', 'mobilenet_v3_small',
                                  'shufflenet_v2_x0_5', 'vgg11_bn', 'convnext_tiny', 'regnet_y_400mf'])
@no_grad
def test_maps_do_not_change_with_the_mode_that_traced_them(name):
    "Layers keep their training mode: maps of an evaluated net can train, and the other way round."
    torch.manual_seed(0)
    net = inception_v3() if name == 'inception_v3' else getattr(models, name)()
    x = torch.randn(2, 3, 96, 96)
    traced_in_training, traced_in_evaluation = feature_maps(net.train()), feature_maps(net.eval())
    torch.testing.assert_close(traced_in_training.eval()(x), traced_in_evaluation.eval()(x))
    torch.manual_seed(1); a = traced_in_training.train()(x)
    torch.manual_seed(1); b = traced_in_evaluation.train()(x)
    torch.testing.assert_close(a, b)
    assert a.ndim == 4 and set(traced_in_training.state_dict()) <= set(net.state_dict())


def test_a_net_without_pooling_has_no_maps():
    with pytest.raises(ValueError, match='no pooling over the whole'):
        feature_maps(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)))


def test_maps_from_a_file_need_no_head(saved):
    net = models.mobilenet_v3_small()
    path = saved({key: value for key, value in net.state_dict().items() if key.startswith('features.')})
    maps = build(models.mobilenet_v3_small, weights=path, maps=True)
    assert torch.equal(maps.state_dict()['features.0.0.weight'], net.features[0][0].weight)
    with pytest.raises(WeightsError, match='keys missing'): build(models.mobilenet_v3_small, 8, path)
    with pytest.raises(WeightsError, match='1 keys missing'):
        build(models.mobilenet_v3_small,
              weights=saved({key: value for key, value in net.state_dict().items() if key != 'features.0.0.weight'}),
              maps=True)
