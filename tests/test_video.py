"Reading and writing video: real files checked against what their containers say, and every fault a file can have."
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from itertools import pairwise

import cv2
import numpy as np
import pytest

from har_nb.data.video import WRITABLE, VideoError, diagnose, frames, iter_frames, iter_pictures, probe, write_video

XVID = ['v_ApplyEyeMakeup_g01_c01.avi', 'v_BaseballPitch_g01_c01.avi', 'v_Basketball_g01_c01.avi']
H264 = ['basketball.mp4', 'k400_arm_wrestling.mp4', 'k400_cleaning_pool.mp4']


def bare_loop(path):
    "What OpenCV reads, turned to RGB by numpy."
    capture, pictures = cv2.VideoCapture(str(path)), []
    while True:
        decoded, picture = capture.read()
        if not decoded: return np.stack(pictures)[..., ::-1]
        pictures.append(picture)


def grabbed(path):
    capture, n = cv2.VideoCapture(str(path)), 0
    while capture.grab(): n += 1
    return n


def video_packets(content):
    "The video packets of an AVI, read from its bytes."
    place, packets = content.index(b'movi') + 4, []
    while (kind := content[place:place + 4]) in (b'00dc', b'01wb'):
        size = struct.unpack('<I', content[place + 4:place + 8])[0]
        if kind == b'00dc': packets.append(content[place + 8:place + 8 + size])
        place += 8 + size + size % 2
    return packets


def pictures_of(stream):
    "The coded pictures of an MPEG-4 stream, without the placeholders of a few bytes that packing leaves."
    starts = [match.start() for match in re.finditer(b'\x00\x00\x01\xb6', stream)] + [len(stream)]
    return [stream[start:end] for start, end in pairwise(starts) if end - start > 8]


def unpacked(content):
    "The same pictures as a bare stream, one after the other: no packets, no time stamps, no flag that says packed."
    stream = b''.join(video_packets(content))
    head = re.sub(rb'(DivX\d+b\d+)p', rb'\g<1>n', stream[:stream.index(b'\x00\x00\x01\xb6')])
    return head + b''.join(pictures_of(stream))


def smoother_in_order(clip):
    "Among neighbours that differ, the part for which the order they come in is smoother than the swapped one."
    clip = clip[:, ::4, ::4].astype(np.float32)
    distance = lambda a, b: np.abs(clip[a] - clip[b]).mean((1, 2, 3))
    i = np.arange(1, len(clip) - 2)
    as_is, swapped = distance(i - 1, i) + distance(i + 1, i + 2), distance(i - 1, i + 1) + distance(i, i + 2)
    moves = distance(i, i + 1) > 1
    return (as_is < swapped)[moves].mean()


def swap_neighbours(clip, every=7):
    "The fault that readers show on packed B-frames: here and there two frames change places."
    order = np.arange(len(clip))
    for i in range(1, len(clip) - 2, every): order[[i, i + 1]] = order[[i + 1, i]]
    return clip[order]


@pytest.fixture
def clip():
    return np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)


@pytest.fixture
def avi(tmp_path, clip):
    return write_video(tmp_path/'clip.avi', clip, codec='FFV1').path


@pytest.mark.parametrize('name', XVID + H264)
def test_real_files_bitwise_and_counted(shared_data, name):
    path = shared_data/'clips'/name
    read, info = frames(path), probe(path)
    assert read.dtype == np.uint8 and read.flags.c_contiguous and read.flags.owndata
    assert np.array_equal(read, bare_loop(path))
    assert all(np.array_equal(a, b) for a, b in zip(read, iter_frames(path), strict=True))
    assert np.array_equal(frames(path, limit=9), read[:9])
    assert (info.n_frames, info.height, info.width) == read.shape[:3] and info.n_frames == grabbed(path)
    assert not info.truncated and info.duration == pytest.approx(len(read)/info.fps)


