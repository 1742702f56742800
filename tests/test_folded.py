"A net whose batch norms are folded into its convolutions gives the same numbers, and leaves the net alone."
import copy

import pytest
from later import collecting

if not collecting:
    import torch
    from torch import nn

    from har_nb.learning.folded import folded


def unlike_new(net):
    "Statistics and factors as after a training."
    random = torch.Generator().manual_seed(0)
    for module in net.modules():
        if getattr(module, 'running_var', None) is None: continue
        for name, low in (('running_mean', -.5), ('running_var', .5), ('weight', .5), ('bias', -.5)):
            if (value := getattr(module, name, None)) is not None: value.data.uniform_(low, low + 1, generator=random)
    return net.eval()


def norms(net): return sum(getattr(module, 'running_var', None) is not None for module in net.modules())


def nets():
    "Name -> net, the shape of its input, norms that stay (there are some behind sums and joined maps)."
    from torchvision.models import densenet121, mobilenet_v2, resnet18

    from har_nb.models.backbones import feature_maps, freeze_batch_norm, same_padding, small_resnet
    from har_nb.models.r3d import small_3d
    return dict(
        mobilenet_v2=(mobilenet_v2(num_classes=7), (3, 64, 64), 0), resnet18=(resnet18(num_classes=7), (3, 64, 64), 0),
        densenet121=(densenet121(num_classes=7), (3, 64, 64), 62),
        padded=(freeze_batch_norm(same_padding(unlike_new(mobilenet_v2(num_classes=7)))), (3, 63, 65), 0),
        traced=(feature_maps(unlike_new(small_resnet(num_classes=7))), (3, 48, 48), 0),
        clips=(small_3d(num_classes=7), (3, 4, 24, 24), 0))


@pytest.mark.parametrize('name', ['mobilenet_v2', 'resnet18', 'densenet121', 'padded', 'traced', 'clips'])
def test_a_folded_net_gives_the_same_numbers_and_leaves_the_net_alone(name):
    net, shape, stay = nets()[name]
    unlike_new(net)
    kept, x = copy.deepcopy(net.state_dict()), torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(): expected = net(x)
    quick = folded(net, x[:1])
    assert quick is not net and norms(quick) == stay
    with torch.no_grad(): found, again = quick(x), net(x)
    assert (found - expected).abs().max() < 1e-4*expected.abs().max() and torch.equal(again, expected)
    assert all(torch.equal(value, kept[key]) for key, value in net.state_dict().items())


def test_activations_that_a_library_puts_into_its_norm_stay():
    timm = pytest.importorskip('timm')
    net = unlike_new(timm.create_model('mobilenetv3_small_050', num_classes=5))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(): expected, found = net(x), folded(net, x)(x)
    assert (found - expected).abs().max() < 1e-4*expected.abs().max()


def test_what_is_trained_or_listened_to_or_has_nothing_to_fold_is_given_back():
    x, layers = torch.randn(1, 3, 8, 8), (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert folded(net := nn.Sequential(*layers), x) is net, 'in training a norm is no constant'
    net.eval()[1].register_forward_hook(lambda *a: None)
    assert folded(net, x) is net
    assert folded(net := nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), x) is net, 'there is nothing to fold'


def test_a_layer_changed_in_place_before_its_norm_is_not_folded():
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        def forward(self, x): return self.norm(self.conv(x).relu_())
    net, x = unlike_new(Changed()), torch.randn(2, 3, 9, 9)
    assert folded(net, x) is net


def test_numbers_that_are_not_finite_stay_what_they_are():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    net[0].weight.data[0] = float('nan')
    assert folded(net, torch.randn(1, 3, 8, 8)) is net
