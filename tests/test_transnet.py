"TransNet with real weights, through files and copies, and its head against sums written out."
import pickle
from copy import deepcopy
from functools import partial

import pytest
from later import collecting, no_grad, parametrize

if not collecting:
    import torch
    from torch import nn
    from torchvision.models import densenet121, resnet18, vgg16, vgg19

    from har_nb.models.backbones import mobilenet_v1, mobilenet_v2, small_resnet
    from har_nb.models.cost import count_parameters
    from har_nb.models.transnet import Table1Head, TextHead, TransNet, dense, mean, three_layers

if not collecting:
    narrow = partial(small_resnet, width=8)


@parametrize(
    'backbone,filters,printed',
    ['backbone0-64-printed0', 'backbone1-128-printed1', 'mobilenet_v2-64-printed2', 'mobilenet_v2-128-printed3',
     'vgg16-64-printed4', 'vgg16-128-printed5', 'vgg19-64-printed6', 'vgg19-128-printed7'],
    lambda: [
        (mobilenet_v1, 64, (6_444_288, 5_128, 6_449_416)),
        (mobilenet_v1, 128, (9_655_616, 18_376, 9_673_992)),
        (mobilenet_v2, 64, (6_277_248, 5_128, 6_282_376)),
        (mobilenet_v2, 128, (10_291_392, 18_376, 10_309_768)),
        (vgg16, 64, (16_322_432, 5_128, 16_327_560)),
        (vgg16, 128, (17_928_128, 18_376, 17_946_504)),
        (vgg19, 64, (21_632_128, 5_128, 21_637_256)),
        (vgg19, 128, (23_237_824, 18_376, 23_256_200)),
    ],
)
def test_table_1_to_the_digit(backbone, filters, printed):
    with torch.device('meta'): model = TransNet(backbone, 6, head=Table1Head, vector=partial(dense, width=filters))
    one = count_parameters(model.head, statistics=True)
    total = count_parameters(model, statistics=True)
    assert (total - one, one, total) == printed


@pytest.mark.parametrize('width,printed', [(64, 5_128), (128, 18_376)])
def test_both_readings_of_table_1_meet_its_counts_and_the_third_layer_is_in_them(width, printed):
    in_pairs, one_by_one = Table1Head(width, 6, n=12), Table1Head(width, 6, n=7, stride=1)
    assert count_parameters(in_pairs, statistics=True) == count_parameters(one_by_one, statistics=True) == printed
    assert one_by_one(torch.randn(2, 7, width)).shape == (2, 6)
    assert count_parameters(three_layers(width, 6).third) == count_parameters(in_pairs.dense) == 6*6 + 6 == 42
    assert count_parameters(TextHead(width, 6).third) == 0


def test_by_default_a_head_that_cuts_every_score_still_learns():
    "The text's two layers alone answer 'all classes alike' for ever once the last ReLU cuts all scores."
    def learns(head):
        torch.manual_seed(0)
        model = TransNet(narrow, 3, n=4, size=32, **head)
        nn.init.constant_(model.head.whole.bias, -100)
        nn.functional.cross_entropy(model(torch.randn(2, 3, 4, 32, 32)), torch.tensor([0, 2])).backward()
        return sum(p.grad.abs().sum() for p in model.head.parameters()).item() > 0
    assert learns({}) and not learns(dict(head=TextHead))


def the_sums(head, z):
    "Equations of h and v for one clip, n L, index by index."
    n, L = z.shape
    w, b, w_hat, b_hat = head.pairs.weight, head.bias, head.whole.weight, head.whole.bias
    h = [[max(0., sum(float(z[k, l]*w[j, l, k - i]) for l in range(L) for k in (i, i + 1)) + float(b[j, i]))
          for j in range(len(w))] for i in range(n - 1)]
    return [max(0., sum(h[k][l]*float(w_hat[j, l, k]) for k in range(n - 1) for l in range(len(w))) + float(b_hat[j]))
            for j in range(len(w_hat))]


@pytest.mark.parametrize('n,L,K,C', [(2, 3, 4, 2), (3, 1, 1, 1), (12, 5, 3, 6), (32, 2, 2, 3)])
@no_grad
def test_the_head_is_the_papers_sums(n, L, K, C):
    torch.manual_seed(n)
    head = TextHead(L, C, n, kernels=K).double()
    nn.init.normal_(head.bias)
    clips = torch.randn(2, n, L, dtype=torch.float64)
    torch.testing.assert_close(head(clips), torch.tensor([the_sums(head, z) for z in clips], dtype=torch.float64),
                               atol=1e-12, rtol=0)


