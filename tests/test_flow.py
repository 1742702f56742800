"""Flow where it is hard: nothing to see, odd sizes, other batches, the mirror, the store; and OpenCV's TV-L1 as a
witness."""
import ast
import copy
import importlib.util
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from later import collecting, parametrize

from har_nb.data.synthetic import build, render_clip
from har_nb.data.video import write_video
from har_nb.samples import store
from har_nb.samples.modalities import Frames, sample_video
from har_nb.samples.samplers import AllClips, Batches, EveryKth, OneClip, Segments, ShiftingFrames, SpreadClips
from har_nb.samples.store import cache_key, decode_samples

if not collecting:
    import torch

    from har_nb.motion import flow as flows
    from har_nb.motion.brox import Brox
    from har_nb.motion.flow import TVL1, compile_open, end_point_error, known_motion
    from har_nb.motion.flow_pictures import (
        DIS,
        Farneback,
        decode_flow,
        encode_flow,
        flow_of,
        grey_of,
        mirror_flow,
        wheel_picture,
    )
    from har_nb.samples.flow import FLOW_MEAN, FLOW_STD, Flow, TensorFlow, TensorFlowClip
    from har_nb.samples.loaders import RandomFlip, RandomZoom, make_loaders

MOTIONS = dict(translation=dict(shift=(1.7, -1.2)), rotation=dict(degrees=2), zoom=dict(zoom=1.03))
if not collecting:
    METHODS = dict(TVL1=TVL1(), half=TVL1(half=True), median=TVL1(median=3, outer=2),
                   Brox=Brox(), DIS=DIS(), Farneback=Farneback())
    OURS = {name: METHODS[name] for name in ('TVL1', 'half', 'Brox')}
    QUICK = TVL1(scales=2, warps=2, inner=10)


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def pairs():
    return [np.stack(x)
            for x in zip(*(known_motion(**motion, size=(64, 80)) for motion in MOTIONS.values()), strict=True)]


@pytest.fixture(scope='module')
def sports(tmp_path_factory):
    return build(tmp_path_factory.mktemp('flow')/'sports', people=3, takes=1, size=(48, 64), progress=False)


@parametrize('name', ['TVL1', 'half', 'median', 'Brox', 'DIS', 'Farneback'], lambda: METHODS)
def test_nothing_to_see_does_not_move(name):
    for grey in (0, 77, 255):
        picture = np.full((2, 37, 53), grey, np.uint8)
        flow = METHODS[name](picture, picture)
        assert flow.shape == (2, 2, 37, 53) and flow.dtype == torch.float32 and flow.isfinite().all()
        assert flow.abs().max() < (1e-6 if name in OURS else .1)


@parametrize('name', ['TVL1', 'half', 'median', 'Brox', 'DIS', 'Farneback'], lambda: METHODS)
@pytest.mark.parametrize('size', [(1, 1), (1, 2), (2, 1), (3, 50), (50, 3), (15, 16), (16, 16), (17, 33), (65, 31)])
def test_tiny_and_odd_sizes_have_an_answer(name, size):
    dice = np.random.default_rng(0)
    flow = METHODS[name](*(dice.integers(0, 256, (2, *size), dtype=np.uint8) for _ in range(2)))
    assert flow.shape == (2, 2, *size) and flow.isfinite().all()
    lights = np.zeros((1, *size), np.uint8), np.full((1, *size), 255, np.uint8)
    assert METHODS[name](*lights).isfinite().all()


@parametrize('name', ['TVL1', 'half', 'median', 'Brox', 'DIS', 'Farneback'], lambda: METHODS)
def test_bytes_floats_arrays_and_tensors_are_the_same_to_a_method(name, pairs):
    before, after = (x[:1].round().astype(np.uint8) for x in pairs[:2])
    method, backwards = METHODS[name], np.ascontiguousarray(before[:, ::-1])[:, ::-1]
    flow = method(before, after)
    for one, other in (
        (before.astype(np.float32), after),
        (before.astype(np.float64), after.astype(np.float32)),
        (torch.from_numpy(before), torch.from_numpy(after)),
        (backwards, after),
    ):
        assert torch.equal(method(one, other), flow)