@pytest.mark.parametrize('name', XVID)
def test_packed_b_frames_come_in_order(shared_data, tmp_path, name):
    content = (shared_data/'clips'/name).read_bytes()
    (tmp_path/'bare.m4v').write_bytes(unpacked(content))
    read, one_by_one = frames(shared_data/'clips'/name), frames(tmp_path/'bare.m4v')
    assert len(one_by_one) == len(pictures_of(b''.join(video_packets(content))))
    b_frames = sum(picture[4] >> 6 == 2 for packet in video_packets(content) for picture in pictures_of(packet))
    assert (b_frames > 100) == ('ApplyEyeMakeup' in name), 'this one is packed, or the test would prove nothing'
    if len(pictures_of(video_packets(content)[-1])) == 2: # the last packet's B-frame waits for a packet that never comes
        one_by_one = np.delete(one_by_one, -2, axis=0)
    assert np.array_equal(read, one_by_one)


@pytest.mark.parametrize('name', H264)
def test_h264_frames_are_as_many_as_samples(shared_data, name):
    content = (shared_data/'clips'/name).read_bytes()
    video = content.index(b'vmhd')
    samples = struct.unpack('>I', content[(at := content.index(b'stsz', video) + 12):at + 4])[0]
    assert len(frames(shared_data/'clips'/name)) == samples


@pytest.mark.parametrize('name', XVID + H264)
def test_order_is_the_smooth_one(shared_data, name):
    read = frames(shared_data/'clips'/name, limit=150)
    in_order = smoother_in_order(read)
    assert in_order > .9
    assert smoother_in_order(swap_neighbours(read)) < in_order - .1, 'the check sees frames that change places'


@pytest.mark.parametrize('codec, suffix', [(codec, suffix) for codec, suffixes in WRITABLE.items() for suffix in suffixes])
def test_every_codec_and_container(tmp_path, codec, suffix, capfd):
    numbers = np.repeat(np.arange(0, 240, 6, dtype=np.uint8), 48*64*3).reshape(40, 48, 64, 3)
    info = write_video(tmp_path/f'clip{suffix}', numbers, fps=29.97, codec=codec)
    read = frames(info.path)
    assert info.path == tmp_path/f'clip{suffix}' and info == probe(info.path)
    assert info.n_frames == info.n_declared == len(read) and info.fps == pytest.approx(29.97, abs=.01)
    levels = read.mean((1, 2, 3))
    assert (np.diff(levels) > 2).all() and np.abs(levels - numbers[:, 0, 0, 0]).max() < 5
    if codec == 'FFV1': assert np.array_equal(read, numbers)
    assert capfd.readouterr() == ('', '')


def test_generator_is_written_frame_by_frame(tmp_path, clip):
    write_video(tmp_path/'clip.avi', (frame for frame in clip), codec='FFV1')
    assert np.array_equal(frames(tmp_path/'clip.avi'), clip)
    write_video(tmp_path/'mirrored.avi', clip[:, :, ::-1], codec='FFV1')
    assert np.array_equal(frames(tmp_path/'mirrored.avi'), clip[:, :, ::-1])


def test_overwriting_and_odd_names(tmp_path, clip):
    path = tmp_path/'zwei Wörter, 100% ü.avi'
    for content in (clip, clip[::-1]): write_video(path, content, codec='FFV1')
    assert np.array_equal(frames(path), clip[::-1]) and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_turned_video_comes_upright(tmp_path):
    clip = np.zeros((5, 48, 64, 3), np.uint8)
    clip[:, :24, :32, 0] = 255
    content = bytearray(write_video(tmp_path/'flat.mp4', clip).path.read_bytes())
    matrix, one = content.index(b'tkhd') + 44, 1 << 16
    content[matrix:matrix + 36] = struct.pack('>9i', 0, one, 0, -one, 0, 0, 48*one, 0, 1 << 30)
    (tmp_path/'turned.mp4').write_bytes(content)
    info, read = probe(tmp_path/'turned.mp4'), frames(tmp_path/'turned.mp4')
    assert (info.height, info.width) == (64, 48) == read.shape[1:3]
    assert read[:, :24, 32:, 0].min() > 180 > 60 > read[:, 40:, :, 0].max()


