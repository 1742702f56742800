"The store under load and under attack: killed, doubled, full, forbidden, with bad videos; and the same bytes everywhere."
import dataclasses
import errno
import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest

from har_nb.data.synthetic import build
from har_nb.data.video import write_video
from har_nb.samples import archive as archives
from har_nb.samples import store
from har_nb.samples.archive import StoreError
from har_nb.samples.modalities import Frame, Frames, MotionEmbedding, sample_video
from har_nb.samples.samplers import OneClip, Segments
from har_nb.samples.store import decode_samples

KINDS = dict(raw=math.inf, jpeg=0)
MODALITIES = [Frame(), MotionEmbedding(), Frames(OneClip(4))]
SIZE = (40, 56)

BUILDER = """
import os, pickle, sys, time
folder, cache, limit, slow, code = sys.argv[1:6]
from har_nb.samples import archive, store
dataset, modalities, size = pickle.load(open(folder + '/job.pkl', 'rb'))
archive.COMMIT_EVERY = 0
real = store.stream_video
def slowly(*args, **kwargs):
    time.sleep(float(slow))
    return real(*args, **kwargs)
store.stream_video = slowly
exec(code)
print('ready', flush=True)
try: store.decode_samples(dataset, modalities, size, cache, workers=2, progress=False, limit=float(limit))
except store.StoreError as error: print('StoreError', error); sys.exit(3)
print('done', flush=True)
"""


@pytest.fixture(scope='module')
def sports(tmp_path_factory):
    folder = tmp_path_factory.mktemp('store')
    dataset = build(folder/'sports', people=2, takes=2, size=(48, 64), progress=False)
    (folder/'job.pkl').write_bytes(pickle.dumps((dataset, MODALITIES, SIZE)))
    return dataset


@pytest.fixture(scope='module', params=KINDS)
def whole(request, sports):
    "The set, its kind, and the samples of a build that nothing disturbed."
    samples, report = decode_samples(sports, MODALITIES, SIZE, sports.root.parent/f'whole-{request.param}', workers=2, progress=False, limit=KINDS[request.param])
    assert report.empty and {s.coding for s in samples} == {request.param}
    return sports, request.param, samples