@parametrize('name', ['TVL1', 'half', 'median', 'Brox', 'DIS', 'Farneback'], lambda: METHODS)
def test_a_pair_does_not_know_its_batch(name, pairs, monkeypatch):
    before, after = (x[:, :48, :56] for x in pairs[:2])
    flow = METHODS[name](before, after)
    assert torch.equal(METHODS[name](before[[2, 0]], after[[2, 0]]), flow[[2, 0]])
    monkeypatch.setattr(flows, 'CHUNK', 1) # each alone
    assert torch.equal(METHODS[name](before, after), flow)


@pytest.mark.parametrize('before, after, words', [
    (np.zeros((4, 5)), np.zeros((4, 5)), 'pictures B H W'),
    (np.zeros((1, 4, 5)), np.zeros((1, 4, 6)), 'same shape'),
    (np.zeros((1, 0, 5)), np.zeros((1, 0, 5)), 'pictures B H W'),
    (np.zeros((1, 4, 5), int), np.zeros((1, 4, 5), int), 'uint8'),
    (np.zeros((2, 4, 5, 3)), np.zeros((2, 4, 5, 3)), 'pictures B H W'),
    (np.zeros((1, 4, 5)), np.full((1, 4, 5), np.nan), '20 of them are not finite'),
])
@pytest.mark.parametrize('name', ['TVL1', 'Brox', 'DIS'])
def test_what_is_not_a_pair_of_grey_pictures_is_told(name, before, after, words):
    with pytest.raises(ValueError, match=words): METHODS[name](before, after)


def test_no_pairs_are_no_error_only_no_flow():
    assert flow_of(np.zeros((1, 8, 9, 3), np.uint8)).shape == (0, 2, 8, 9)
    assert flow_of(np.zeros((1, 8, 9), np.uint8), TVL1()).shape == (0, 2, 8, 9)


@parametrize('name', ['TVL1', 'half', 'Brox'], lambda: OURS)
def test_known_motion_is_found(name, pairs):
    before, after, truth = pairs
    error = end_point_error(OURS[name](before, after), truth)[:, 8:-8, 8:-8].mean((1, 2))
    assert error.max() < .1


def test_brox_is_no_worse_than_tvl1(pairs):
    before, after, truth = pairs
    errors = [end_point_error(method(before, after), truth)[:, 8:-8, 8:-8].mean((1, 2)) for method in (Brox(), TVL1())]
    assert (errors[0] <= errors[1]).all()


def test_tvl1_agrees_with_opencv(root, pairs):
    kept = np.load(root/'tests'/'data'/'flow_opencv.npz')
    ours = TVL1()(*(x.round().astype(np.uint8) for x in pairs[:2]))
    for number, name in enumerate(MOTIONS):
        difference = end_point_error(ours[number], kept[name].astype(np.float32))
        assert difference.mean() < .005 and difference[8:-8, 8:-8].max() < .05, (name, difference.mean())
        assert end_point_error(TVL1(theta=.2)(*(x[number:number + 1] for x in pairs[:2]))[0],
                               kept[name].astype(np.float32)).mean() > .005


def test_the_camera_of_the_built_in_set_is_followed():
    clip = render_clip('Running', 2, size=(96, 128), camera_motion=True, seed=2)
    found = flow_of(clip.frames[10:15], TVL1())
    truth = torch.from_numpy(clip.flow[10:14])
    behind = torch.from_numpy(~clip.masks[10:14])
    error = end_point_error(found, truth)[behind]
    assert error.median() < .2 and error.mean() < truth.norm(dim=1)[behind].mean()/2


