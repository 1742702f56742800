"""Kept features under fire: killed, damaged, written by several at once, in a folder that cannot be written to; and the
two phases that start from them."""
import multiprocessing
import signal
from copy import deepcopy

import numpy as np
import pytest
from children import LIMIT, die, in_child
from later import collecting

from har_nb.data.synthetic import build
from har_nb.samples.archive import StoreError
from har_nb.samples.samplers import Segments
from har_nb.samples.store import Frame, Frames, decode_samples

if not collecting:
    import torch
    from torch import nn

    from har_nb.learning import features
    from har_nb.learning.features import Reordered, feature_loader, frame_features, net_digest, two_phases
    from har_nb.learning.learner import predict_probabilities, set_seed
    from har_nb.models.backbones import feature_maps, small_resnet
    from har_nb.models.transnet import TransNet, scaled_mean
    from har_nb.samples.loaders import sample_loader


@pytest.fixture(scope='module')
def sports(tmp_path_factory):
    return build(tmp_path_factory.mktemp('sets')/'sports',
                 people=4, takes=1, size=(48, 64), progress=False).carve_validation(.4)


@pytest.fixture(scope='module')
def clips(sports, tmp_path_factory):
    return decode_samples(sports, [Frames(Segments(6))], 32, tmp_path_factory.mktemp('cache'), progress=False)[0][0]


@pytest.fixture
def net():
    set_seed(0)
    return feature_maps(small_resnet(width=8))


def take(net, clips, cache, **kwargs): return frame_features(net, clips, cache, device='cpu', progress=False, **kwargs)


def test_images_and_clips_and_any_batch_size(net, sports, clips, tmp_path):
    (images,), _ = decode_samples(sports, [Frame(10, 30)], 32, tmp_path, progress=False)
    whole = take(net, images, tmp_path)
    assert whole.shape == (48, 2, 2) and len(whole) == len(images) and np.array_equal(whole.clip, images.clip)
    for batch_size in (1, 7, 1000):
        other = take(net, clips, tmp_path/str(batch_size), batch_size=batch_size)
        np.testing.assert_allclose(other.values, take(net, clips, tmp_path).values, atol=1e-5)
    half = take(net, clips, tmp_path, dtype='float16')
    assert half.computed and half.values.dtype == np.float16
    np.testing.assert_allclose(half.values, take(net, clips, tmp_path).values, atol=1e-2)


def test_the_net_is_left_as_it_was(net, clips, tmp_path):
    before, digest = deepcopy(net.state_dict()), net_digest(net)
    net.train()
    take(net, clips, tmp_path)
    assert net.training
    assert net_digest(net) == digest
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_mirrored_features_are_those_of_mirrored_frames(net, clips, tmp_path):
    class Mirrored(nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, x): return self.net(x.flip(-1))
    np.testing.assert_allclose(take(net, clips, tmp_path, mirrored=True).values,
                               take(Mirrored(net), clips, tmp_path).values, atol=1e-5)


if not collecting:
    class Watched(nn.Module):
        "Says, before each forward pass, the how many-th it is."
        def __init__(self, at):
            super().__init__()
            self.factor, self.at, self.calls = nn.Parameter(torch.ones(())), at, 0
        def forward(self, x):
            self.at(self.calls)
            self.calls += 1
            return x.mean((2, 3))*self.factor


def nothing_happens(call): pass


def dies(call): # the first pass asks for the shape, the second is a batch
    if call == 2: die()


def test_killed_half_way_nothing_is_believed_and_nothing_stays(clips, tmp_path):
    assert in_child(lambda: take(Watched(dies), clips, tmp_path, batch_size=6)) == -signal.SIGKILL
    assert list((tmp_path/'features').glob('.*.npy.*')) and not list((tmp_path/'features').glob('*.npy'))
    assert take(Watched(nothing_happens), clips, tmp_path).computed and not list((tmp_path/'features').glob('.*.npy.*'))
    assert not take(Watched(nothing_happens), clips, tmp_path).computed


def test_two_processes_want_the_same_and_one_computes(clips, tmp_path, monkeypatch):
    """The first stands in its second batch when the second comes to the lock, and goes on when that has seen that there
    is nothing yet."""
    fork = multiprocessing.get_context('fork')
    begun, go_on, told = fork.Event(), fork.Event(), fork.Queue()
    def stands(call):
        if call == 2: begun.set(), go_on.wait(LIMIT)
    child = fork.Process(target=lambda: told.put(take(Watched(stands), clips, tmp_path, batch_size=6).computed))
    child.start()
    assert begun.wait(LIMIT)
    real = features.alone
    def comes(file):
        go_on.set()
        return real(file)
    monkeypatch.setattr(features, 'alone', comes)
    assert not take(Watched(nothing_happens), clips, tmp_path).computed
    assert told.get(timeout=LIMIT)
    child.join()


