"Samplers: whatever the length of a clip, the frames they give exist, keep their order and follow from the seed."
import dataclasses
import weakref

import numpy as np
import pytest

from har_nb.motion.mei import batch_starts, motion_embed
from har_nb.samples.modalities import Frame, Frames, MotionEmbedding, interleave, resize
from har_nb.samples.samplers import AllClips, Batches, EveryKth, OneClip, Segments, ShiftingFrames, SpreadClips, looped, three_crops

SAMPLERS = [EveryKth(1), EveryKth(10), Batches(), Batches(10, 10), Batches(3, 7), OneClip(16), OneClip(64), OneClip(8, step=4), AllClips(16), AllClips(1), Segments(12), Segments(1),
            ShiftingFrames(), ShiftingFrames(epoch=250), SpreadClips(), SpreadClips(3, 8, 2), SpreadClips(1, 4)]


@pytest.mark.parametrize('sampler', SAMPLERS, ids=repr)
def test_indices_exist_for_every_length(sampler):
    for n_frames in (*range(1, 140), 1000, 18_001):
        for rng in (None, np.random.default_rng(n_frames)):
            taken = sampler(n_frames, rng)
            assert taken.dtype.kind == 'i' and taken.ndim == 2 and taken.shape[1] == sampler.length and len(taken) >= 1
            assert taken.min() >= 0 and taken.max() < n_frames
            if n_frames >= sampler.span and (rng is None or not isinstance(sampler, ShiftingFrames)): assert (np.diff(taken, axis=1) > 0).all()
            assert (np.diff(taken[:, 0]) >= 0).all()


@pytest.mark.parametrize('sampler', SAMPLERS, ids=repr)
def test_short_clips_are_looped(sampler):
    for n_frames in range(1, min(sampler.span, 140)):
        for row in sampler(n_frames):
            distinct = row[:len(np.unique(row))]
            assert (np.diff(distinct) > 0).all()
            np.testing.assert_array_equal(row, looped(distinct, sampler.length))
            assert len(distinct) < sampler.length or sampler.length == 1


@pytest.mark.parametrize('sampler', SAMPLERS, ids=repr)
def test_values_are_keys_and_seeds_repeat(sampler):
    assert sampler == dataclasses.replace(sampler) and hash(sampler) == hash(dataclasses.replace(sampler))
    with pytest.raises(dataclasses.FrozenInstanceError): sampler.length = 3
    np.testing.assert_array_equal(sampler(77), sampler(77))
    np.testing.assert_array_equal(sampler(77, np.random.default_rng(5)), sampler(77, np.random.default_rng(5)))


@pytest.mark.parametrize('sampler', [EveryKth(0), OneClip(0), OneClip(4, step=0), AllClips(0), Segments(0), ShiftingFrames(interval=0), ShiftingFrames(every=0), SpreadClips(clips=0), Batches(0), Batches(interval=0)], ids=repr)
def test_nonsense_is_refused(sampler):
    with pytest.raises(ValueError, match='must be 1 or more'): sampler(20)


@pytest.mark.parametrize('sampler', SAMPLERS, ids=repr)
def test_no_frames_are_refused(sampler):
    with pytest.raises(ValueError, match='must be 1 or more'): sampler(0)


def test_random_choices_reach_everything_and_nothing_else():
    drawn = {name: np.stack([sampler(50, np.random.default_rng(seed))[0] for seed in range(2000)]) for name, sampler in dict(clip=OneClip(16), segments=Segments(5)).items()}
    assert set(drawn['clip'][:, 0]) == set(range(35))
    for segment in range(5): assert set(drawn['segments'][:, segment]) == set(range(10*segment, 10*segment + 10))


def test_batches_are_those_of_motion_embedding():
    rng = np.random.default_rng(0)
    for n_frames in (4, 10, 11, 48, 60):
        clip = rng.integers(0, 256, (n_frames, 6, 8, 3), dtype=np.uint8)
        batches = Batches(10, 5)(n_frames)
        np.testing.assert_array_equal(batches[:, 0], batch_starts(n_frames, 10, 5))
        length = min(10, n_frames)
        each = np.concatenate([motion_embed(clip[row[:length]], 10, 5, 'equal') for row in batches])
        np.testing.assert_array_equal(each, motion_embed(clip, 10, 5, 'equal'))
        np.testing.assert_array_equal(Frame(10, 5)(clip), clip[batches[:, length - 1]])


@pytest.mark.parametrize('height, width', [(240, 320), (320, 240), (112, 112), (7, 9), (100, 333)])
def test_crops_lie_inside_and_cover_the_longer_side(height, width):
    crops = three_crops(height, width)
    assert (crops[:, :2] >= 0).all() and (crops[:, 0] + crops[:, 2] <= height).all() and (crops[:, 1] + crops[:, 2] <= width).all()
    long = 0 if height > width else 1
    assert crops[0, long] == 0 and crops[2, long] + crops[2, 2] == max(height, width)
    with pytest.raises(ValueError, match='does not fit'): three_crops(height, width, min(height, width) + 1)


@pytest.mark.parametrize('n_frames', [1, 3, 9, 10, 11, 15, 16, 17, 64, 131])
def test_one_pass_gives_what_the_whole_clip_gives(n_frames):
    clip = np.random.default_rng(n_frames).integers(0, 256, (n_frames, 24, 32, 3), dtype=np.uint8)
    modalities = [Frame(), MotionEmbedding(10, 5, 'equal'), MotionEmbedding(4, 9), *map(Frames, SAMPLERS)]
    found = [[] for _ in modalities]
    for place, sample in interleave(iter(clip), modalities, (12, 20), n_frames): found[place].append(sample)
    for modality, samples in zip(modalities, found, strict=True):
        np.testing.assert_array_equal(np.stack(samples), resize(modality(clip), (12, 20)), err_msg=repr(modality))
        assert samples[0].shape == modality.shape((12, 20)) and len(samples) == len(modality.sampler(n_frames))


def test_a_frame_is_let_go_when_nobody_needs_it():
    alive, most = weakref.WeakSet(), []
    class Picture(np.ndarray): __hash__ = object.__hash__
    def camera():
        for number in range(400):
            frame = np.full((8, 8, 3), number % 256, np.uint8).view(Picture)
            alive.add(frame); most.append(len(alive))
            yield frame
    assert sum(1 for _ in interleave(camera(), [Frame(2, 400), MotionEmbedding(3, 7)], 8)) == len(Batches(2, 400)(400)) + len(Batches(3, 7)(400))
    assert max(most) <= 9