def test_another_way_to_iterate_is_used(pairs):
    calls = []

    def counted(*args): calls.append(args[4]); return flows.relax(*args)
    before, after = (x[:1] for x in pairs[:2])
    assert torch.equal(TVL1(iterate=counted)(before, after), TVL1()(before, after)) and sum(calls) == 3*5*30


def test_a_cpu_does_without_triton():
    for name in ('motion.flow', 'motion.brox', 'motion.flow_pictures', 'samples.flow'):
        source = Path(importlib.util.find_spec(f'har_nb.{name}').origin).read_text()
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert imports and not any('flow_fused' in ast.unparse(node) for node in imports), name


def test_the_median_is_one():
    x = torch.rand(2, 9, 11)
    middle = flows.median(x, 3)
    assert middle[1, 4, 5] == x[1, 3:6, 4:7].median() and middle.shape == x.shape
    assert torch.equal(flows.median(torch.full((1, 4, 4), 3.), 5), torch.full((1, 4, 4), 3.))


def test_compiling_fails_aloud(monkeypatch):
    def broken(x): return torch.tensor(x.sum().item() + len(str(x.data_ptr()))) + np.random.default_rng()
    with pytest.raises(RuntimeError, match='broken cannot be compiled.*compiled=False'):
        compile_open(broken)(torch.ones(3))


@pytest.mark.slow
def test_compiled_is_eager_for_all_sizes_and_batches(pairs):
    before, after = pairs[:2]
    for rows, columns, batch in ((64, 80, 3), (64, 64, 1), (33, 47, 2), (48, 48, 3), (20, 70, 1), (64, 80, 1)):
        cut = [x[:batch, :rows, :columns] for x in (before, after)]
        for method in (TVL1, Brox):
            difference = end_point_error(method(compiled=True)(*cut), method()(*cut))
            assert difference.median() < 1e-3, (method, rows, columns, batch)


@pytest.mark.slow
def test_one_version_too_many_is_an_error(monkeypatch):
    "Torch would go on line by line, in silence."
    monkeypatch.setattr(flows, 'VERSIONS', 1)
    def twice(x): return 2*x
    compiled = compile_open(twice)
    compiled(torch.ones(3, 4))
    with pytest.raises(RuntimeError, match='twice cannot be compiled'): compiled(torch.ones(3, 4, 5))


def test_codes_come_back():
    codes = torch.arange(256, dtype=torch.uint8)
    for bound in (.5, 5, 20, 33): assert torch.equal(encode_flow(decode_flow(codes, bound), bound), codes)
    dice = torch.Generator().manual_seed(0)
    flow = 60*torch.rand(2, 2, 30, 40, generator=dice) - 30
    assert ((decode_flow(encode_flow(flow)) - flow.clamp(-20, 20)).abs() <= 20/255 + 1e-5).all()
    assert encode_flow(np.zeros(1)).item() == 128
    assert encode_flow(torch.tensor([-math.inf, math.inf])).tolist() == [0, 255]


def test_codes_are_rounded_as_cv_round():
    steps = np.linspace(-20, 20, 511) # every other one is halfway between two codes
    expected = np.rint(255*(steps + 20)/40)
    assert (np.abs(encode_flow(steps).numpy() - expected) <= (np.abs((255*(steps + 20)/40) % 1 - .5) < 1e-3)).all()
    assert encode_flow(0.).item() == np.rint(127.5) == 128


def test_a_mirror_turns_x_and_nothing_else():
    flow = torch.randn(3, 2, 5, 6)
    assert torch.equal(mirror_flow(flow)[:, 0], -flow[:, 0].flip(-1))
    assert torch.equal(mirror_flow(flow)[:, 1], flow[:, 1].flip(-1))
    assert torch.equal(mirror_flow(mirror_flow(flow)), flow)
    code = encode_flow(4*flow)
    assert torch.equal(mirror_flow(mirror_flow(code)), code)
    assert (decode_flow(mirror_flow(code)) - mirror_flow(decode_flow(code))).abs().max() < 1e-5


