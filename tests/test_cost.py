"Costs against what torchvision publishes, and layers that a counter may overlook."
from functools import partial

import pytest
from later import collecting, parametrize

if not collecting:
    import torch
    from torch import nn
    from torchvision import models
    from torchvision.models import get_model_weights

    from har_nb.models.backbones import (
        densenet201,
        efficientnet_b0,
        freeze_batch_norm,
        inception_v3,
        mobilenet_v2,
        resnet50,
        small_resnet,
    )
    from har_nb.models.cost import cost, count_operations, count_parameters, latency, output_shape, stage_shapes

if not collecting:
    AUXILIARY = {inception_v3: 3_326_696}  # parameters of the output that our Inception leaves out


@parametrize(
    'backbone',
    ['efficientnet_b0', 'densenet201', 'inception_v3', 'resnet50', 'mobilenet_v2'],
    lambda: [efficientnet_b0, densenet201, inception_v3, resnet50, mobilenet_v2],
)
@pytest.mark.parametrize('device', ['meta', 'cpu'])
def test_the_five_backbones_cost_what_torchvision_publishes(backbone, device):
    "Parameters exactly; multiply-adds are published in billions with three decimals, so to half of the last one."
    meta = get_model_weights(backbone.__name__).DEFAULT.meta
    size = 299 if backbone is inception_v3 else 224
    with torch.device(device): model, picture = backbone(), torch.zeros(1, 3, size, size)
    assert count_parameters(model) == meta['num_params'] - AUXILIARY.get(backbone, 0)
    assert abs(count_operations(model, picture)/1e9 - meta['_ops']) <= .0005


@parametrize(
    'backbone',
    ['r3d_18', 'mc3_18', 'r2plus1d_18'],
    lambda: [models.video.r3d_18, models.video.mc3_18, models.video.r2plus1d_18],
)
def test_nets_for_clips_cost_what_torchvision_publishes(backbone):
    meta = get_model_weights(backbone).DEFAULT.meta
    with torch.device('meta'): model = backbone()
    assert count_parameters(model) == meta['num_params']
    assert abs(count_operations(model, torch.zeros(1, 3, 16, 112, 112))/1e9 - meta['_ops']) <= .0005


if not collecting:
    class SelfAttention(nn.Module):
        def forward(self, x): return nn.functional.scaled_dot_product_attention(x, x, x)


@parametrize(
    'net,shape,expected',
    ['1D', '1D depthwise', '3D flat', '3D grouped', 'linear', 'attention', 'encoder layer', 'lstm', 'nothing'],
    lambda: [
        (nn.Conv1d(8, 6, 3, stride=2), (2, 8, 21), 2*10*6 * 8*3),
        (nn.Conv1d(8, 8, 3, groups=8), (1, 8, 20), 18*8*3),
        (nn.Conv3d(4, 6, (1, 3, 3), padding=(0, 1, 1)), (1, 4, 5, 8, 8), 5*8*8*6 * 4*9),
        (nn.Conv3d(4, 6, 3, groups=2, padding=1), (1, 4, 5, 8, 8), 5*8*8*6 * 2*27),
        (nn.Linear(7, 5), (3, 4, 7), 3*4*7*5),
        (SelfAttention(), (2, 4, 10, 8), 2*4 * 2*10*10*8),
        (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), (1, 10, 32), 4*10*32*32 + 2*10*10*32 + 2*10*32*64),
        (nn.LSTM(32, 16, batch_first=True), (1, 10, 32), 10*4*(32*16 + 16*16)),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), (1, 3, 8, 8), 0),
    ],
)
def test_each_kind_of_layer(net, shape, expected):
    class First(nn.Module):
        def __init__(self): super().__init__(); self.net = net
        def forward(self, x): out = self.net(x); return out[0] if isinstance(out, tuple) else out
    assert count_operations(First(), torch.zeros(shape)) == expected


@pytest.mark.parametrize('mode', [True, False])
def test_counting_and_timing_leave_the_net_as_it_was(mode):
    net = small_resnet().train(mode)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = torch.randn(2, 3, 32, 32)
    count_operations(net, x), output_shape(net, x), latency(net, x, times=2), stage_shapes(net, x)
    assert net.training == mode
    assert all(p.grad is None and p.requires_grad and p.device.type == 'cpu' for p in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    with pytest.raises(RuntimeError): count_operations(net, torch.zeros(1, 4, 32, 32))
    assert net.training == mode


def test_several_inputs_and_batches():
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Linear(4, 2), nn.Linear(6, 2)
        def forward(self, x, y): return self.a(x) + self.b(y)
    net, inputs = Two(), (torch.zeros(3, 4), torch.zeros(3, 6))
    assert count_operations(net, inputs) == 3*(8 + 12) and output_shape(net, inputs) == (3, 2)
    assert set(cost(net, inputs, times=2)) == {'parameters', 'gflops', 'latency_ms'}
    assert count_operations(small_resnet(), torch.zeros(5, 3, 64, 64)) == 5*13_239_040


def test_statistics_are_counted_as_keras_does():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False))
    assert [count_parameters(net), count_parameters(net, statistics=True)] == [3*8*9 + 8 + 16, 3*8*9 + 8 + 16 + 32]
    assert count_parameters(freeze_batch_norm(small_resnet()), trainable=True) < count_parameters(small_resnet())


def test_latency_runs_in_evaluation_without_gradients_and_takes_the_middle(monkeypatch):
    calls = []

    class Watched(nn.Module):
        def forward(self, x): calls.append((self.training, torch.is_inference_mode_enabled())); return x
    clock = iter([value for passed in [9, 9, 9, 1, 5, 2] for value in (0, passed/1000)])
    monkeypatch.setattr('har_nb.models.cost.perf_counter', partial(next, clock))
    assert latency(Watched(), torch.zeros(1), times=3) == pytest.approx(2)
    assert calls == [(False, True)]*6
