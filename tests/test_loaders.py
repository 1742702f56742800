"""Loaders: the same seed gives the same batches, no sample touches another, and validation, test and prediction see the
same."""
import pickle
import threading

import numpy as np
import pandas as pd
import pytest
from later import collecting, parametrize

from har_nb.data.dataset import ActionDataset
from har_nb.samples.samplers import EveryKth, OneClip, Segments, SpreadClips

if not collecting:
    import torch
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.core import TensorImage

    from har_nb.samples.loaders import (
        RandomColour,
        RandomCrop,
        RandomFlip,
        RandomZoom,
        SampleSet,
        TensorClip,
        View,
        as_batch,
        make_loaders,
        sample_loader,
    )

CLASSES = ['run', 'jump', 'sit']
if not collecting:
    CHANCE = [RandomFlip, lambda: RandomCrop(16), lambda: RandomZoom(.5), lambda: RandomColour(.5, .5, .5)]


class Held:
    "Samples in memory, with what loaders ask of `Samples`."
    def __init__(self, images, clip):
        self.data, self.clip, self.modality, self.threads = images, np.asarray(clip), 'arrays', set()
    def __len__(self): return len(self.data)
    def read(self, rows):
        self.threads.add(threading.get_ident())
        return self.data[rows]
    def of(self, rows): return np.flatnonzero(np.isin(self.clip, rows))


@pytest.fixture
def dataset(tmp_path):
    names = [f'{label}/{i}.avi' for label in CLASSES for i in range(8)]
    labels, splits = [name.split('/')[0] for name in names], (['train']*5 + ['valid'] + ['test']*2)*len(CLASSES)
    return ActionDataset(tmp_path, CLASSES, pd.DataFrame(dict(path=names, label=labels, group=names, split=splits)))