def test_wheel_pictures_of_any_flow():
    for flow in (np.zeros((2, 3, 4)), np.full((2, 3, 4), 1e-30), 1e6*np.ones((2, 3, 4), np.float32),
                 np.zeros((2, 0, 4)), torch.randn(2, 3, 4, requires_grad=True)):
        assert wheel_picture(flow).dtype == np.uint8 and wheel_picture(flow).shape == (*flow.shape[1:], 3)
    right, left = (wheel_picture(np.stack([np.full((1, 1), x), np.zeros((1, 1))]), 1)[0, 0].astype(int)
                   for x in (1., -1.))
    assert right[0] == 255 and left[0] == 0 and np.abs(right - left).sum() > 300


@pytest.mark.parametrize('sampler',
                         [EveryKth(4), Batches(6, 3), OneClip(8, step=2), AllClips(8),
                          Segments(5), ShiftingFrames(4, 6), SpreadClips(3, 6)], ids=repr)
def test_flow_of_every_sampler_frame_by_frame(sampler):
    clip = render_clip('StarJump', 1, size=(24, 32)).frames
    for n_frames in (1, 2, 3, 7, 30):
        frames = clip[:n_frames]
        code = encode_flow(flow_of(frames, QUICK)).permute(0, 2, 3, 1).numpy()
        if n_frames > 1: code = code[np.minimum(np.arange(n_frames), n_frames - 2)]
        else: code = np.full((1, 24, 32, 2), 128, np.uint8)
        for together in (1, 3, 64):
            modality = Flow(sampler, QUICK, together=together)
            whole = modality(frames)
            expected = code[sampler(n_frames)]
            np.testing.assert_array_equal(whole, expected if sampler.length > 1 else expected[:, 0])
            assert whole.shape[1:] == modality.shape((24, 32)) and len(whole) == len(Frames(sampler)(frames))


def test_frames_are_made_small_before_their_flow():
    frames = render_clip('StarJump', 1, size=(48, 64)).frames[:5]
    from har_nb.samples.modalities import resize
    small = resize(grey_of(frames)[..., None], (24, 32))[..., 0]
    streamed = np.stack([x for x in Flow(EveryKth(1), QUICK).stream(iter(frames), (24, 32)) if x is not None])
    np.testing.assert_array_equal(streamed[:4], encode_flow(flow_of(small, QUICK)).permute(0, 2, 3, 1).numpy())


def test_a_long_video_takes_the_memory_of_a_short_one():
    "No more frames are held than the samples that have begun and the pairs that wait."
    import weakref
    alive, most = weakref.WeakSet(), 0

    class Held(np.ndarray): pass

    def frames(n):
        nonlocal most
        for number in range(n):
            frame = np.full((20, 24, 3), number % 256, np.uint8).view(Held)
            alive.add(_Key(frame))
            most = max(most, len(alive))
            yield frame
    class _Key:
        def __init__(self, frame): frame.key = self
    for sample in Flow(AllClips(8), DIS(), together=16).stream(frames(600), (20, 24)): del sample
    assert 2 <= most <= 4


def test_settings_make_the_key_and_ways_do_not():
    sampler = AllClips(8)
    others = (Flow(sampler), Flow(sampler, TVL1(warps=3)), Flow(sampler, bound=10), Flow(sampler, TVL1(half=True)),
              Flow(sampler, Brox()), Flow(sampler, DIS()), Flow(AllClips(9)))
    keys = [cache_key(modality, 32) for modality in others]
    assert len(set(keys)) == len(keys)
    assert cache_key(Flow(sampler, TVL1(compiled=True), together=5, device='cpu'), 32) == keys[0]
    assert pickle.loads(pickle.dumps(Flow(sampler, Brox()))) == Flow(sampler, Brox())
    assert copy.copy(Flow(sampler)) == Flow(sampler)