@no_grad
def test_the_third_layer_mixes_the_scores_of_the_second():
    torch.manual_seed(0)
    head, clips = TextHead(4, 5, 6, third=True), torch.randn(3, 6, 4)
    third, head.third = head.third, nn.Identity()
    scores = head(clips)
    head.third = third
    torch.testing.assert_close(head(clips), scores @ third.weight[..., 0].T + third.bias)
    assert (head(clips) < 0).any()


@no_grad
def test_the_head_of_table_1_is_separable():
    torch.manual_seed(0)
    head, z = Table1Head(4, 3, n=6).double().eval(), torch.randn(6, 4, dtype=torch.float64)
    each, mix, bias = head.pairs.each.weight[:, 0], head.pairs.mix.weight[..., 0], head.pairs.mix.bias
    h = [torch.relu(mix @ (each*z[2*i:2*i + 2].T).sum(1) + bias) for i in range(3)]
    each, mix, bias = head.whole.each.weight[:, 0], head.whole.mix.weight[..., 0], head.whole.mix.bias
    v = torch.relu(mix @ (each*torch.stack(h, 1)).sum(1) + bias)
    torch.testing.assert_close(head(z[None])[0], head.dense(head.norm(v[None]))[0])


@parametrize(
    'head',
    ['TextHead', 'Table1Head', 'head2'],
    lambda: [TextHead, Table1Head, partial(TextHead, third=True, kernels=7)],
)
@pytest.mark.parametrize('n', [2, 4, 12, 32])
def test_any_number_of_frames_and_classes(head, n):
    model = TransNet(narrow, 5, n=n, head=head, vector=mean, size=32)
    clips = torch.randn(3, 3, n, 32, 32)
    assert model.frames(clips).shape == (3, n, 48) and model(clips).shape == (3, 5)


def test_odd_numbers_and_wrong_lengths_fail():
    with pytest.raises(ValueError, match='even number'): TransNet(narrow, 5, n=7, head=Table1Head, size=32)
    with pytest.raises(RuntimeError): TransNet(narrow, 5, n=6, size=32)(torch.randn(2, 3, 7, 32, 32))


@parametrize(
    'backbone',
    ['small_resnet', 'resnet18', 'densenet121', 'mobilenet_v1'],
    lambda: [narrow, resnet18, densenet121, mobilenet_v1],
)
def test_every_part_learns(backbone):
    torch.manual_seed(0)
    model = TransNet(backbone, 4, n=3, head=partial(TextHead, third=True), size=(64, 96))
    nn.functional.cross_entropy(model(torch.randn(2, 3, 3, 64, 96)), torch.tensor([0, 3])).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(sum(p.grad.abs().sum() for p in part.parameters()) > 0 for part in (model.net, model.vector, model.head))


@no_grad
def test_frames_are_seen_one_by_one_and_in_order():
    torch.manual_seed(0)
    model, clips = TransNet(narrow, 4, n=4, size=32).eval(), torch.randn(2, 3, 4, 32, 32)
    features = model.frames(clips)
    for b in range(2):
        for t in range(4): torch.testing.assert_close(features[b, t], model.vector(model.net(clips[b:b + 1, :, t]))[0])
    torch.testing.assert_close(model.frames(clips.flip(2)), features.flip(1))
    torch.testing.assert_close(model.head(features), model(clips))


@no_grad
def test_copies_and_files_compute_the_same(tmp_path):
    torch.manual_seed(0)
    model, clips = TransNet(narrow, 4, n=4, size=32).eval(), torch.randn(2, 3, 4, 32, 32)
    torch.save(model, tmp_path/'model.pth')
    for again in (deepcopy(model), pickle.loads(pickle.dumps(model)),
                  torch.load(tmp_path/'model.pth', weights_only=False)):
        torch.testing.assert_close(again(clips), model(clips))
        assert again.state_dict().keys() == model.state_dict().keys() and again.weights == model.weights
    other = TransNet(narrow, 4, n=4, size=32).eval()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(clips), model(clips))


@no_grad
def test_published_weights_see_frames_as_timm_does(features_file, pictures):
    timm, file = pytest.importorskip('timm'), features_file
    model = TransNet(mobilenet_v1, 4, n=2, vector=mean, weights=file).eval()
    original = timm.create_model('mobilenetv1_100', pad_type='same', num_classes=0).eval()
    original.load_state_dict({key: value.float() for key, value in torch.load(file, weights_only=True).items()},
                             strict=False)
    clips = pictures[:2].transpose(0, 1)[None]
    expected = original(clips.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(model.frames(clips)[0], expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(model.train().frames(clips)[0], expected, atol=1e-3, rtol=1e-3)
    assert (model.weights.mean, model.weights.padding, model.weights.batch_norm) == ((.5,)*3, 'same', 'folded')
    assert pickle.loads(pickle.dumps(model)).eval().frames(clips).allclose(model.frames(clips), atol=1e-4)