def test_a_stream_that_changes_size_keeps_its_first(tmp_path):
    sizes = [(48, 64)]*3 + [(32, 48)]*3
    (tmp_path/'two.avi').write_bytes(b''.join(cv2.imencode('.jpg', np.full((*size, 3), 90, np.uint8))[1].tobytes() for size in sizes))
    read = frames(tmp_path/'two.avi')
    assert read.shape == (6, 48, 64, 3) and np.abs(read.astype(int) - 90).max() <= 3


@pytest.mark.parametrize('n_declared', [0, 1, 3, 11, 13, 100_000, 2**31 - 1])
def test_headers_are_not_believed(avi, clip, n_declared):
    content = bytearray(avi.read_bytes())
    for place in (content.index(b'avih') + 24, content.index(b'strh') + 40): content[place:place + 4] = struct.pack('<I', n_declared)
    avi.write_bytes(content)
    assert np.array_equal(frames(avi), clip) and probe(avi).n_frames == 12


@pytest.mark.parametrize('limit, expected', [(1, 1), (5, 5), (12, 12), (13, 12), (10**9, 12)])
def test_limit(avi, limit, expected):
    assert len(frames(avi, limit=limit)) == expected


@pytest.mark.parametrize('limit', [0, -1])
def test_limit_must_leave_something(avi, limit):
    with pytest.raises(ValueError, match='at least 1'): frames(avi, limit=limit)


def faulty(folder, clip):
    "Files that are no videos, by the word that the error must hold."
    whole = write_video(folder/'whole.mp4', clip).path.read_bytes()
    lossless = write_video(folder/'lossless.avi', clip, codec='FFV1').path.read_bytes()
    contents = {
        'empty': b'', 'text': b'<html>not found</html>\n'*50, 'text.avi': b'plain\n'*500, 'text.m4v': b'hello world\n'*500, 'noise.mkv': os.urandom(5000),
        'no_index': whole[:whole.index(b'moov') - 4], 'zero_frames.avi': lossless[:lossless.index(b'movi') + 4], 'header.avi': lossless[:40]}
    for name in ('whole.mp4', 'lossless.avi'): (folder/name).unlink()
    paths = {name: folder/(name if '.' in name else f'{name}.mp4') for name in contents}
    for name, path in paths.items(): path.write_bytes(contents[name])
    (folder/'folder.mp4').mkdir()
    (folder/'notes.txt').write_text('words\n'*100)
    return [*paths.values(), folder/'folder.mp4', folder/'notes.txt', folder/'missing.mp4', folder/'notes.txt'/'inside.mp4']


@pytest.mark.parametrize('read', [probe, frames, lambda path: list(iter_frames(path))], ids=['probe', 'frames', 'iter_frames'])
def test_faulty_files_are_one_clear_error(tmp_path, clip, read, capfd):
    for path in faulty(tmp_path, clip):
        with pytest.raises(VideoError) as caught: read(path)
        error = caught.value
        assert error.path == path and str(error).startswith(f'{path}: ') and error.reason and error.remedy
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.path) == (str(error), path)
    assert capfd.readouterr() == ('', '')


def test_iter_frames_complains_before_the_first_frame(tmp_path):
    with pytest.raises(VideoError, match='No such file'): iter_frames(tmp_path/'missing.mp4')