@pytest.mark.parametrize('coding', ['raw', 'jpeg'])
def test_flow_through_the_store(sports, tmp_path, coding):
    modalities = [Frames(ShiftingFrames(4, 6)), Flow(ShiftingFrames(4, 6), QUICK, bound=5)]
    limit = dict(raw=math.inf, jpeg=0)[coding]
    (frames, flow), report = decode_samples(sports, modalities, (24, 32), tmp_path,
                                            workers=3, progress=False, limit=limit)
    assert report.empty and flow.shape == (4, 24, 32, 2) and flow.coding == coding
    np.testing.assert_array_equal(frames.clip, flow.clip)
    (alone,), _ = decode_samples(sports, modalities[1:], (24, 32), tmp_path/'alone',
                                 workers=1, progress=False, limit=limit)
    np.testing.assert_array_equal(alone.read(slice(None)), flow.read(slice(None)))
    for clip in (0, len(sports) - 1):
        (_, own), _ = sample_video(sports.paths[clip], modalities, (24, 32), coding=coding)
        np.testing.assert_array_equal(own, flow.read(flow.of([clip])))


def test_a_stopped_build_goes_on(sports, tmp_path, monkeypatch):
    "What was computed is not computed again, and the end is the same as without a stop."
    modality, counted = Flow(ShiftingFrames(4, 6), QUICK), []
    (whole,), _ = decode_samples(sports, [modality], (24, 32), tmp_path/'whole', workers=1, progress=False)
    real = store.stream_video

    def stops(path, *args, **kwargs):
        counted.append(path)
        if len(counted) > 9: raise KeyboardInterrupt
        return real(path, *args, **kwargs)
    monkeypatch.setattr(store, 'stream_video', stops)
    monkeypatch.setattr('har_nb.samples.archive.COMMIT_EVERY', 0)
    with pytest.raises(KeyboardInterrupt):
        decode_samples(sports, [modality], (24, 32), tmp_path/'stopped', workers=1, progress=False)
    before, counted[:] = len(counted), []
    monkeypatch.setattr(store, 'stream_video',
                        lambda path, *args, **kwargs: counted.append(path) or real(path, *args, **kwargs))
    (again,), _ = decode_samples(sports, [modality], (24, 32), tmp_path/'stopped', workers=1, progress=False)
    assert len(counted) == len(sports) - before + 1
    np.testing.assert_array_equal(again.read(slice(None)), whole.read(slice(None)))


def test_the_bar_tells_frames_a_second(sports, tmp_path, monkeypatch):
    import io

    from tqdm import tqdm
    shown = io.StringIO()
    def bar(items=None, about='', total=None, unit='file', shown_=True, **k):
        return tqdm(items, about, total, unit=unit, file=shown, mininterval=0)
    monkeypatch.setattr(store, 'progress_bar', bar)
    decode_samples(sports, [Flow(EveryKth(5), DIS())], 24, tmp_path, workers=1)
    assert ' frames/s' in shown.getvalue()


def test_a_broken_video_is_a_row_and_a_failing_method_an_error(sports, tmp_path):
    root = tmp_path/'set'
    shutil.copytree(sports.root, root)
    from har_nb.data.lists import from_lists
    dataset = from_lists(root)
    dataset.paths[0].write_bytes(b'no video')
    (flow,), report = decode_samples(dataset, [Flow(EveryKth(5), DIS())], 24, tmp_path/'cache', progress=False)
    assert list(report.severity) == ['error'] and 0 not in flow.clip and len(np.unique(flow.clip)) == len(dataset) - 1

    def fails(before, after): raise RuntimeError('no flow today')
    with pytest.raises(RuntimeError, match='no flow today'):
        decode_samples(dataset, [Flow(EveryKth(7), fails)], 24, tmp_path/'cache2', progress=False)


