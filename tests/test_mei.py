"Motion embedding against exact fractions, at random sizes, and in bounded memory."
import tracemalloc
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from har_nb.data.video import frames, iter_pictures
from har_nb.motion import mei
from har_nb.motion.mei import DIVISIONS, batch_starts, literal_weights, mei_weights, motion_embed, stream_embed


def reference(frames, n, interval, division):
    "Motion embedded images as the paper writes them, in fractions; a pixel at a time."
    images = []
    n_batch = min(n, len(frames))
    for first in range(0, max(len(frames) - n, 0) + 1, interval):
        numbers = {
            'equal': [1]*n_batch,
            'gradient': [i + 1 for i in range(n_batch)],
            'reversed': [n_batch - i for i in range(n_batch)],
            'literal': [(first + i) % n_batch + 1 for i in range(n_batch)],
        }[division]
        shares = [Fraction(number, sum(numbers)) for number in numbers]
        pixels = frames[first:first + n_batch].reshape(n_batch, -1).T.tolist()
        image = [floor(sum(share*value for share, value in zip(shares, pixel, strict=True)) + Fraction(1, 2))
                 for pixel in pixels]
        images.append(np.array(image).reshape(frames.shape[1:]))
    return np.stack(images)


@pytest.mark.parametrize('seed', range(24))
def test_equals_the_fractions_at_random_settings(seed):
    draw = np.random.default_rng(seed)
    n, interval, n_frames = draw.integers(1, 31), draw.integers(1, 13), draw.integers(1, 45)
    frames = draw.integers(0, 256, (n_frames, *draw.integers(1, 8, 2), draw.choice([1, 3])), dtype=np.uint8)
    for division in DIVISIONS:
        images = motion_embed(frames, n, interval, division)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, reference(frames, n, interval, division))
        np.testing.assert_array_equal(np.stack(list(stream_embed(iter(frames), n, interval, division))), images)


@pytest.mark.parametrize('division', mei.RUNNING)
@pytest.mark.parametrize('way', [mei._running_embed, mei._ring_embed])
def test_both_ways_of_summing_give_the_same_bits(way, division):
    draw = np.random.default_rng(0)
    for _ in range(30):
        n, interval, n_frames = draw.integers(1, 23), draw.integers(1, 30), draw.integers(1, 70)
        frames = draw.integers(0, 256, (n_frames, *draw.integers(1, 6, 2), draw.choice([1, 3])), dtype=np.uint8)
        images = [image for image in way(iter(frames), n, interval, division) if image is not None]
        np.testing.assert_array_equal(np.stack(images), motion_embed(frames, n, interval, division))


@pytest.mark.parametrize('division', mei.RUNNING)
def test_running_sums_may_overflow_for_ever(division):
    frames = np.full((3000, 3, 5, 3), 255, np.uint8)
    frames[::7] = 254
    images = [image for image in mei._running_embed(iter(frames), 10, 5, division) if image is not None]
    np.testing.assert_array_equal(np.stack(images), motion_embed(frames, 10, 5, division))


@pytest.mark.parametrize('n, interval', [(10, 5), (10, 10), (10, 1), (20, 5), (22, 2)])
def test_memory_of_a_stream_is_that_of_its_batch(n, interval):
    frame = np.zeros((120, 160, 3), np.uint8)
    tracemalloc.start()
    for _ in stream_embed((frame for _ in range(100)), n, interval): pass
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (n + 6)*frame.nbytes, 'n + 1 frames, and the sums of the image that is made'


@pytest.mark.parametrize('name', ['carphone_pristine', 'mpeg4', 'av1'])
def test_from_the_decoder_as_from_memory(footage, made, name):
    path = footage[name] if name in footage else made(name)
    clip = frames(path)
    for interval in (5, 10):
        for ahead in (0, 3):
            images = [image[..., ::-1] for image in stream_embed(iter_pictures(path, ahead=ahead), interval=interval)]
            np.testing.assert_array_equal(np.stack(images), motion_embed(clip, interval=interval))


@pytest.mark.parametrize('n', [1, 2, 3, 5, 10, 22, 23, 64, 256, 257, 300])
def test_constant_clips_give_themselves(n):
    for value in (0, 1, 127, 254, 255):
        frames = np.full((n + 3, 4, 5, 3), value, np.uint8)
        for division in DIVISIONS: assert (motion_embed(frames, n, 2, division) == value).all(), (n, division, value)