def builder(dataset, cache, kind, slow=0., code='', **kwargs):
    return subprocess.Popen([sys.executable, '-c', BUILDER, str(dataset.root.parent), str(cache), str(KINDS[kind]), str(slow), code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | dict(OMP_NUM_THREADS='1'), **kwargs)


def assert_equal(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.modality == other.modality and one.coding == other.coding and one.shape == other.shape
        np.testing.assert_array_equal(one.clip, other.clip)
        np.testing.assert_array_equal(one.read(slice(None)), other.read(slice(None)))


def finish(dataset, cache, kind): return decode_samples(dataset, MODALITIES, SIZE, cache, workers=2, progress=False, limit=KINDS[kind])[0]
def lines(cache): return sum(len(path.read_bytes().splitlines()) for path in cache.rglob('index.jsonl'))


def test_killed_ten_times_at_random_moments(whole, tmp_path):
    dataset, kind, undisturbed = whole
    moments, progress = random.Random(4), []
    for _ in range(10):
        process, enough = builder(dataset, tmp_path/'cache', kind, slow=.1), lines(tmp_path/'cache') + moments.randrange(7)
        assert process.stdout.readline() == 'ready\n', process.stderr.read()
        while lines(tmp_path/'cache') < enough and process.poll() is None: time.sleep(.005)
        time.sleep(moments.uniform(0, .1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, 'finished before it could be killed'
        progress.append(lines(tmp_path/'cache'))
    assert progress == sorted(progress) and progress[-1] > progress[0]
    assert progress[-1] < 3*len(dataset)
    assert_equal(finish(dataset, tmp_path/'cache', kind), undisturbed)
    assert lines(tmp_path/'cache') == 3*len(dataset)
    left = {path.name for path in (tmp_path/'cache').rglob('*')} - {path.name for path in (dataset.root.parent/f'whole-{kind}').rglob('*')} - {'digests.jsonl'} # kept once files are older than a moment
    assert not left


@pytest.mark.parametrize('code', [
    'real_sync = os.fsync\ndef dying(fd):\n    global left\n    left -= 1\n    if left == 0: os._exit(9)\n    real_sync(fd)\nleft = {}\narchive.os.fsync = dying',
    'real_sync = os.fsync\ndef dying(fd):\n    global left\n    real_sync(fd)\n    left -= 1\n    if left == 0: os._exit(9)\nleft = {}\narchive.os.fsync = dying',
    'real_add = archive.Archive.add\ndef dying(self, *args):\n    global left\n    left -= 1\n    if left == 0:\n        self.data.append(args[1], self.end, 1); self.data.sync(); os._exit(9)\n    real_add(self, *args)\nleft = {}\narchive.Archive.add = dying',
], ids=['before the disk', 'after the disk', 'half a clip'])
def test_killed_where_it_hurts(whole, tmp_path, code):
    dataset, kind, undisturbed = whole
    for left in (1, 4):
        process = builder(dataset, tmp_path/'cache', kind, code=code.replace('{}', str(left)))
        process.communicate()
        assert process.returncode == 9
    assert_equal(finish(dataset, tmp_path/'cache', kind), undisturbed)


def test_torn_index_line(whole, tmp_path):
    dataset, kind, undisturbed = whole
    shutil.copytree(dataset.root.parent/f'whole-{kind}', tmp_path/'cache')
    for path in (tmp_path/'cache').rglob('index.jsonl'): os.truncate(path, path.stat().st_size - 7)
    assert_equal(finish(dataset, tmp_path/'cache', kind), undisturbed)
    assert lines(tmp_path/'cache') == 3*len(dataset)


def test_two_builders_at_once(whole, tmp_path):
    dataset, kind, undisturbed = whole
    builders = [builder(dataset, tmp_path/'cache', kind, slow=.02) for _ in range(2)]
    for process in builders: assert process.communicate()[0].endswith('done\n') and process.returncode == 0
    assert lines(tmp_path/'cache') == 3*len(dataset), 'a clip was decoded twice'
    assert_equal(finish(dataset, tmp_path/'cache', kind), undisturbed)


def test_two_builders_in_one_process(whole, tmp_path):
    dataset, kind, undisturbed = whole
    results = [None]*2
    def work(k): results[k] = finish(dataset, tmp_path/'cache', kind)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join(120)
    for result in results: assert_equal(result, undisturbed)


def test_a_file_may_not_grow(whole, tmp_path):
    dataset, kind, undisturbed = whole
    process = builder(dataset, tmp_path/'cache', kind, code='import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))')
    out, err = process.communicate()
    assert process.returncode == 3, err
    assert 'StoreError' in out and 'cannot be written' in out and 'Make room' in out and str(tmp_path/'cache') in out
    assert_equal(finish(dataset, tmp_path/'cache', kind), undisturbed)


@pytest.mark.parametrize('where', ['samples', 'index', 'waiting'])
def test_disk_full(whole, tmp_path, monkeypatch, where):
    dataset, kind, undisturbed = whole
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')
    data = dict(raw=archives.ArrayFile, jpeg=archives.JpegFile)[kind]
    with monkeypatch.context() as broken:
        if where == 'samples': broken.setattr(data, 'sync', full)
        elif where == 'index': broken.setattr(archives.os, 'fsync', full)
        else: broken.setattr(data, 'pack', full)
        with pytest.raises(StoreError, match='No space left on device.*Make room'): finish(dataset, tmp_path/'cache', kind)
    assert lines(tmp_path/'cache') == 0
    assert sum(path.stat().st_size for path in (tmp_path/'cache').rglob('samples.uint8')) == 0
    assert_equal(finish(dataset, tmp_path/'cache', kind), undisturbed)


def test_a_file_in_place_of_the_folder(whole, tmp_path):
    dataset, kind, _ = whole
    (tmp_path/'cache').write_text('mine')
    with pytest.raises(StoreError, match='Name a folder that you may write to'): finish(dataset, tmp_path/'cache', kind)
    assert (tmp_path/'cache').read_text() == 'mine'


def test_a_folder_that_may_only_be_read(whole, tmp_path, monkeypatch):
    dataset, kind, undisturbed = whole
    shutil.copytree(dataset.root.parent/f'whole-{kind}', tmp_path/'cache')
    def forbidden(*args, **kwargs): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(archives.Path, 'mkdir', forbidden)
    monkeypatch.setattr(store, 'write_whole', forbidden)
    assert_equal(finish(dataset, tmp_path/'cache', kind), undisturbed)
    with pytest.raises(StoreError, match='Permission denied.*may write to'): finish(dataset, tmp_path/'other', kind)


def test_prediction_sees_the_bytes_of_the_store(whole):
    dataset, kind, samples = whole
    for row in (0, 7, len(dataset) - 1):
        fresh, _ = sample_video(dataset.paths[row], MODALITIES, SIZE, coding=kind)
        for one, expected in zip(samples, fresh, strict=True): np.testing.assert_array_equal(one.read(one.of([row])), expected)


def test_rows_in_any_form(whole):
    _, kind, (normal, _, clips) = whole
    every = normal.read(slice(None))
    order = np.random.default_rng(0).permutation(len(normal))
    np.testing.assert_array_equal(normal.read(order), every[order])
    np.testing.assert_array_equal(normal.read(order.tolist()), every[order])
    np.testing.assert_array_equal(normal.read(normal.clip == 3), every[normal.clip == 3])
    np.testing.assert_array_equal(normal.read([2, 2, -1]), every[[2, 2, -1]])
    assert normal.read([]).shape == (0, *SIZE, 3) and normal.read(np.array([], int)).shape == (0, *SIZE, 3)
    assert normal.read(5).shape == (1, *SIZE, 3) and clips.read([1]).shape == (1, 4, *SIZE, 3)
    with pytest.raises(IndexError): normal.read([len(normal)])
    copy = pickle.loads(pickle.dumps(normal))
    np.testing.assert_array_equal(copy.read(order[:9]), every[order[:9]])
    assert len(pickle.dumps(normal)) < 50_000
    assert dict(raw='memory-mapped array', jpeg='JPEG pictures in LMDB')[kind] in repr(normal)


def test_reading_from_threads_and_forked_processes(whole):
    _, _, (normal, *_) = whole
    every, wrong = normal.read(slice(None)), []
    def work(seed):
        order = np.random.default_rng(seed).permutation(len(normal))
        if not np.array_equal(normal.read(order), every[order]): wrong.append(seed)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not wrong
    child = os.fork()
    if child == 0:
        try: same = np.array_equal(normal.read([3, 1]), every[[3, 1]])
        except BaseException: same = False
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(normal.read([3, 1]), every[[3, 1]])


def test_the_choice_is_made_by_size_and_shown(sports, tmp_path):
    size = store.estimate_bytes(sports, Frame(), 32)
    for limit, coding, kind in ((size, 'raw', 'memory-mapped array'), (size - 1, 'jpeg', 'JPEG pictures in LMDB')):
        (samples,), _ = decode_samples(sports, [Frame()], 32, tmp_path, progress=False, limit=limit)
        info = json.loads((samples.archive.folder/'info.json').read_text())
        assert samples.coding == info['coding'] == coding and info['kind'] == kind and kind in repr(samples)
        assert info['modality'] == repr(Frame()) and info['version'] == store.VERSION
    assert abs(size/(len(samples)*32*32*3) - 1) < .05


def test_moved_renamed_reordered_and_grown(sports, tmp_path, monkeypatch):
    shutil.copytree(sports.root, tmp_path/'one')
    here = dataclasses.replace(sports, root=tmp_path/'one')
    half = dataclasses.replace(here, clips=here.clips[::2].reset_index(drop=True))
    (before,), _ = decode_samples(half, [Frame()], SIZE, tmp_path/'cache', progress=False)
    assert lines(tmp_path/'cache') == len(half)
    (tmp_path/'one').rename(tmp_path/'two')
    moved = dataclasses.replace(sports, root=tmp_path/'two', name='another', clips=sports.clips.sample(frac=1, random_state=3).reset_index(drop=True))
    (after,), _ = decode_samples(moved, [Frame()], SIZE, tmp_path/'cache', progress=False)
    assert lines(tmp_path/'cache') == len(sports)
    for row, path in enumerate(moved.paths):
        (fresh,), _ = sample_video(path, [Frame()], SIZE)
        np.testing.assert_array_equal(after.read(after.of(row)), fresh)
    def never(*args): raise AssertionError('decoded again')
    monkeypatch.setattr(store, 'stream_video', never)
    (again,), _ = decode_samples(half.__class__(**{f.name: getattr(half, f.name) for f in dataclasses.fields(half)} | dict(root=tmp_path/'two')), [Frame()], SIZE, tmp_path/'cache', progress=False)
    np.testing.assert_array_equal(again.read(slice(None)), before.read(slice(None)))


def test_a_changed_file_is_decoded_again_and_sums_are_remembered(sports, tmp_path, monkeypatch):
    shutil.copytree(sports.root, tmp_path/'sports')
    here = dataclasses.replace(sports, root=tmp_path/'sports', clips=sports.clips[:6])
    for path in here.paths: os.utime(path, ns=(10**18, 10**18))
    decode_samples(here, [Frame()], SIZE, tmp_path/'cache', progress=False)
    sums = []
    real = store._sum
    monkeypatch.setattr(store, '_sum', lambda path: sums.append(path) or real(path))
    decode_samples(here, [Frame()], SIZE, tmp_path/'cache', progress=False)
    assert sums == []
    shutil.copy(here.paths[1], here.paths[0])
    (samples,), _ = decode_samples(here, [Frame()], SIZE, tmp_path/'cache', progress=False)
    assert len(sums) == 1 and lines(tmp_path/'cache') == 6
    np.testing.assert_array_equal(samples.read(samples.of(0)), samples.read(samples.of(1)))


def test_other_settings_are_another_archive(sports, tmp_path, monkeypatch):
    few = dataclasses.replace(sports, clips=sports.clips[:2])
    for modality in (Frame(), Frame(interval=10), MotionEmbedding(division=(1, 1, 1, 1, 1, 1, 1, 1, 1, 9))): decode_samples(few, [modality], SIZE, tmp_path, progress=False)
    decode_samples(few, [Frame()], 40, tmp_path, progress=False)
    monkeypatch.setattr(store, 'VERSION', 99)
    decode_samples(few, [Frame(), Frame()], SIZE, tmp_path, progress=False)
    assert len(list(tmp_path.glob('*/info.json'))) == 5


def test_parts_of_a_file(sports, tmp_path):
    spans = pd.DataFrame([dict(path=sports.clips.path[0], label=sports.clips.label[0], group='g', split='train', start=a, stop=b) for a, b in ((0, 20), (12, 32), (5, 9), (30, 10**4))])
    parts = dataclasses.replace(sports, clips=spans)
    (samples, whole_clip), report = decode_samples(parts, [Frame(), Frames(Segments(6))], SIZE, tmp_path, progress=False)
    for row, (start, stop) in enumerate(parts.spans[:3]):
        fresh, n_frames = sample_video(parts.paths[0], [Frame(), Frames(Segments(6))], SIZE, start, stop)
        assert n_frames == stop - start
        np.testing.assert_array_equal(samples.read(samples.of(row)), fresh[0])
        np.testing.assert_array_equal(whole_clip.read(whole_clip.of(row)), fresh[1])
    assert report.severity.tolist() == ['note', 'error'] and '4 frames' in report.problem[0] and 'cut off' in report.problem[1]
    assert len(samples.of([3])) == 0


def test_bad_videos_are_reported_and_leave_nothing(whole, tmp_path):
    dataset, kind, undisturbed = whole
    shutil.copytree(dataset.root, tmp_path/'sports')
    here = dataclasses.replace(dataset, root=tmp_path/'sports')
    half, text, empty, gone = here.paths[1], here.paths[4], here.paths[6], here.paths[9]
    half.write_bytes(half.read_bytes()[:half.stat().st_size//2])
    text.write_text('not a video'); empty.write_bytes(b''); gone.unlink()
    for _ in range(2):
        samples, report = decode_samples(here, MODALITIES, SIZE, tmp_path/'cache', workers=2, progress=False, limit=KINDS[kind])
        assert report.path.tolist() == here.clips.path[[1, 4, 6, 9]].tolist() and set(report.severity) == {'error'}
        assert report.problem.str.contains('cut off|not a video|empty|No such file').all()
    for one, expected in zip(samples, undisturbed, strict=True):
        good = np.isin(expected.clip, [1, 4, 6, 9], invert=True)
        np.testing.assert_array_equal(one.clip, expected.clip[good])
        np.testing.assert_array_equal(one.read(slice(None)), expected.read(good))
        beside = pd.read_csv(one.archive.folder/'report.csv')
        pd.testing.assert_frame_equal(beside[report.columns], report)
    for path in (half, text, empty, gone): shutil.copy(dataset.root/path.relative_to(here.root), path)
    samples, report = decode_samples(here, MODALITIES, SIZE, tmp_path/'cache', workers=2, progress=False, limit=KINDS[kind])
    assert report.empty and pd.read_csv(samples[0].archive.folder/'report.csv').empty
    assert_equal(samples, undisturbed)


def test_a_file_that_changes_while_it_is_read(sports, tmp_path, monkeypatch):
    shutil.copytree(sports.root, tmp_path/'sports')
    here = dataclasses.replace(sports, root=tmp_path/'sports', clips=sports.clips[:2])
    real = store.stream_video
    def touched(path, *args):
        result = real(path, *args)
        if path == here.paths[0]: path.write_bytes(path.read_bytes() + b'more')
        return result
    with monkeypatch.context() as patched:
        patched.setattr(store, 'stream_video', touched)
        (samples,), report = decode_samples(here, [Frame()], SIZE, tmp_path/'cache', progress=False)
    assert report.problem.str.contains('changed while it was read').tolist() == [True] and set(samples.clip) == {1}
    (samples,), report = decode_samples(here, [Frame()], SIZE, tmp_path/'cache', progress=False)
    assert report.empty and set(samples.clip) == {0, 1}


def test_ctrl_c_keeps_what_is_finished(sports, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, 'COMMIT_EVERY', 0)
    calls, real = [], archives.Archive.add
    def interrupted(self, *args):
        calls.append(args)
        if len(calls) == 5: raise KeyboardInterrupt
        return real(self, *args)
    with monkeypatch.context() as patched:
        patched.setattr(archives.Archive, 'add', interrupted)
        with pytest.raises(KeyboardInterrupt): decode_samples(sports, [Frame()], SIZE, tmp_path, progress=False)
    assert lines(tmp_path) == 4
    (samples,), _ = decode_samples(sports, [Frame()], SIZE, tmp_path, progress=False)
    assert lines(tmp_path) == len(sports) == len(set(samples.clip))


def test_lost_samples_are_noticed(whole, tmp_path):
    dataset, kind, _ = whole
    shutil.copytree(dataset.root.parent/f'whole-{kind}', tmp_path/'cache')
    for path in (tmp_path/'cache').glob('*/samples.*'): path.unlink()
    with pytest.raises(StoreError, match='Delete the folder'): finish(dataset, tmp_path/'cache', kind)


def test_empty_and_repeated(sports, tmp_path):
    nothing = dataclasses.replace(sports, clips=sports.clips[:0])
    (samples,), report = decode_samples(nothing, [Frame()], SIZE, tmp_path, progress=False)
    assert len(samples) == 0 and samples.read([]).shape == (0, *SIZE, 3) and report.empty
    twice = dataclasses.replace(sports, clips=pd.concat([sports.clips[:2]]*2, ignore_index=True))
    (samples, same), _ = decode_samples(twice, [Frame(), Frame()], SIZE, tmp_path, progress=False)
    np.testing.assert_array_equal(samples.read(samples.of([0, 1])), samples.read(samples.of([2, 3])))
    assert lines(tmp_path) == 2
    assert_equal([samples], [same])


PEAK = """
import pickle, sys
from har_nb.samples.store import decode_samples
dataset, modalities, size = pickle.load(open(sys.argv[1], 'rb'))
samples, report = decode_samples(dataset, modalities, size, sys.argv[2], workers=1, progress=False, limit=float(sys.argv[3]))
print(len(samples[0]), int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))/1024)
"""


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='peak memory of this process alone is told by Linux only') # elsewhere it counts the parent's, too
@pytest.mark.parametrize('kind', KINDS)
def test_memory_does_not_grow_with_the_video(sports, tmp_path, kind):
    "A video of ten minutes against one of twenty seconds; its samples alone would fill 290 MB."
    peak = {}
    for n_frames in (500, 15_000):
        folder = tmp_path/str(n_frames)/'class'
        folder.mkdir(parents=True)
        write_video(folder/'video.avi', (np.full((24, 32, 3), number % 251, np.uint8) for number in range(n_frames)), codec='MJPG')
        dataset = dataclasses.replace(sports, root=folder.parent, classes=['class'], clips=pd.DataFrame([dict(path='class/video.avi', label='class', group='g', split='train')]))
        (folder/'job.pkl').write_bytes(pickle.dumps((dataset, [Frame(), MotionEmbedding()], 128)))
        done = subprocess.run([sys.executable, '-c', PEAK, folder/'job.pkl', tmp_path/f'cache{n_frames}', str(KINDS[kind])], capture_output=True, text=True, check=True)
        n_samples, peak[n_frames] = map(float, done.stdout.split())
        assert n_samples == (n_frames - 10)//5 + 1
    assert peak[15_000] < peak[500] + 60, peak


def test_real_clips(shared_data, tmp_path):
    files = sorted(path for path in (shared_data/'clips').rglob('*') if path.suffix in ('.avi', '.mp4'))
    for path in files[:6]:
        raw, n_frames = sample_video(path, [Frame(), MotionEmbedding(), Frames(Segments(12))], 112)
        jpeg, _ = sample_video(path, [Frame(), MotionEmbedding(), Frames(Segments(12))], 112, coding='jpeg')
        for plain, coded in zip(raw, jpeg, strict=True):
            assert plain.shape == coded.shape and 0 < np.abs(plain.astype(int) - coded).mean() < 6
        assert len(raw[0]) == len(Frame().sampler(n_frames))