def test_one_frame_videos_stand_still(tmp_path):
    video = write_video(tmp_path/'one.avi', np.full((1, 48, 64, 3), 90, np.uint8)).path
    (one,), n_frames = sample_video(video, [Flow(AllClips(4))], 32)
    assert n_frames == 1 and one.shape == (1, 4, 32, 32, 2) and (one == 128).all()


def test_loaders_mirror_flow_with_its_pictures(sports, tmp_path):
    "The same seed mirrors the same samples of frames and of flow, and flow turns its x."
    sampler = ShiftingFrames(4, 6)
    (frames, flow), _ = decode_samples(sports.carve_validation(.5), [Frames(sampler), Flow(sampler, QUICK)],
                                       (24, 32), tmp_path, progress=False)
    dataset = sports.carve_validation(.5)
    plain = make_loaders(flow, dataset, batch_size=4, mean=(0, 0), std=(1, 1), flip=False, device='cpu')
    turned = make_loaders(flow, dataset, batch_size=4, mean=(0, 0), std=(1, 1), flip=True, device='cpu')
    seen = make_loaders(frames, dataset, batch_size=4, device='cpu').one_batch()
    (x, y), (z, w) = plain.one_batch(), turned.one_batch()
    still = make_loaders(frames, dataset, batch_size=4, flip=False, device='cpu').one_batch()
    assert torch.equal(torch.as_tensor(y), torch.as_tensor(w))
    assert isinstance(x, TensorFlowClip)
    assert x.shape == (4, 2, 4, 24, 32)
    for number in range(4):
        mirrored = not torch.equal(torch.as_tensor(seen[0][number]), torch.as_tensor(still[0][number]))
        one = x[number].as_subclass(torch.Tensor)
        expected = torch.stack([1 - one[0].flip(-1), one[1].flip(-1)]) if mirrored else one
        torch.testing.assert_close(z[number].as_subclass(torch.Tensor), expected)
    image = TensorFlow(torch.randint(0, 256, (8, 2, 5, 6), dtype=torch.uint8))
    assert type(RandomFlip()(image, split_idx=0)) is TensorFlow and type(RandomZoom()(image, split_idx=0)) is TensorFlow


def test_flow_is_shown(sports, tmp_path):
    from matplotlib import pyplot as plt
    dataset = sports.carve_validation(.5)
    for sampler, shape in ((EveryKth(9), (4, 2, 24, 24)), (AllClips(4), (4, 2, 4, 24, 24))):
        (flow,), _ = decode_samples(dataset, [Flow(sampler, DIS())], 24, tmp_path, progress=False)
        loaders = make_loaders(flow, dataset, batch_size=4, mean=FLOW_MEAN, std=FLOW_STD, device='cpu')
        assert loaders.one_batch()[0].shape == shape
        loaders.show_batch()
        assert any(ax.images and ax.images[0].get_array().shape[-1] == 3 for ax in plt.gcf().axes)
        plt.close('all')


def test_the_bench_says_what_it_waits_for(root, monkeypatch):
    monkeypatch.setenv('FLOW_PYTHON', '/nowhere/python')
    monkeypatch.syspath_prepend(str(root/'bench'))
    spec = importlib.util.spec_from_file_location('bench_flow', root/'bench'/'flow.py')
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(bench, 'SIZE', (32, 40))
    monkeypatch.setattr(bench, 'ROUNDS', 1)
    monkeypatch.setattr(bench, 'CLASSES', {'TVL1': bench.CLASSES['TVL1']})
    def run(command, pairs, out, times=3):
        return dict(seconds=[1.], peak=2., before=1., flow=np.zeros((3, 2, 32, 40)))
    monkeypatch.setattr(bench, 'run', run)
    rows = bench.rows()
    assert all(len(row) == 3 and all(isinstance(x, str) for x in row) for row in rows)
    assert any('waits for another environment' in row[1] for row in rows)