@pytest.mark.parametrize('damage', ['cut', 'bits', 'header', 'no json', 'nonsense json', 'empty'])
def test_a_damaged_file_is_named_and_made_again(net, clips, tmp_path, damage):
    whole = np.array(take(net, clips, tmp_path).values)
    file, = (tmp_path/'features').glob('*.npy')
    content = bytearray(file.read_bytes())
    if damage == 'cut': file.write_bytes(content[:-10])
    elif damage == 'bits': content[len(content)//2] ^= 1; file.write_bytes(content)
    elif damage == 'header': file.write_bytes(b'nothing' + content[7:])
    elif damage == 'empty': file.write_bytes(b'')
    elif damage == 'no json': file.with_suffix('.json').unlink()
    else: file.with_suffix('.json').write_text('{')
    with pytest.warns(UserWarning, match='damaged'): again = take(net, clips, tmp_path)
    assert again.computed and np.array_equal(again.values, whole)
    assert not take(net, clips, tmp_path).computed


def test_what_is_there_is_read_without_writing(net, clips, tmp_path, monkeypatch):
    take(net, clips, tmp_path)
    def nothing(*_, **__): raise AssertionError('something is written')
    monkeypatch.setattr(features, 'alone', nothing); monkeypatch.setattr(features, '_write', nothing)
    assert not take(net, clips, tmp_path).computed


def test_no_place_to_write_is_told(net, clips, tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(StoreError, match='Name a folder that you may write to'): take(net, clips, tmp_path/'file')


def test_a_full_disk_is_told_and_leaves_nothing(net, clips, tmp_path, monkeypatch):
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(features, '_checksum', full)
    with pytest.raises(StoreError, match='Make room'): take(net, clips, tmp_path)
    assert not list((tmp_path/'features').glob('*.npy*')) and not list((tmp_path/'features').glob('.*.npy.*'))


def test_numbers_that_are_not_finite_are_told_and_leave_nothing(net, clips, tmp_path):
    next(net.parameters()).data.fill_(float('nan'))
    with pytest.raises(ValueError, match='not finite'): take(net, clips, tmp_path)
    assert not list((tmp_path/'features').glob('*.npy'))


def test_layers_count_as_much_as_numbers():
    def digest(layer): return net_digest(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False).requires_grad_(False), layer))
    torch.manual_seed(0); relu = digest(nn.ReLU())
    torch.manual_seed(0); same = digest(nn.ReLU())
    torch.manual_seed(0); gelu = digest(nn.GELU())
    assert relu == same != gelu


@pytest.mark.parametrize('watch', [True, False])
def test_two_phases(sports, clips, tmp_path, watch):
    def whole(epochs, freeze_epochs):
        set_seed(3)
        model = TransNet(feature_maps(small_resnet(width=8)), 8, n=6, vector=scaled_mean, size=32)
        before = deepcopy(model.net.state_dict())
        views = [take(model.net, clips, tmp_path, mirrored=side) for side in (False, True)] if freeze_epochs else None
        common = dict(dataset=sports, watch=watch, batch_size=8)
        on_features = features.both(feature_loader, views, **common) if freeze_epochs else None
        on_samples = features.both(sample_loader, clips, train=dict(flip=True), **common)
        learn = two_phases(model, model.after(), on_features, on_samples, epochs, freeze_epochs, 5e-3,
                           watch=watch, progress=False)
        return model, learn, all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    model, learn, untouched = whole(0, 3)
    assert untouched and (learn.recorder.values[-1][-1] is None) == (not watch)
    assert len(learn.dls.train.dataset) == len(sports.train) + (0 if watch else len(sports.valid))
    again = whole(0, 3)[0]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert not whole(1, 2)[2] and not whole(2, 0)[2]


def test_no_test_clip_is_trained_on(sports, clips, net, tmp_path):
    kept = take(net, clips, tmp_path)
    for watch in (True, False):
        loaders = features.both(feature_loader, kept, sports, watch=watch, device='cpu')
        assert not set(sports.clips.index[sports.clips.split == 'test']) & set(loaders.train.dataset.clip)


def test_reordered_frames_give_what_reordered_pictures_give(sports, clips, net, tmp_path):
    model = TransNet(net, 8, n=6, vector=scaled_mean, size=32).eval()
    kept = take(net, clips, tmp_path)
    for how in ('shuffled', 'reversed'):
        features_, pictures = Reordered(kept, how, 5), Reordered(clips, how, 5)
        assert np.array_equal(pictures.read([3])[0], clips.read([3])[0][pictures.order(3)])
        quick = predict_probabilities(model.after(), feature_loader(features_, sports, 'test', device='cpu'))
        slow = predict_probabilities(model, sample_loader(pictures, sports, 'test', device='cpu'))
        np.testing.assert_allclose(quick, slow, atol=1e-5)
    with pytest.raises(ValueError, match='sideways'): Reordered(clips, 'sideways')
