"Masks, their metrics, and encoders that go through files into other nets."
import json
from functools import partial

import numpy as np
import pytest
from later import collecting, no_grad, parametrize

if not collecting:
    import torch
    from torch import nn
    from torchvision.models import densenet121, vgg11

    from har_nb.models.backbones import Weights, WeightsError, inception_v3, mobilenet_v1, small_resnet
    from har_nb.models.segmentation import Autoencoder, dice, iou, mask_loss, save_encoder
    from har_nb.models.transnet import TransNet, mean
    from har_nb.models.transnet import narrow as scaled

if not collecting:
    narrow = partial(small_resnet, width=8)


@parametrize(
    'backbone,size',
    ['backbone0-size0', 'backbone1-size1', 'inception_v3-size2', 'densenet121-size3', 'backbone4-size4'],
    lambda: [
        (narrow, (64, 64)),
        (narrow, (50, 71)),
        (inception_v3, (96, 120)),
        (densenet121, (64, 96)),
        (mobilenet_v1, (64, 64)),
    ],
)
@no_grad
def test_masks_have_the_size_of_pictures(backbone, size):
    assert Autoencoder(backbone, width=32).eval()(torch.zeros(2, 3, *size)).shape == (2, 1, *size)


def test_metrics_against_sets_of_pixels():
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(6, 1, 9, 7)), rng.random((6, 1, 9, 7)) < .3
    masks[0], logits[0], masks[1], logits[2] = False, -1, False, -1
    for values, expected in (
        (iou, lambda a, b: len(a & b)/len(a | b)),
        (dice, lambda a, b: 2*len(a & b)/(len(a) + len(b))),
    ):
        sets = [[set(np.flatnonzero(array)) for array in pair] for pair in zip(logits > 0, masks, strict=True)]
        by_hand = [expected(a, b) if a | b else 1. for a, b in sets]
        torch.testing.assert_close(values(torch.from_numpy(logits), torch.from_numpy(masks)),
                                   torch.tensor(by_hand, dtype=torch.float32))
    assert by_hand[0] == 1 and by_hand[1] == by_hand[2] == 0


@parametrize('mask', ['mask0', 'mask1'], lambda: [torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool)])
def test_the_loss_is_finite_at_its_edges_and_falls(mask):
    logits = torch.full((2, 1, 8, 8), 30. if mask.any() else -30., requires_grad=True)
    right, wrong = mask_loss(logits, mask), mask_loss(-logits, mask)
    wrong.backward()
    assert right < 1e-3 < wrong and logits.grad.isfinite().all() and logits.grad.abs().sum() > 0
    assert mask_loss(logits, mask, dice=0) == nn.functional.binary_cross_entropy_with_logits(logits, mask.float())


@parametrize('backbone', ['small_resnet', 'vgg11', 'densenet121'], lambda: [narrow, scaled(vgg11), densenet121])
def test_transnet_starts_from_the_very_numbers(backbone, tmp_path):
    torch.manual_seed(0)
    model = Autoencoder(backbone, width=16).train()
    with torch.no_grad(): model(torch.randn(2, 3, 64, 64))
    file = save_encoder(model, tmp_path/'person.pth')
    net = TransNet(backbone, 6, vector=mean, size=64, weights=file).net
    assert net.state_dict().keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(value, model.encoder.state_dict()[key])
               for key, value in net.state_dict().items()
               if not key.endswith('num_batches_tracked'))
    assert not any('classifier' in key or 'head' in key for key in torch.load(file, weights_only=True))
    again = Autoencoder(backbone, weights=file, width=16)
    assert all(torch.equal(a, b) for a, b in zip(again.encoder.parameters(), model.encoder.parameters(), strict=True))


def test_another_net_is_refused(tmp_path):
    file = save_encoder(Autoencoder(narrow), tmp_path/'person.pth')
    with pytest.raises(WeightsError, match='another net'): TransNet(small_resnet, 6, size=64, weights=file)
    with pytest.raises(WeightsError, match='another net'): TransNet(scaled(vgg11), 6, size=64, weights=file)


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def broken(state, path): path.write_bytes(b'half'); raise OSError('no space left')
    monkeypatch.setattr(torch, 'save', broken)
    with pytest.raises(OSError, match='no space'): save_encoder(Autoencoder(narrow), tmp_path/'person.pth')
    assert list(tmp_path.iterdir()) == []


@no_grad
def test_an_encoder_from_folded_weights_keeps_what_it_needs(features_file, tmp_path):
    model = Autoencoder(mobilenet_v1, weights=features_file, width=16)
    file = save_encoder(model, tmp_path/'person.pth')
    said = json.loads((tmp_path/'person.json').read_text())
    assert (said['mean'], said['padding'], said['batch_norm']) == ([.5]*3, 'same', 'folded')
    net, picture = TransNet(mobilenet_v1, 6, size=64, weights=file).net, torch.rand(2, 3, 64, 64)*2 - 1
    assert net.weights == Weights(file, (.5,)*3, (.5,)*3, 'same', 'folded')
    torch.testing.assert_close(net.train()(picture), model.encoder.eval()(picture))
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in model.encoder.parameters())


def test_a_few_steps_paint_a_square():
    torch.manual_seed(0)
    pictures, masks = torch.zeros(32, 3, 32, 32), torch.zeros(32, 1, 32, 32)
    for picture, mask, (y, x) in zip(pictures, masks, torch.randint(0, 20, (32, 2)).tolist(), strict=True):
        picture[:, y:y + 12, x:x + 12] = mask[:, y:y + 12, x:x + 12] = 1
    model = Autoencoder(narrow)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(40):
        loss = mask_loss(model(pictures), masks)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert iou(model(pictures), masks).mean() > .7