@pytest.fixture
def samples(dataset):
    "Seven images for each clip; the first pixel tells the row."
    clip = np.repeat(np.arange(len(dataset)), 7)
    images = np.random.default_rng(0).integers(0, 256, (len(clip), 20, 24, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(len(clip))
    return Held(images, clip)


def epochs(loader, n=2): return [(x.cpu(), y.tolist()) for _ in range(n) for x, y in loader]
def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) and c == d
                                          for (a, c), (b, d) in zip(one, other, strict=True))


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_a_seed_is_a_sequence_of_batches(samples, dataset, workers):
    settings = dict(batch_size=16, crop=16, augment=[RandomZoom(), RandomColour()], device='cpu')
    one = epochs(sample_loader(samples, dataset, 'train', seed=5, **settings))
    torch.manual_seed(99); np.random.seed(99)
    assert same(one, epochs(sample_loader(samples, dataset, 'train', seed=5, num_workers=workers, **settings)))
    assert not same(one, epochs(sample_loader(samples, dataset, 'train', seed=6, num_workers=workers, **settings)))
    assert not same(one[:len(one)//2], one[len(one)//2:]), 'the next epoch is another one'


def test_a_loader_goes_on_where_its_random_state_was(samples, dataset):
    loader = sample_loader(samples, dataset, 'train', seed=1, batch_size=16, device='cpu', augment=[RandomColour()])
    epochs(loader, 1)
    state = loader.rng.getstate()
    second = epochs(loader, 1)
    fresh = sample_loader(samples, dataset, 'train', seed=77, batch_size=16, device='cpu', augment=[RandomColour()])
    fresh.rng.setstate(state)
    assert same(second, epochs(fresh, 1))


@parametrize('chance', ['RandomFlip0', '<lambda>1', '<lambda>2', '<lambda>3'], lambda: CHANCE)
@pytest.mark.parametrize('shape', [(32, 20, 24, 3), (8, 4, 20, 24, 3)])
def test_no_sample_depends_on_another(chance, shape):
    draw = np.random.default_rng(0)
    one = draw.integers(0, 256, shape, dtype=np.uint8)
    other = one.copy()
    other[3] = draw.integers(0, 256, shape[1:])
    def seen(x):
        transform = chance()
        transform.generator = torch.Generator().manual_seed(0)
        return View(size=16)(transform(as_batch(x), split_idx=0))
    a, b = seen(one), seen(other)
    changed = (a != b).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == [3] and type(a) is (TensorImage if len(shape) == 4 else TensorClip) and not torch.isnan(a).any()
    assert torch.equal(chance()(as_batch(one), split_idx=1), as_batch(one)), 'validation is left alone'


@parametrize(
    'view',
    ['view0', 'view1', 'view2', 'view3'],
    lambda: [View(), View(crop=16), View(size=32), View(crop=18, size=12)],
)
@pytest.mark.parametrize('shape', [(64, 20, 24, 3), (64, 4, 20, 24, 3)])
def test_the_view_of_a_sample_is_the_same_alone_and_in_a_batch(view, shape):
    samples = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    whole = view(as_batch(samples))
    for i in (0, 1, 40, 63): assert torch.equal(view(as_batch(samples[i:i + 1]))[0], whole[i])
    assert torch.equal(view(as_batch(samples[5:38])), whole[5:38])


def test_the_plain_view_is_scaled_and_normalised_exactly():
    samples = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    mean, std = (.1, .2, .3), (.5, .6, .7)
    expected = (samples.astype(np.float32)/np.float32(255) - np.float32(mean))/np.float32(std)
    view = View(mean, std)
    assert np.array_equal(view(as_batch(samples)).numpy(), expected.transpose(0, 3, 1, 2))
    assert np.array_equal((view.decode(view(as_batch(samples)))*255).round().numpy(), samples.transpose(0, 3, 1, 2))


def test_validation_test_and_prediction_see_the_same(samples, dataset):
    settings = dict(crop=16, size=12, batch_size=5, device='cpu')
    view = View(crop=16, size=12)
    loaders = make_loaders(samples, dataset, augment=[RandomColour()], **settings)
    for split, loader in (
        ('valid', loaders.valid),
        ('test', sample_loader(samples, dataset, 'test', augment=[RandomColour()], **settings)),
    ):
        rows = samples.of(np.flatnonzero(dataset.clips.split == split))
        assert np.array_equal(loader.dataset.rows, rows) and np.array_equal(loader.dataset.clip, samples.clip[rows])
        assert torch.equal(torch.cat([torch.Tensor(x) for x, _ in loader]),
                           torch.Tensor(view(as_batch(samples.read(rows)))))
        assert [label for _, y in loader for label in y.tolist()] == dataset.labels[samples.clip[rows]].tolist()


def test_training_sees_every_sample_once_an_epoch(samples, dataset):
    loader = sample_loader(samples, dataset, 'train',
                           flip=False, batch_size=16, device='cpu', mean=(0, 0, 0), std=(1, 1, 1))
    seen = torch.cat([x[:, 0, 0, 0] for x, _ in loader]).mul(255).round().long().tolist()
    assert sorted(seen) == samples.of(np.flatnonzero(dataset.clips.split == 'train')).tolist() != seen


def test_windows_are_pixels_of_the_sample_and_differ_between_samples():
    samples = np.random.default_rng(0).integers(0, 256, (50, 3, 20, 24, 3), dtype=np.uint8)
    taken = RandomCrop(16)(as_batch(samples), split_idx=0).numpy()
    places = set()
    for clip, window in zip(samples, taken, strict=True):
        window = window.transpose(1, 2, 3, 0)
        found = [(top, left) for top in range(5) for left in range(9)
                 if np.array_equal(clip[:, top:top + 16, left:left + 16], window)]
        assert len(found) == 1, 'all frames of a clip have the same window'
        places |= set(found)
    assert len(places) > 20


def test_a_crop_that_does_not_fit(samples, dataset):
    with pytest.raises(ValueError, match='21 pixels does not fit into 20 x 24'):
        next(iter(sample_loader(samples, dataset, 'valid', crop=21, device='cpu')))


def test_colours_of_a_clip_change_together():
    samples = np.random.default_rng(0).integers(60, 180, (1, 1, 20, 24, 3), dtype=np.uint8).repeat(6, 0).repeat(5, 1)
    out = RandomColour(.3, .3, .3)(as_batch(samples), split_idx=0)
    assert torch.equal(out[:, :, 0], out[:, :, 4]) and len({tuple(x) for x in out[:, :, 0, 3, 3].tolist()}) == 6


def test_a_sampler_makes_clips_of_stored_frames(dataset):
    lengths = np.random.default_rng(0).integers(5, 40, len(dataset))
    clip = np.repeat(np.arange(len(dataset)), lengths)
    frames = np.zeros((len(clip), 8, 8, 3), np.uint8)
    frames[..., 0], frames[..., 1] = clip[:, None, None], np.concatenate([np.arange(n) for n in lengths])[:, None, None]
    held = Held(frames, clip)
    loaders = make_loaders(held, dataset, choice=OneClip(6, 2), valid_choice=SpreadClips(3, 6), flip=False,
                           batch_size=4, device='cpu', mean=(0, 0, 0), std=(1, 1, 1))
    train, valid = np.flatnonzero(dataset.clips.split == 'train'), np.flatnonzero(dataset.clips.split == 'valid')
    first = epochs(loaders.train, 3)
    for x, _ in first:
        told = (x[..., 0, 0]*255).round().long()
        assert (told[:, 0] == told[:, 0, :1]).all(), 'the frames of one clip'
        for row in told:
            length = lengths[row[0, 0]]
            possible = []
            for start in range(max(length - 11, 0) + 1):
                moments = np.arange(start, length, 2)[:6]
                possible.append(moments[np.arange(6) % len(moments)].tolist())
            assert row[1].tolist() in possible
    assert len(first) == 3*-(-len(train)//4)
    again = make_loaders(held, dataset, choice=OneClip(6, 2), flip=False, batch_size=4, device='cpu', mean=(0, 0, 0),
                         std=(1, 1, 1), num_workers=3)
    assert same(first, epochs(again.train, 3))
    assert np.array_equal(loaders.valid.dataset.clip, np.repeat(valid, 3))
    assert same(epochs(loaders.valid, 1), epochs(loaders.valid, 1)), 'validation does not change'
    images = make_loaders(held, dataset, choice=EveryKth(4), device='cpu')
    assert images.one_batch()[0].ndim == 4 and len(images.valid.dataset) == sum(-(-lengths[valid]//4))
    assert len(epochs(images.train, 2)) >= 2, 'the number of samples may change from epoch to epoch'


def test_an_empty_split_says_so(samples, dataset):
    with pytest.raises(ValueError, match='is this split empty'): SampleSet(samples, dataset, np.array([], int))


def test_threads_gather_ahead_and_stop(samples, dataset):
    loader = sample_loader(samples, dataset, 'train', batch_size=16, num_workers=2, device='cpu')
    before = threading.active_count()
    batches = iter(loader)
    next(batches)
    assert threading.get_ident() not in samples.threads
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize('workers', [1, 2, 4])
def test_as_many_batches_as_threads_are_gathered_at_a_time(samples, dataset, workers):
    together, real = threading.Barrier(workers), samples.read
    def read(rows):
        together.wait(60) # comes back when all workers read; alone it would never
        return real(rows)
    samples.read = read
    loader = sample_loader(samples, dataset, 'train', batch_size=9, num_workers=workers, device='cpu')
    assert len(list(loader)) == len(loader) == 12 # a multiple of the workers


@pytest.mark.parametrize('workers', [0, 2])
def test_what_fails_in_a_thread_fails_here(samples, dataset, workers):
    def broken(rows): raise OSError('the store has gone')
    samples.read = broken
    with pytest.raises(OSError, match='has gone'):
        list(sample_loader(samples, dataset, 'valid', num_workers=workers, device='cpu'))


if not collecting:
    class MeanColour(torch.nn.Linear):
        def forward(self, x): return super().forward(x.flatten(2).mean(2))


@pytest.mark.parametrize('choice', [None, Segments(4)])
def test_fastai_shows_trains_and_exports(samples, dataset, choice, tmp_path):
    from matplotlib import pyplot as plt

    from har_nb.core import GAINED, LOST
    loaders = make_loaders(samples, dataset, batch_size=16, choice=choice, device='cpu', augment=[RandomColour()])
    learn = Learner(loaders, MeanColour(3, 3), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    learn.fit(2)
    loaders.show_batch(max_n=4)
    assert {ax.get_title() for ax in plt.gcf().axes if ax.get_title()} <= set(CLASSES)
    learn.show_results(max_n=3)
    titles = [(ax.get_title(), ax.title.get_color()) for ax in plt.gcf().axes if ax.get_title()]
    assert len(titles) == 3
    right = lambda title: len(set(title.split(' → '))) == 1
    assert all(color == (GAINED if right(title) else LOST) for title, color in titles)
    plt.close('all')
    learn.export('learner.pkl')
    assert (tmp_path/'learner.pkl').stat().st_size < 60_000
    assert len(pickle.dumps(loaders.train.dataset.new_empty())) < 5_000
