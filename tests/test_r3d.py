"""R3D: an inflated net is its image net on every frame; modes, originals and odd layers survive; what has no twin is
refused."""
from copy import deepcopy

import pytest
from later import collecting, parametrize

if not collecting:
    import torch
    from torch import nn
    from torchvision.models import resnet18, resnet50

    from har_nb.models.backbones import Weights, WeightsError
    from har_nb.models.cost import count_parameters
    from har_nb.models.r3d import inflate, r3d


@parametrize(
    'layer',
    ['Conv2d0', 'Conv2d1', 'Conv2d2', 'Conv2d3', 'BatchNorm2d4', 'BatchNorm2d5', 'BatchNorm2d6', 'MaxPool2d7',
     'MaxPool2d8', 'AvgPool2d9', 'AdaptiveAvgPool2d(output_size=(2, 3))', 'Sequential11'],
    lambda: [nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2)),
             nn.Conv2d(4, 8, 3, padding='same', dilation=2, groups=4),
             nn.Conv2d(4, 6, 5, padding=2, padding_mode='reflect', bias=False), nn.BatchNorm2d(4),
             nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, eps=1e-3, momentum=.3), nn.MaxPool2d(3, 2, 1),
             nn.MaxPool2d((2, 3), ceil_mode=True), nn.AvgPool2d(3, 2, 1, count_include_pad=False),
             nn.AdaptiveAvgPool2d((2, 3)), nn.Sequential(nn.Dropout2d(.5), nn.ReLU())],
)
@pytest.mark.parametrize('training', [False, True])
def test_each_layer_agrees_with_its_twin_frame_by_frame(layer, training):
    torch.manual_seed(0)
    layer = nn.Sequential(deepcopy(layer)).double().train(
        training and not any(isinstance(m, nn.Dropout2d) for m in layer.modules())
    )
    twin, clip = inflate(layer), torch.randn(2, 4, 3, 11, 13, dtype=torch.float64)
    assert [m.training for m in twin.modules()] == [m.training for m in layer.modules()]
    assert list(twin.state_dict()) == list(layer.state_dict())
    each = layer(clip.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3)).transpose(1, 2)
    torch.testing.assert_close(twin(clip), each, atol=1e-12, rtol=1e-12)


def test_the_original_stays_as_it_is():
    net = resnet18(num_classes=3).eval()
    before, kinds = deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    clip_net = inflate(net)
    for p in clip_net.parameters(): p.data.zero_()
    assert kinds == [type(m) for m in net.modules()]
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))


@parametrize('backbone', ['resnet18', 'resnet50'], lambda: [resnet18, resnet50])
def test_a_clip_gives_the_mean_of_its_frames(tmp_path, backbone):
    torch.manual_seed(0)
    image_net = backbone(num_classes=4)
    torch.save(image_net.state_dict(), tmp_path/'net.pth')
    clip_net = r3d(Weights(tmp_path/'net.pth', mean=(.5, .5, .5)), 4, backbone).double().eval()
    image_net.double().eval()
    with torch.no_grad(): clip_net.head.weight.copy_(image_net.fc.weight), clip_net.head.bias.copy_(image_net.fc.bias)
    clip = torch.randn(2, 3, 5, 48, 64, dtype=torch.float64)
    with torch.no_grad():
        each = torch.stack([image_net(frame) for frame in clip.unbind(2)], 1)
        torch.testing.assert_close(clip_net(clip), each.mean(1), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(clip_net(clip[:, :, :1]), each[:, 0], atol=1e-10, rtol=1e-10)
    assert clip_net.weights.mean == (.5, .5, .5) and count_parameters(clip_net) == count_parameters(image_net)


def test_weights_that_do_not_fit_say_so(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path/'18.pth')
    with pytest.raises(WeightsError, match='another net than resnet50'): r3d(tmp_path/'18.pth', 4)


def test_folded_batch_norm_is_refused_by_name(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path/'18.pth')
    with pytest.raises(ValueError, match='FrozenBatchNorm2d has no twin'):
        r3d(Weights(tmp_path/'18.pth', batch_norm='folded'), 4, resnet18)


def test_it_learns_and_sizes_are_free():
    net = r3d(num_classes=3, backbone=resnet18, dropout=.2)
    out = net(torch.randn(2, 3, 3, 40, 56))
    out.square().sum().backward()
    assert out.shape == (2, 3) and all(p.grad.isfinite().all() for p in net.parameters())