@pytest.mark.parametrize('total', [256, 257, 2**24])
def test_both_sides_of_16_bits_and_the_largest_sum_are_exact(total):
    weights = (total - total//3, total//3)
    frames = np.stack(np.meshgrid(np.arange(256), np.arange(256))).astype(np.uint8)[..., None]
    sums = (frames[..., 0].astype(object)*np.array(weights, object)[:, None, None]).sum(0)
    np.testing.assert_array_equal(motion_embed(frames, 2, 1, weights)[0, ..., 0], (2*sums + total)//(2*total))


def test_an_image_lies_between_the_darkest_and_the_brightest_frame():
    frames = np.random.default_rng(0).integers(40, 200, (30, 9, 7, 3), dtype=np.uint8)
    for division in DIVISIONS:
        for image, first in zip(motion_embed(frames, division=division), batch_starts(30), strict=True):
            batch = frames[first:first + 10]
            assert (batch.min(0) <= image).all() and (image <= batch.max(0)).all()


def test_one_frame_is_its_own_image():
    frame = np.random.default_rng(0).integers(0, 256, (1, 5, 6, 3), dtype=np.uint8)
    for division in (*DIVISIONS, range(1, 11)):
        np.testing.assert_array_equal(motion_embed(frame, division=division), frame)


def test_a_clip_shorter_than_n_is_one_batch_with_the_weights_of_its_length():
    frames = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    for division in DIVISIONS:
        np.testing.assert_array_equal(motion_embed(frames, 10, 5, division), motion_embed(frames, 4, 5, division))
    np.testing.assert_array_equal(motion_embed(frames, 10, 5, range(10, 0, -1)), motion_embed(frames, 4, 5, 'reversed'))


def test_frames_that_are_cut_one_by_one_lose_up_to_a_level_each():
    clip = np.random.default_rng(0).integers(0, 256, (23, 5, 4, 3), dtype=np.uint8)
    images = motion_embed(clip, 10, 5, 'floored')
    for image, start in zip(images, batch_starts(23), strict=True):
        wanted = sum(Fraction(i + 1, 55)*clip[start + i].astype(object)//1 for i in range(10))
        np.testing.assert_array_equal(image, wanted.astype(int))
    np.testing.assert_array_equal(np.stack([*stream_embed(iter(clip), 10, 5, 'floored')]), images)
    lost = motion_embed(clip, 10, 5).astype(int) - images
    assert 0 <= lost.min() and lost.max() <= 10 and lost.mean() > 3


def test_literal_weights_turn_at_every_second_batch_of_interval_5():
    assert [mei_weights(10, 'literal', first).tolist()[:6] for first in (0, 5, 10)] == [
        [1, 2, 3, 4, 5, 6],
        [6, 7, 8, 9, 10, 1],
        [1, 2, 3, 4, 5, 6],
    ]
    assert literal_weights(1, 10).tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 1]
    frames = np.random.default_rng(0).integers(0, 256, (35, 5, 6, 3), dtype=np.uint8)
    literal, gradient = (motion_embed(frames, division=division) for division in ('literal', 'gradient'))
    np.testing.assert_array_equal(literal[::2], gradient[::2])
    assert all((a != b).any() for a, b in zip(literal[1::2], gradient[1::2], strict=True))


def test_views_and_channel_orders_do_not_matter():
    frames = np.random.default_rng(0).integers(0, 256, (20, 12, 16, 3), dtype=np.uint8)
    view = frames[:, ::2, 3:11, ::-1]
    np.testing.assert_array_equal(motion_embed(view), motion_embed(np.ascontiguousarray(view)))
    np.testing.assert_array_equal(motion_embed(view), motion_embed(frames)[:, ::2, 3:11, ::-1])


def test_a_decoder_may_reuse_its_buffer_and_images_stay_as_they_were():
    frames = np.random.default_rng(0).integers(0, 256, (40, 6, 7, 3), dtype=np.uint8)
    buffer = np.empty(frames.shape[1:], np.uint8)
    def decode():
        for frame in frames:
            buffer[...] = frame
            yield buffer
    np.testing.assert_array_equal(np.stack(list(stream_embed(decode()))), motion_embed(frames))


def test_images_come_as_soon_as_their_last_frame():
    taken = []
    stream = stream_embed(taken.append(t) or np.zeros((2, 2, 3), np.uint8) for t in range(100))
    assert [(next(stream), len(taken))[1] for _ in range(3)] == [10, 15, 20]


def test_memory_does_not_grow_with_the_video():
    frame = np.zeros((120, 160, 3), np.uint8)
    def peak(n_frames):
        tracemalloc.start()
        for _ in stream_embed(frame for _ in range(n_frames)): pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most
    assert peak(1000) < 1.1*peak(50)
    assert peak(1000) < 16*frame.nbytes


@pytest.mark.parametrize('settings', [dict(n=0), dict(interval=0), dict(n=-3), dict(division='gradiant'),
                                      dict(division=[1, 2, 3]), dict(division=range(12)), dict(division=[.1]*10),
                                      dict(division=[0]*10), dict(division=[-1]*10), dict(division=[2**24]*10),
                                      dict(division=[2**40]*10)])
def test_settings_without_sense_fail(settings):
    frames = np.zeros((20, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError): motion_embed(frames, **settings)
    with pytest.raises(ValueError): list(stream_embed(iter(frames), **settings))


@pytest.mark.parametrize('frames', [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((20, 4, 4, 3), np.float32),
                                    np.zeros((20, 4, 4, 3), np.int64)])
def test_frames_without_sense_fail(frames):
    with pytest.raises(ValueError): motion_embed(frames)
    with pytest.raises(ValueError): list(stream_embed(iter(frames)))


def test_a_frame_of_another_size_fails():
    with pytest.raises(ValueError, match='frame 12'):
        list(stream_embed([np.zeros((4, 4, 3), np.uint8)]*12 + [np.zeros((4, 1, 3), np.uint8)]))
