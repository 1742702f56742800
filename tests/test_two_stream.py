"Fusion of streams: means, weights, certainty without limits, gradients, and inputs that do not fit."
import numpy as np
import pytest
from later import collecting

if not collecting:
    import torch
    from torch import nn

    from har_nb.models.two_stream import EnsembleNet, TwoStream, fuse


if not collecting:
    class Fixed(nn.Module):
        "A net whose logits are its input."
        def forward(self, x): return x


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(3, 6, 5, dtype=torch.float64)*4


@pytest.mark.parametrize('weights', [None, [1, 1, 1], [.2, .5, .3], [3, 0, 1], [0, 0, 7]])
@pytest.mark.parametrize('by_logits', [False, True])
def test_module_and_function_agree_with_the_definition(logits, weights, by_logits):
    share = torch.tensor(weights or [1]*3, dtype=torch.float64)
    share = (share/share.sum())[:, None, None]
    expected = (share*logits).sum(0).softmax(1) if by_logits else (share*logits.softmax(2)).sum(0)
    fused = fuse([p.numpy() for p in logits.softmax(2)], weights, by_logits)
    torch.testing.assert_close(torch.from_numpy(fused), expected)
    net = EnsembleNet([Fixed() for _ in range(3)], weights, by_logits)
    torch.testing.assert_close(net(*logits).softmax(1), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(net(*logits).exp().sum(1), torch.ones(6, dtype=torch.float64), atol=1e-6, rtol=0)


def test_two_streams_are_equation_2(logits):
    normal, motion, _ = logits
    torch.testing.assert_close(TwoStream(Fixed(), Fixed())(normal, motion).exp(),
                               (normal.softmax(1) + motion.softmax(1))/2)


@pytest.mark.parametrize('by_logits', [False, True])
def test_certain_streams_that_contradict_each_other_stay_finite(by_logits):
    sure = torch.tensor([[1000., 0., 0.]]), torch.tensor([[0., 1000., 0.]])
    inputs = [x.clone().requires_grad_() for x in sure]
    out = TwoStream(Fixed(), Fixed(), logits=by_logits)(*inputs)
    nn.functional.cross_entropy(out, torch.tensor([2])).backward()
    assert out.isfinite().all() and all(x.grad.isfinite().all() for x in inputs)
    torch.testing.assert_close(out.exp(), torch.tensor([[.5, .5, 0.]]))
    fused = fuse([x.softmax(1).numpy() for x in sure], logits=by_logits)
    np.testing.assert_allclose(fused, [[.5, .5, 0.]], atol=1e-6)


@pytest.mark.parametrize('by_logits', [False, True])
def test_a_stream_of_weight_zero_learns_nothing_and_harms_nothing(logits, by_logits):
    normal, motion = (x.clone().requires_grad_() for x in logits[:2])
    nn.functional.cross_entropy(TwoStream(Fixed(), Fixed(), 1., by_logits)(normal, motion),
                                torch.zeros(6, dtype=torch.long)).backward()
    assert normal.grad.abs().sum() > 0 and motion.grad.abs().sum() == 0
    with torch.no_grad():
        torch.testing.assert_close(TwoStream(Fixed(), Fixed(), 1., by_logits)(normal, motion), normal.log_softmax(1),
                                   atol=1e-6, rtol=1e-5)


def test_one_input_serves_all_networks(logits):
    torch.testing.assert_close(EnsembleNet([Fixed(), Fixed()])(logits[0]), logits[0].log_softmax(1))


def test_weights_travel_with_the_state_dict():
    one, other = (EnsembleNet([nn.Linear(4, 3), nn.Linear(4, 3)], weights) for weights in ([1, 3], [1, 1]))
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 4)
    torch.testing.assert_close(one(x), other(x))


def test_what_does_not_fit_fails(logits):
    with pytest.raises(ValueError): fuse([])
    with pytest.raises(ValueError, match='different shapes'): fuse([np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(ValueError, match='3 inputs for 2'): EnsembleNet([Fixed(), Fixed()])(*logits)
    for weights in ([1], [1, -1], [0, 0], [float('nan'), 1]):
        with pytest.raises(ValueError): EnsembleNet([Fixed(), Fixed()], weights)
    for weight in (-.1, 1.1):
        with pytest.raises(ValueError): TwoStream(Fixed(), Fixed(), weight)
