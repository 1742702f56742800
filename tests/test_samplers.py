"Samplers: whatever the length of a clip, the frames they give exist, keep their order and follow from the seed."
import dataclasses
import weakref

import numpy as np
import pytest

from har_nb.motion.mei import batch_starts, motion_embed
from har_nb.samples.modalities import (
    ASPECTS,
    Frame,
    Frames,
    MotionEmbedding,
    fitted,
    interleave,
    kept_size,
    resize,
    shown,
)
from har_nb.samples.samplers import (
    AllClips,
    Batches,
    EveryKth,
    OneClip,
    Segments,
    ShiftingFrames,
    SpreadClips,
    looped,
    three_crops,
    ticks,
)

SAMPLERS = [EveryKth(1), EveryKth(10), Batches(), Batches(10, 10), Batches(3, 7), OneClip(16), OneClip(64),
            OneClip(8, step=4), AllClips(16), AllClips(1), Segments(12), Segments(1), ShiftingFrames(),
            ShiftingFrames(epoch=250), SpreadClips(), SpreadClips(3, 8, 2), SpreadClips(1, 4)]


@pytest.mark.parametrize('sampler', SAMPLERS, ids=repr)
def test_indices_exist_for_every_length(sampler):
    for n_frames in (*range(1, 140), 1000, 18_001):
        for rng in (None, np.random.default_rng(n_frames)):
            taken = sampler(n_frames, rng)
            assert taken.dtype.kind == 'i' and taken.ndim == 2 and taken.shape[1] == sampler.length and len(taken) >= 1
            assert taken.min() >= 0 and taken.max() < n_frames
            if n_frames >= sampler.span and (rng is None or not isinstance(sampler, ShiftingFrames)):
                assert (np.diff(taken, axis=1) > 0).all()
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


@pytest.mark.parametrize('sampler',
                         [EveryKth(0), OneClip(0), OneClip(4, step=0), AllClips(0), Segments(0),
                          ShiftingFrames(interval=0), ShiftingFrames(every=0), SpreadClips(clips=0), Batches(0),
                          Batches(interval=0)], ids=repr)
def test_nonsense_is_refused(sampler):
    with pytest.raises(ValueError, match='must be 1 or more'): sampler(20)


@pytest.mark.parametrize('sampler', SAMPLERS, ids=repr)
def test_no_frames_are_refused(sampler):
    with pytest.raises(ValueError, match='must be 1 or more'): sampler(0)


def test_random_choices_reach_everything_and_nothing_else():
    drawn = {name: np.stack([sampler(50, np.random.default_rng(seed))[0] for seed in range(2000)])
             for name, sampler in dict(clip=OneClip(16), segments=Segments(5)).items()}
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


@pytest.mark.parametrize('fps', [1, 7.5, 24, 25, 29.97, 60, 240])
def test_at_each_tick_the_frame_that_is_shown(fps):
    draw = np.random.default_rng(0)
    for n_frames in (1, 2, 3, 50, 300):
        times = np.concatenate([[0.], np.cumsum(draw.choice([.002, 1/60, 1/25, .5], n_frames - 1))]) + 3.
        taken = ticks(times, fps)
        assert taken[0] == 0 and (np.diff(taken) >= 0).all() and taken[-1] < n_frames
        moments = times[0] + np.arange(len(taken))/fps
        assert (times[taken] <= moments + .0011).all()
        assert (times[np.minimum(taken + 1, n_frames - 1)][taken < n_frames - 1]
                > moments[taken < n_frames - 1] + .0009).all()
        lasts = np.median(np.diff(times)) if n_frames > 1 else 0
        assert abs(len(taken)/fps - (times[-1] - times[0] + lasts)) <= 1/fps + .0011


@pytest.mark.parametrize('fps', [12, 24, 24000/1001, 25, 30, 60])
@pytest.mark.parametrize('rounded', [6, 3])
def test_a_clip_at_its_own_rate_stays_as_it_is(fps, rounded):
    np.testing.assert_array_equal(ticks((np.arange(500)/fps).round(rounded), fps), np.arange(500))
    np.testing.assert_array_equal(ticks((np.arange(500)/fps).round(rounded), fps/2), np.arange(0, 500, 2))
    assert np.bincount(ticks((np.arange(100)/fps).round(rounded), 2*fps)).tolist() == [2]*100


