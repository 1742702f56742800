"""The store under load and under attack: killed, doubled, full, forbidden, with bad videos; and the same bytes
everywhere."""
import dataclasses
import errno
import json
import math
import os
import pickle
import random
import shutil
import signal
import threading

import numpy as np
import pandas as pd
import pytest
from footage import CODECS, drawn, encode, numbers
from stopped import Child, at

from har_nb.data.dataset import ActionDataset
from har_nb.data.synthetic import build
from har_nb.data.video import frames, write_video
from har_nb.samples import archive as archives
from har_nb.samples import store
from har_nb.samples.archive import StoreError
from har_nb.samples.modalities import ASPECTS, Frame, Frames, MotionEmbedding, sample_video
from har_nb.samples.samplers import EveryKth, OneClip, Segments, ticks
from har_nb.samples.store import decode_samples

KINDS = dict(raw=math.inf, jpeg=0)
MODALITIES = [Frame(), MotionEmbedding(), Frames(OneClip(4))]
SIZE = (40, 56)

def build_store(dataset, cache, kind, prepare, here):
    "In a child: a build that commits after every clip; `prepare` says where it stops."
    archives.COMMIT_EVERY = 0
    prepare(here)
    return [len(samples) for samples in finish(dataset, cache, kind)]


@pytest.fixture(scope='module')
def sports(tmp_path_factory):
    folder = tmp_path_factory.mktemp('store')
    return build(folder/'sports', people=2, takes=1, size=(48, 64), progress=False)


@pytest.fixture(scope='module', params=KINDS)
def whole(request, sports):
    "The set, its kind, and the samples of a build that nothing disturbed."
    samples, report = decode_samples(sports, MODALITIES, SIZE, sports.root.parent/f'whole-{request.param}',
                                     workers=2, progress=False, limit=KINDS[request.param])
    assert report.empty and {s.coding for s in samples} == {request.param}
    return sports, request.param, samples