def test_nothing_reaches_the_terminal(tmp_path, clip):
    "A process of its own, because FFmpeg reads its level once."
    half = write_video(tmp_path/'half.avi', np.repeat(clip, 4, 0), codec='XVID').path
    half.write_bytes(half.read_bytes()[:-20_000])
    paths = [str(path) for path in [*faulty(tmp_path, clip), half]]
    code = 'import sys\nfrom har_nb.data.video import *\nfor path in sys.argv[1:]:\n try: print(probe(path).truncated)\n except VideoError as e: print(e.reason)\n'
    environment = {k: v for k, v in os.environ.items() if not k.startswith('OPENCV')}
    done = subprocess.run([sys.executable, '-c', code, *paths], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == '' and len(done.stdout.splitlines()) == len(paths), done.stderr


def test_a_truncated_avi_gives_what_is_there_and_says_so(avi, clip):
    content = avi.read_bytes()
    avi.write_bytes(content[:len(content)*2//3])
    info = probe(avi)
    assert info.truncated and info.n_declared == 12 and 4 <= info.n_frames <= 9
    assert np.array_equal(frames(avi), clip[:info.n_frames])


def test_a_real_avi_cut_in_half(shared_data, tmp_path):
    whole = shared_data/'clips'/XVID[0]
    (tmp_path/'half.avi').write_bytes(whole.read_bytes()[:whole.stat().st_size//2])
    info, expected = probe(tmp_path/'half.avi'), frames(whole)
    assert info.truncated and info.n_frames == grabbed(tmp_path/'half.avi')
    assert np.array_equal(frames(tmp_path/'half.avi')[:-3], expected[:info.n_frames - 3])


@pytest.mark.parametrize('bad, reason', [
    ([], 'no frames'), (np.zeros((0, 8, 8, 3), np.uint8), 'no frames'), (np.zeros((3, 47, 64, 3), np.uint8), 'height 47'), (np.zeros((3, 48, 63, 3), np.uint8), 'width 63'),
    (np.zeros((3, 48, 64, 3)), 'frame 0 is float64'), (np.zeros((3, 48, 64), np.uint8), 'frame 0'), (np.zeros((3, 3, 48, 64), np.uint8), 'frame 0'),
    ([np.zeros((48, 64, 3), np.uint8), np.zeros((48, 32, 3), np.uint8)], 'frame 1')])
def test_frames_that_cannot_be_written(tmp_path, bad, reason):
    with pytest.raises(VideoError, match=reason): write_video(tmp_path/'clip.mp4', bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('place', ['no_folder/clip.mp4', 'file/clip.mp4', 'folder.mp4', '/proc/clip.mp4'])
def test_places_that_cannot_be_written(tmp_path, clip, place, capfd):
    (tmp_path/'file').touch()
    (tmp_path/'folder.mp4').mkdir()
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(VideoError) as caught: write_video(tmp_path/place, clip)
    assert str(tmp_path/place) in str(caught.value) and sorted(tmp_path.rglob('*')) == before
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('name, codec', [('clip.avi', 'H264'), ('clip.mp4', 'MJPG'), ('clip.mp4', 'nonsense'), ('clip', 'mp4v'), ('clip.webm', 'FFV1')])
def test_codecs_that_cannot_be_written(tmp_path, clip, name, codec):
    with pytest.raises(VideoError, match='cannot be written to') as caught: write_video(tmp_path/name, clip, codec=codec)
    assert 'mp4v: .mp4' in caught.value.remedy and not list(tmp_path.iterdir())


@pytest.mark.parametrize('failure', [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupted_writer_leaves_nothing(tmp_path, clip, failure):
    old = write_video(tmp_path/'old.avi', clip, codec='FFV1').path.read_bytes()

    def interrupted():
        yield from clip
        raise failure
    for name in ('new.avi', 'old.avi'):
        with pytest.raises(failure): write_video(tmp_path/name, interrupted(), codec='FFV1')
    assert [path.name for path in tmp_path.iterdir()] == ['old.avi'] and (tmp_path/'old.avi').read_bytes() == old


def test_a_killed_writer_leaves_no_file_by_the_name(tmp_path):
    code = ('import sys, numpy as np\nfrom har_nb.data.video import write_video\nfrom itertools import repeat\n'
        'write_video(sys.argv[1], repeat(np.zeros((48, 64, 3), np.uint8)))')
    process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path/'clip.mp4')])
    for _ in range(200):
        if list(tmp_path.iterdir()): break
        time.sleep(.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path/'clip.mp4').exists() and all(path.name.startswith('.') for path in tmp_path.iterdir())


def test_a_full_disk_is_noticed(tmp_path, clip, monkeypatch):
    "The encoder says nothing when its bytes go nowhere: what was read back decides."
    real = probe

    def cut(path):
        path.write_bytes(path.read_bytes()[:-60_000])
        return real(path)
    monkeypatch.setitem(write_video.__globals__, 'probe', cut)
    with pytest.raises(VideoError, match='arrived'): write_video(tmp_path/'clip.avi', clip, codec='FFV1')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('start, stop', [(0, None), (0, 5), (3, 9), (11, 12), (5, None), (4, 100)])
def test_a_span_is_a_slice(avi, clip, start, stop):
    assert np.array_equal(frames(avi, start=start, stop=stop), clip[start:stop])
    assert np.array_equal(list(iter_frames(avi, start, stop)), clip[start:stop])
    assert np.array_equal(frames(avi, start=start, stop=stop, limit=4), clip[start:stop][:4])


@pytest.mark.parametrize('name', [XVID[0], H264[0]])
def test_spans_of_real_files(shared_data, name):
    path = shared_data/'clips'/name
    whole = frames(path)
    for start, stop in ((1, 2), (17, 40), (len(whole) - 5, None)): assert np.array_equal(frames(path, start=start, stop=stop), whole[start:stop])


def test_spans_that_end_too_soon(avi):
    assert len(frames(avi, start=4, stop=12, complete=True)) == 8
    with pytest.raises(VideoError, match='cut off: 12 of 13'): frames(avi, start=4, stop=13, complete=True)
    assert len(frames(avi, start=4, stop=13, limit=2, complete=True)) == 2
    for start in (12, 13, 500):
        with pytest.raises(VideoError, match='ends after 12 frames'): frames(avi, start=start)
        with pytest.raises(VideoError, match='ends after 12 frames'): list(iter_frames(avi, start))


@pytest.mark.parametrize('start, stop', [(-1, None), (3, 3), (5, 2), (0, 0)])
def test_spans_without_sense(avi, start, stop):
    with pytest.raises(ValueError, match='stop beyond it'): frames(avi, start=start, stop=stop)
    with pytest.raises(ValueError, match='stop beyond it'): iter_frames(avi, start, stop)


def picture_folder(folder, clip, name='{:05}.png', first=1):
    folder.mkdir()
    for i, frame in enumerate(clip, first): cv2.imwrite(str(folder/name.format(i)), frame[..., ::-1])
    return folder


@pytest.mark.parametrize('name, first', [('{:05}.png', 1), ('{}.png', 0), ('img_{:05}.PNG', 1), ('v_Run_g01_c01_{:04}.png', 1)])
def test_a_folder_of_pictures_is_a_video(tmp_path, clip, name, first):
    folder = picture_folder(tmp_path/'124', clip, name, first)
    (folder/'._00001.jpg').write_bytes(b'apple')
    (folder/'Thumbs.db').write_bytes(b'windows')
    info = probe(folder)
    assert (info.n_frames, info.n_declared, info.height, info.width, info.fps, info.codec, info.truncated) == (12, 12, 48, 64, 12, 'pictures', False)
    assert np.array_equal(frames(folder), clip) and np.array_equal(list(iter_frames(folder, 3, 5)), clip[3:5]) and diagnose(folder) is None
    assert diagnose(folder, min_frames=13)[0] == 'short'


def test_jpeg_pictures_are_what_opencv_reads(tmp_path, clip):
    folder = picture_folder(tmp_path/'7', clip, '{:05}.jpg')
    expected = [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())]
    assert np.array_equal(frames(folder, complete=True), expected)


@pytest.mark.parametrize('missing', [1, 6])
def test_a_gap_in_the_numbers_is_truncated(tmp_path, clip, missing):
    folder = picture_folder(tmp_path/'7', clip)
    (folder/f'{missing:05}.png').unlink()
    assert probe(folder).truncated and np.array_equal(frames(folder), np.delete(clip, missing - 1, 0))
    assert diagnose(folder) == ('truncated', '11 of 12 frames', 'error')
    with pytest.raises(VideoError, match='cut off: 11 of 12'): frames(folder, complete=True)


def test_pictures_that_are_none(tmp_path, clip, capfd):
    folder = picture_folder(tmp_path/'7', clip, '{:05}.jpg')
    whole = (folder/'00004.jpg').read_bytes()
    for content, reason in ((whole[:len(whole)//2], 'not a whole'), (b'', 'empty'), (b'<html>\xff\xd9', 'cannot be decoded'), (os.urandom(3000), 'not a whole')):
        (folder/'00004.jpg').write_bytes(content)
        for read in (probe, frames, lambda path: list(iter_frames(path))):
            with pytest.raises(VideoError, match=reason) as caught: read(folder)
            assert caught.value.path == folder/'00004.jpg' and caught.value.remedy
        assert diagnose(folder)[::2] == ('unreadable', 'error')
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('names, problem, reason', [
    (['00001.jpg', 'cover.jpg'], 'unreadable', 'cover.jpg has no number'), (['img_1.jpg', 'flow_1.jpg'], 'unreadable', r'more than one series of pictures \(flow_\*, img_\*\)'),
    (['1.jpg', '01.jpg'], 'unreadable', '01.jpg and 1.jpg have the same number'), (['1.jpg', '1.png'], 'unreadable', '1.jpg and 1.png'),
    ([], 'empty', 'without pictures'), (['notes.txt'], 'empty', 'without pictures')])
def test_names_without_an_order(tmp_path, names, problem, reason):
    for name in names: (tmp_path/name).touch()
    with pytest.raises(VideoError, match=reason) as caught: frames(tmp_path)
    assert caught.value.path == tmp_path and caught.value.remedy and diagnose(tmp_path)[0] == problem


def test_a_picture_of_another_size_is_scaled_to_the_first(tmp_path, clip):
    folder = picture_folder(tmp_path/'7', [*clip[:2], cv2.resize(clip[2], (32, 32))])
    assert frames(folder).shape == (3, 48, 64, 3)


@pytest.mark.parametrize('settings', [dict(ahead=1), dict(ahead=4), dict(ahead=500), dict(threads=0), dict(threads=0, ahead=4)])
def test_threads_and_reading_ahead_change_no_bit(shared_data, settings):
    for name in (XVID[0], H264[0]):
        path = shared_data/'clips'/name
        expected = frames(path)
        assert np.array_equal(frames(path, **settings), expected)
        assert np.array_equal(frames(path, start=33, stop=50, **settings), expected[33:50])
        assert all(np.array_equal(picture[..., ::-1], frame) for picture, frame in zip(iter_pictures(path, **settings), expected, strict=True))
        assert all(np.array_equal(picture, frame) for picture, frame in zip(iter_frames(path, **settings), expected, strict=True))


def test_reading_ahead_can_be_left_at_any_time(avi, clip):
    threads = threading.active_count()
    for taken in (0, 1, 5, 12):
        pictures = iter_pictures(avi, ahead=3)
        for _ in range(taken): next(pictures)
        pictures.close()
    assert threading.active_count() == threads


def test_what_fails_ahead_fails_here(tmp_path, clip):
    folder = picture_folder(tmp_path/'7', clip)
    (folder/'00008.png').write_bytes(b'no picture')
    pictures = iter_pictures(folder, ahead=3)
    for expected in clip[:7]: assert np.array_equal(next(pictures)[..., ::-1], expected)
    with pytest.raises(VideoError, match='00008.png'): next(pictures)
    with pytest.raises(VideoError, match='ends after 7'): list(iter_pictures(picture_folder(tmp_path/'8', clip[:7]), start=9, ahead=3))