def test_no_clock_for_nothing():
    for times, fps in (([], 25), ([0.], 0), ([0.], -1), ([0.], np.inf)):
        with pytest.raises(ValueError, match='cannot be shown'): ticks(times, fps)
    for wrong in (dict(fps=0), dict(fps=float('nan')), dict(aspect='fill')):
        with pytest.raises(ValueError, match='fps=|aspect='): Frame(**wrong)


@pytest.mark.parametrize('aspect', ASPECTS)
@pytest.mark.parametrize('shape', [(90, 160), (160, 90), (48, 48), (1, 7), (37, 101)])
def test_shapes_of_pictures(aspect, shape):
    frame = np.random.default_rng(0).integers(1, 256, (*shape, 3), dtype=np.uint8)
    for size in (32, (24, 40)):
        found = fitted(frame, size, aspect)
        (height, width), (tall, wide) = found.shape[:2], (size, size) if size == 32 else size
        if aspect in ('squash', 'keep'): assert found is frame
        else: assert abs(height - width*tall/wide) <= 1 or min(height, width) == 1 or abs(width - height*wide/tall) <= 1
        if aspect == 'crop':
            assert height <= shape[0] and width <= shape[1] and (height == shape[0] or width == shape[1])
        if aspect == 'letterbox':
            assert (found > 0).sum() == frame.size
            assert np.array_equal(found[found.any((1, 2))][:, found.any((0, 2))], frame)
    kept = kept_size(shape, 32)
    assert min(kept) == 32 and abs(kept[0]*shape[1]/(kept[1]*shape[0]) - 1) < .02 and kept_size(shape, kept) == kept


def test_settings_that_are_neutral_leave_no_trace():
    for modality in (Frame(), MotionEmbedding(4, 2), Frames(OneClip())):
        assert shown(modality, {}) is shown(modality, dict(fps=None, aspect='squash')) is modality
        assert 'fps' not in repr(modality)
        seen = shown(modality, dict(fps=25, aspect='crop'))
        assert repr(seen) == repr(modality)[:-1] + ", fps=25.0, aspect='crop')"
        assert seen != modality
        assert seen.as_shown() == modality


@pytest.mark.parametrize('height, width', [(240, 320), (320, 240), (112, 112), (7, 9), (100, 333)])
def test_crops_lie_inside_and_cover_the_longer_side(height, width):
    crops = three_crops(height, width)
    assert (crops[:, :2] >= 0).all()
    assert (crops[:, 0] + crops[:, 2] <= height).all()
    assert (crops[:, 1] + crops[:, 2] <= width).all()
    long = 0 if height > width else 1
    assert crops[0, long] == 0 and crops[2, long] + crops[2, 2] == max(height, width)
    with pytest.raises(ValueError, match='does not fit'): three_crops(height, width, min(height, width) + 1)


@pytest.mark.parametrize('n_frames', [1, 3, 9, 10, 11, 15, 16, 17, 64, 131])
def test_one_pass_gives_what_the_whole_clip_gives(n_frames):
    clip = np.random.default_rng(n_frames).integers(0, 256, (n_frames, 24, 32, 3), dtype=np.uint8)
    modalities = [Frame(), MotionEmbedding(10, 5, 'equal'), MotionEmbedding(4, 9), *map(Frames, SAMPLERS)]
    found = [[] for _ in modalities]
    for place, sample in interleave(iter(clip), modalities, (12, 20), n_frames): found[place].append(sample)
    picked = [clip[sampler(n_frames)] for sampler in SAMPLERS]
    batches = [motion_embed(clip, 10, 5, 'equal'), motion_embed(clip, 4, 9)]
    wholes = [clip[Batches()(n_frames)[:, min(10, n_frames) - 1]], *batches,
              *(images if images.shape[1] > 1 else images[:, 0] for images in picked)]
    for modality, samples, whole in zip(modalities, found, wholes, strict=True):
        np.testing.assert_array_equal(modality(clip), whole, err_msg=repr(modality))
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
    n_samples = sum(1 for _ in interleave(camera(), [Frame(2, 400), MotionEmbedding(3, 7)], 8))
    assert n_samples == len(Batches(2, 400)(400)) + len(Batches(3, 7)(400))
    assert max(most) <= 9