def assert_equal(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.modality == other.modality and one.coding == other.coding and one.shape == other.shape
        np.testing.assert_array_equal(one.clip, other.clip)
        np.testing.assert_array_equal(one.read(slice(None)), other.read(slice(None)))


def finish(dataset, cache, kind):
    return decode_samples(dataset, MODALITIES, SIZE, cache, workers=2, progress=False, limit=KINDS[kind])[0]
def lines(cache): return sum(len(path.read_bytes().splitlines()) for path in cache.rglob('index.jsonl'))


def at_a_clip(here): at(store, 'stream_video', here)
def at_its_samples(here): at(archives.Archive, 'add', here, after=True)
def before_the_disk(here): at(os, 'fsync', here)
def after_the_disk(here): at(os, 'fsync', here, after=True)
def at_half_a_clip(here):
    real = archives.Archive.add
    def half(self, key, packed, count, *rest):
        self.data.append(packed, self.end, 1)
        self.data.sync()
        here('half')
        self.data.undo(self.end)
        packed.seek(0)
        real(self, key, packed, count, *rest)
    archives.Archive.add = half


def whole_again(dataset, cache, kind, undisturbed):
    assert_equal(finish(dataset, cache, kind), undisturbed)
    assert lines(cache) == 3*len(dataset)
    whole = dataset.root.parent/f'whole-{kind}'
    left = {path.name for path in cache.rglob('*')} - {path.name for path in whole.rglob('*')}
    assert not left - {'digests.jsonl'} # kept once files are older than a moment


@pytest.mark.parametrize('prepare', [at_a_clip, at_its_samples, before_the_disk, after_the_disk, at_half_a_clip])
def test_killed_at_every_step(whole, tmp_path, prepare):
    dataset, kind, undisturbed = whole
    cache, progress = tmp_path/'cache', []
    for times in (1, 4, 9, 3):
        child = Child(build_store, dataset, cache, kind, prepare)
        assert child.arrive(times), child.end
        assert child.stop() == -signal.SIGKILL
        progress.append(lines(cache))
    assert progress == sorted(progress) and progress[0] < progress[-1] < 3*len(dataset)
    whole_again(dataset, cache, kind, undisturbed)


def test_killed_at_random_moments(whole, tmp_path):
    dataset, kind, undisturbed = whole
    moments, progress = random.Random(4), []
    for _ in range(5):
        child = Child(build_store, dataset, tmp_path/'cache', kind, before_the_disk)
        child.arrive(moments.randrange(1, 12))
        if not isinstance(child.end, tuple): child.pipe.send('go on') # killed on its way, or when it is done
        child.stop()
        progress.append(lines(tmp_path/'cache'))
    assert progress == sorted(progress)
    whole_again(dataset, tmp_path/'cache', kind, undisturbed)


def test_torn_index_line(whole, tmp_path):
    dataset, kind, undisturbed = whole
    shutil.copytree(dataset.root.parent/f'whole-{kind}', tmp_path/'cache')
    for path in (tmp_path/'cache').rglob('index.jsonl'): os.truncate(path, path.stat().st_size - 7)
    assert_equal(finish(dataset, tmp_path/'cache', kind), undisturbed)
    assert lines(tmp_path/'cache') == 3*len(dataset)


def test_two_builders_at_once(whole, tmp_path):
    dataset, kind, undisturbed = whole
    first = Child(build_store, dataset, tmp_path/'cache', kind, at_a_clip)
    assert first.arrive() # it alone may write now
    second = Child(build_store, dataset, tmp_path/'cache', kind, at_a_clip) # waits, and then has nothing left to do
    first.pipe.send('go on')
    sizes = [len(samples) for samples in undisturbed]
    assert [first.finish(), second.finish()] == [sizes]*2
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


def may_not_grow(here):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_file_may_not_grow(whole, tmp_path):
    dataset, kind, undisturbed = whole
    how, text = Child(build_store, dataset, tmp_path/'cache', kind, may_not_grow).finish()
    assert how == 'raised'
    assert text.startswith(f'StoreError: {tmp_path/"cache"}')
    assert 'cannot be written' in text
    assert 'Make room' in text
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
        with pytest.raises(StoreError, match='No space left on device.*Make room'):
            finish(dataset, tmp_path/'cache', kind)
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
        for one, expected in zip(samples, fresh, strict=True):
            np.testing.assert_array_equal(one.read(one.of([row])), expected)


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
    moved = dataclasses.replace(sports, root=tmp_path/'two', name='another',
                                clips=sports.clips.sample(frac=1, random_state=3).reset_index(drop=True))
    (after,), _ = decode_samples(moved, [Frame()], SIZE, tmp_path/'cache', progress=False)
    assert lines(tmp_path/'cache') == len(sports)
    for row, path in enumerate(moved.paths):
        (fresh,), _ = sample_video(path, [Frame()], SIZE)
        np.testing.assert_array_equal(after.read(after.of(row)), fresh)
    def never(*args): raise AssertionError('decoded again')
    monkeypatch.setattr(store, 'stream_video', never)
    elsewhere = dataclasses.replace(half, root=tmp_path/'two')
    (again,), _ = decode_samples(elsewhere, [Frame()], SIZE, tmp_path/'cache', progress=False)
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
    for modality in (Frame(), Frame(interval=10), MotionEmbedding(division=(1, 1, 1, 1, 1, 1, 1, 1, 1, 9))):
        decode_samples(few, [modality], SIZE, tmp_path, progress=False)
    decode_samples(few, [Frame()], 40, tmp_path, progress=False)
    monkeypatch.setattr(store, 'VERSION', 99)
    decode_samples(few, [Frame(), Frame()], SIZE, tmp_path, progress=False)
    assert len(list(tmp_path.glob('*/info.json'))) == 5


def test_parts_of_a_file(sports, tmp_path):
    spans = pd.DataFrame([dict(path=sports.clips.path[0], label=sports.clips.label[0],
                               group='g', split='train', start=a, stop=b)
                          for a, b in ((0, 20), (12, 32), (5, 9), (30, 10**4))])
    parts = dataclasses.replace(sports, clips=spans)
    (samples, whole_clip), report = decode_samples(parts, [Frame(), Frames(Segments(6))], SIZE, tmp_path,
                                                   progress=False)
    for row, (start, stop) in enumerate(parts.spans[:3]):
        fresh, n_frames = sample_video(parts.paths[0], [Frame(), Frames(Segments(6))], SIZE, start, stop)
        assert n_frames == stop - start
        np.testing.assert_array_equal(samples.read(samples.of(row)), fresh[0])
        np.testing.assert_array_equal(whole_clip.read(whole_clip.of(row)), fresh[1])
    assert report.severity.tolist() == ['note', 'error']
    assert '4 frames' in report.problem[0]
    assert 'cut off' in report.problem[1]
    assert len(samples.of([3])) == 0


@pytest.fixture(scope='module')
def phones(tmp_path_factory):
    "Three clips: steady, of changing rate, and portrait."
    folder = tmp_path_factory.mktemp('phones')/'set'
    (folder/'class').mkdir(parents=True)
    times = np.cumsum([0, *[1/60]*20, *[1/15]*19])
    encode(folder/'class'/'a.mp4', drawn(50), rate=25)
    encode(folder/'class'/'b.mp4', drawn(40), times=times)
    encode(folder/'class'/'c.mp4', drawn(50, 128, 96), rate=50)
    clips = pd.DataFrame([dict(path=f'class/{name}.mp4', label='class', group=name, split='train') for name in 'abc'])
    return ActionDataset(folder, ['class'], clips), times


def test_frames_at_the_ticks_of_a_clock(phones, tmp_path):
    dataset, times = phones
    every = [Frames(EveryKth(1), fps=25.), Frames(OneClip(4), fps=25.), Frames(EveryKth(1))]
    (at_rate, clips, plain), report = decode_samples(dataset, every, (96, 128), tmp_path, progress=False)
    assert report.empty and len(set(path.name for path in tmp_path.glob('Frames-*'))) == 3
    told = [numbers(at_rate.read(at_rate.of([row]))) for row in (0, 1)]
    expected = [np.arange(50), ticks(times, 25)]
    for seen, wanted in zip(told, expected, strict=True): assert seen == wanted.tolist()
    assert len(at_rate.of([2])) == 25
    assert len(plain.of([2])) == 50
    assert numbers(plain.read(plain.of([1]))) == list(range(40))
    assert numbers(clips.read(clips.of([1]))[0]) == expected[1][OneClip(4)(len(expected[1]))[0]].tolist()
    for row in range(3):
        fresh, _ = sample_video(dataset.paths[row], every, (96, 128))
        for one, samples in zip((at_rate, clips, plain), fresh, strict=True):
            np.testing.assert_array_equal(one.read(one.of([row])), samples)
    part, _ = sample_video(dataset.paths[1], every[:1], (96, 128), 10, 30)
    assert numbers(part[0]) == (10 + ticks(times[10:30], 25)).tolist()


@pytest.mark.parametrize('aspect', ASPECTS)
def test_every_shape_of_the_picture_in_the_store(phones, tmp_path, aspect):
    dataset, _ = phones
    (samples,), report = decode_samples(dataset, [Frames(Segments(2), aspect=aspect)], 48, tmp_path, progress=False)
    assert samples.size == ((48, 64) if aspect == 'keep' else (48, 48))
    assert report.path.tolist() == (['class/c.mp4'] if aspect == 'keep' else [])
    if aspect == 'keep':
        assert '48 x 64, those of the set 64 x 48' in report.problem[0] and 'letterbox' in report.problem[0]
    for row in range(2 if aspect == 'keep' else 3):
        (fresh,), _ = sample_video(dataset.paths[row], [samples.modality], samples.size)
        np.testing.assert_array_equal(samples.read(samples.of([row])), fresh)
    (portrait,), _ = sample_video(dataset.paths[2], [samples.modality], samples.size)
    assert portrait.shape == (1, 2, *((64, 48) if aspect == 'keep' else (48, 48)), 3)


def test_bad_videos_are_reported_and_leave_nothing(whole, tmp_path):
    dataset, kind, undisturbed = whole
    shutil.copytree(dataset.root, tmp_path/'sports')
    here = dataclasses.replace(dataset, root=tmp_path/'sports')
    half, text, empty, gone = here.paths[1], here.paths[4], here.paths[6], here.paths[9]
    half.write_bytes(half.read_bytes()[:half.stat().st_size//2])
    text.write_text('not a video'); empty.write_bytes(b''); gone.unlink()
    for _ in range(2):
        samples, report = decode_samples(here, MODALITIES, SIZE, tmp_path/'cache',
                                         workers=2, progress=False, limit=KINDS[kind])
        assert report.path.tolist() == here.clips.path[[1, 4, 6, 9]].tolist() and set(report.severity) == {'error'}
        assert report.problem.str.contains('cut off|not a video|empty|No such file').all()
    for one, expected in zip(samples, undisturbed, strict=True):
        good = np.isin(expected.clip, [1, 4, 6, 9], invert=True)
        np.testing.assert_array_equal(one.clip, expected.clip[good])
        np.testing.assert_array_equal(one.read(slice(None)), expected.read(good))
        beside = pd.read_csv(one.archive.folder/'report.csv')
        pd.testing.assert_frame_equal(beside[report.columns], report)
    for path in (half, text, empty, gone): shutil.copy(dataset.root/path.relative_to(here.root), path)
    samples, report = decode_samples(here, MODALITIES, SIZE, tmp_path/'cache',
                                     workers=2, progress=False, limit=KINDS[kind])
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


def peak_memory(dataset, cache, kind, here):
    "In a child: number of samples, and the most memory that it took, in MB."
    modalities = [Frame(), MotionEmbedding()]
    samples, _ = decode_samples(dataset, modalities, 128, cache, workers=1, progress=False, limit=KINDS[kind])
    with open('/proc/self/status') as status:
        most = next(line.split()[1] for line in status if line.startswith('VmHWM'))
    return len(samples[0]), int(most)/1024


@pytest.fixture(scope='module')
def long_videos(tmp_path_factory):
    "Twenty seconds and ten minutes, as data sets of one clip."
    sets = {}
    for n_frames in (500, 15_000):
        folder = tmp_path_factory.mktemp(str(n_frames))
        (folder/'class').mkdir()
        write_video(folder/'class'/'video.avi',
                    (np.full((24, 32, 3), number % 251, np.uint8) for number in range(n_frames)), codec='MJPG')
        clips = pd.DataFrame([dict(path='class/video.avi', label='class', group='g', split='train')])
        sets[n_frames] = ActionDataset(folder, ['class'], clips)
    return sets


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), # elsewhere it counts the parent's, too
                    reason='peak memory of this process alone is told by Linux only')
@pytest.mark.parametrize('kind', KINDS)
def test_memory_does_not_grow_with_the_video(long_videos, tmp_path, kind):
    "A video of ten minutes against one of twenty seconds; its samples alone would fill 290 MB."
    peak = {}
    for n_frames, dataset in long_videos.items():
        n_samples, peak[n_frames] = Child(peak_memory, dataset, tmp_path/f'cache{n_frames}', kind).finish()
        assert n_samples == (n_frames - 10)//5 + 1
    assert peak[15_000] < peak[500] + 60, peak


def test_pictures_that_the_decoder_overwrites(tmp_path):
    "Modalities that see the decoder's own pictures, in whatever company, give what stable frames give."
    several = [Frame(), MotionEmbedding(7, 3), MotionEmbedding(division=(1,)*9 + (4,)),
               Frames(EveryKth(3)), Frames(OneClip(8, step=2)), Frames(Segments(5))]
    # the last by PyAV
    paths = [encode(tmp_path/f'{kind}{CODECS[kind][2]}', drawn(33), kind) for kind in ('h264', 'mpeg4', 'av1')]
    for path in paths:
        for span in ((0, None), (5, 31), (3, 7), (10, 11)):
            clip = frames(path, start=span[0], stop=span[1])
            together, n_frames = sample_video(path, several, SIZE, *span)
            assert n_frames == len(clip)
            for modality, samples in zip(several, together, strict=True):
                from_frames = [sample for sample in modality.stream(iter(clip), SIZE, len(clip)) if sample is not None]
                np.testing.assert_array_equal(samples, np.stack(from_frames))
                np.testing.assert_array_equal(samples, sample_video(path, [modality], SIZE, *span)[0][0])


def test_a_stream_of_its_own_gets_red_green_blue(sports):
    class Grey(Frame):
        def stream(self, frames, size, n_frames=None):
            for image in super().stream(frames, size):
                yield image if image is None else np.repeat(image[..., :1], 3, -1)
    assert Frame.passing and not Grey.passing
    (plain,), _ = sample_video(sports.paths[0], [Frame()], SIZE)
    (red,), _ = sample_video(sports.paths[0], [Grey()], SIZE)
    np.testing.assert_array_equal(red, np.repeat(plain[..., :1], 3, -1))


def test_clips_of_a_camera(footage, tmp_path):
    seen = [Frame(), MotionEmbedding(), Frames(Segments(12))]
    for path in footage.values():
        raw, n_frames = sample_video(path, seen, 112, stop=60)
        jpeg, _ = sample_video(path, seen, 112, stop=60, coding='jpeg')
        for plain, coded in zip(raw, jpeg, strict=True):
            assert plain.shape == coded.shape and 0 < np.abs(plain.astype(int) - coded).mean() < 6
        assert len(raw[0]) == len(Frame().sampler(n_frames))
