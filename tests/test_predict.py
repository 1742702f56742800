"Runs used again: the numbers of their test, recipes and pickles from strangers, broken files, long recordings."
import json
import os
import pickle
import shutil
import sys
import tempfile
import tracemalloc
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from later import collecting

from har_nb.data.dataset import ActionDataset
from har_nb.data.video import VideoError, write_video
from har_nb.learning.runs import current_run, log_text, tracked_run
from har_nb.learning.tracking import open_store
from har_nb.samples.samplers import Segments
from har_nb.samples.store import Frame, Frames, MotionEmbedding, decode_samples

if not collecting:
    import torch
    from torch import nn

    from har_nb.learning import predict as P
    from har_nb.learning import predictor as L
    from har_nb.learning import recipe as R
    from har_nb.learning.learner import predict_probabilities, set_seed
    from har_nb.models import backbones
    from har_nb.samples.loaders import sample_loader

pytestmark = pytest.mark.usefixtures('tracking', 'one_thread')
CLASSES = ('draw', 'jump', 'wave')
if not collecting:
    NET = R.backbone_model('small_resnet', 3)


def movie(path, n_frames=24, seed=0, fps=25):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 255, (1, 24, 32, 3))
    return write_video(path, (picture + rng.integers(0, 60, (n_frames, 24, 32, 3))).clip(0, 255).astype(np.uint8),
                       fps=fps, codec='MJPG')


@pytest.fixture
def dataset(tmp_path):
    "Three test videos of noise, the last one a part of its file."
    for i in range(3): movie(tmp_path/'set'/f'{i}.avi', 24 + 7*i, i)
    clips = pd.DataFrame(dict(path=[f'{i}.avi' for i in range(3)], label=CLASSES,
                              group='g', split='test', start=[0, 0, 5], stop=[24, 31, 30]))
    return ActionDataset(tmp_path/'set', list(CLASSES), clips)


def trained(net, recipe, name='run', **tags):
    "A run that keeps a net, as `TrackingCallback` would leave it."
    with tracked_run(name, 'predict', tags) as run_id: log_net(net, recipe)
    return run_id


def log_net(net, recipe):
    with tempfile.TemporaryDirectory() as folder:
        open_store().log_artifact(current_run(), R.save_for_prediction(SimpleNamespace(model=net), folder, recipe))


def log_bytes(name, content, tmp_path):
    (tmp_path/name).write_bytes(content)
    open_store().log_artifact(current_run(), tmp_path/name)


@pytest.mark.parametrize('size, limit, modality', [
    (32, 2**40, MotionEmbedding()),
    ((24, 40), 2**40, Frame()),
    (32, 0, MotionEmbedding(6, 3, 'equal')),
])
def test_the_numbers_of_the_test(dataset, tmp_path, size, limit, modality):
    "Square and oblong, bytes and JPEG, whole files and parts of files."
    set_seed(0)
    net = backbones.build(backbones.small_resnet, 3, backbones.Weights(mean=(.4, .5, .6), std=(.2, .3, .4)))
    samples, = decode_samples(dataset, [modality], size, tmp_path/'cache', progress=False, limit=limit)[0]
    loader = sample_loader(samples, dataset, 'test', mean=net.weights.mean, std=net.weights.std, batch_size=4)
    wanted = predict_probabilities(net, loader)
    predictor = P.load_predictor(trained(net, R.recipe_of(samples, CLASSES, NET, net.weights)))
    assert predictor.recipe.coding == ('raw' if limit else 'jpeg')
    for row, (path, span) in enumerate(zip(dataset.paths, dataset.spans, strict=True)):
        said = predictor.predict(path, *span)
        np.testing.assert_allclose(said.samples, wanted[loader.dataset.clip == row], atol=1e-5)
        np.testing.assert_allclose(said.video, wanted[loader.dataset.clip == row].mean(0), atol=1e-5)


MINE = '''
from torch import nn
def net(n_classes, width=4):
    return nn.Sequential(nn.Conv3d(3, width, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(width, n_classes))
def not_a_net(): return 'net'
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A package of somebody else, with a net on clips."
    (tmp_path/'code').mkdir()
    (tmp_path/'code'/'strange_nets.py').write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path/'code')
    import strange_nets
    yield strange_nets
    del sys.modules['strange_nets']


def test_a_net_on_clips_from_another_package_needs_trust(dataset, tmp_path, mine):
    samples, = decode_samples(dataset, [Frames(Segments(6))], 16, tmp_path/'cache', progress=False)[0]
    net = mine.net(3, 5)
    recipe = R.recipe_of(samples, CLASSES, R.Make('strange_nets:net', dict(n_classes=3, width=5)), sample='clip')
    run = trained(net, recipe)
    with pytest.raises(P.PredictError, match=r"trust=\('strange_nets',\)"): P.load_predictor(run)
    predictor = P.load_predictor(run, trust=('strange_nets',))
    loader = sample_loader(samples, dataset, 'test')
    wanted = predict_probabilities(net, loader)
    for row, (path, span) in enumerate(zip(dataset.paths, dataset.spans, strict=True)):
        np.testing.assert_allclose(predictor.predict(path, *span).video, wanted[row], atol=1e-5)
    timeline = P.predict_timeline(predictor, dataset.paths[1], window=.8, step=.2)
    assert len(timeline) == 4 and timeline.end.iloc[-1] == pytest.approx(31/25)
    odd = trained(net, R.Recipe(CLASSES, R.Make('strange_nets:not_a_net', {}), recipe.modality, 16), 'odd')
    with pytest.raises(P.PredictError, match='gives str, not a net'): P.load_predictor(odd, trust=('strange_nets',))


def fused(members, sample='image', **arguments):
    with tracked_run('fused', 'predict') as run_id:
        R.log_recipe(R.Recipe(CLASSES,
                              members=members, fuse=R.Make('har_nb.models.two_stream:fuse', arguments), sample=sample))
    return run_id


def two(first=None, second=None, sizes=(32, 32)):
    "Two runs, a frame stream and a motion stream if nothing else is asked for."
    runs = []
    for seed, (modality, size) in enumerate(zip((first or Frame(), second or MotionEmbedding()), sizes, strict=True)):
        set_seed(seed)
        runs.append(trained(backbones.build(backbones.small_resnet, 3),
                            R.Recipe(CLASSES, NET, R.describe(modality), size)))
    return runs


def test_fusions_of_fusions_decode_a_video_once(dataset, monkeypatch):
    runs, calls = two(), []
    nested = fused((fused(runs, weights=(.3, .7)), runs[0]), logits=True)
    monkeypatch.setattr(L, 'sample_video', lambda *a: calls.append(a[1]) or SAMPLE(*a))
    said = P.load_predictor(nested).predict(dataset.paths[0])
    assert calls == [[Frame(), MotionEmbedding()]]
    one, other = (P.load_predictor(run).predict(dataset.paths[0]).samples for run in runs)
    inner = .3*one + .7*other
    wanted = np.sqrt(inner*one)/np.sqrt(inner*one).sum(1, keepdims=True)
    np.testing.assert_allclose(said.samples, wanted, atol=1e-5)


if not collecting:
    SAMPLE = L.sample_video


def test_members_of_other_sizes_and_counts(dataset):
    sizes = P.load_predictor(fused(two(sizes=(32, 48))))
    assert sizes.predict(dataset.paths[0]).samples.shape == (3, 3)
    runs = two(Frame(10, 5), Frame(10, 2))
    with pytest.raises(P.PredictError, match='the members see 3, 8 samples'):
        P.load_predictor(fused(runs)).predict(dataset.paths[0])
    videos = P.load_predictor(fused(runs, sample='video')).predict(dataset.paths[0])
    one, other = (P.load_predictor(run).predict(dataset.paths[0]).video for run in runs)
    np.testing.assert_allclose(videos.video, (one + other)/2, atol=1e-6)


def test_a_fusion_that_cannot_be(tracking):
    runs = two()
    odd = trained(backbones.build(backbones.small_resnet, 3), R.Recipe(('a', 'b', 'c'), NET, R.describe(Frame()), 32))
    with pytest.raises(P.PredictError, match='other classes: a, b, c'): P.load_predictor(fused((runs[0], odd)))
    with pytest.raises(P.PredictError, match='no run'): P.load_predictor(fused((runs[0], '0'*32)))
    with tracked_run('circle', 'predict') as circle:
        R.log_recipe(R.Recipe(CLASSES, members=(circle,), fuse=R.Make('har_nb.models.two_stream:fuse')))
    with pytest.raises(P.PredictError, match='a member of itself'): P.load_predictor(circle)


def test_weights_files_that_change_the_net(mobilenet_file):
    "Padding and batch norm as the file wants them, read back without the file."
    net = backbones.build(backbones.mobilenet_v2, 3, mobilenet_file).eval()
    recipe = R.Recipe(CLASSES, R.backbone_model('mobilenet_v2', 3, net.weights), R.describe(Frame()), 33,
                      mean=net.weights.mean, std=net.weights.std)
    predictor = P.load_predictor(trained(net, recipe))
    image = torch.randn(1, 3, 33, 33)
    with torch.inference_mode(): torch.testing.assert_close(predictor.model(image), net(image), atol=1e-5, rtol=1e-4)


class Bomb:
    "A pickle that writes a file when it is read."
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (Path(self.path),)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('files', [('learner.pkl',), ('learner.pkl', 'recipe.json'), ('model.pth', 'recipe.json')])
def test_code_in_a_pickle_is_not_run(tmp_path, files):
    gone_off, recipe = tmp_path/'gone_off', R.Recipe(CLASSES, NET, R.describe(Frame()), 32)
    with tracked_run('bomb', 'predict') as run_id:
        for name in files:
            if name == 'recipe.json': R.log_recipe(recipe)
            else: log_bytes(name, pickle.dumps(Bomb(gone_off)), tmp_path)
    with pytest.raises(
        P.PredictError,
        match='trust_pickle=True' if 'learner.pkl' in files else 'does not fit its recipe, or is damaged',
    ):
        P.load_predictor(run_id)
    with pytest.raises(P.PredictError): P.load_predictor(run_id, recipe=recipe)
    with pytest.raises(P.PredictError): P.load_predictor(fused((run_id,)))
    assert not gone_off.exists()


@pytest.mark.parametrize('name', ['os:system', 'subprocess:run', 'har_nb.tools.cli:main',
                                  'har_nb.data.download:download', 'har_nb:learning', 'har_nb_evil:net',
                                  'har_nb.models.backbones:import_module', 'har_nb.models.backbones:torch',
                                  'har_nb.models.backbones:models.resnet50', 'har_nb.models.backbones', ':system', '',
                                  'builtins:eval', 'har_nb.models:backbones', 'har_nb.samples.store:shutil'])
def test_names_that_a_recipe_must_not_import(name):
    with pytest.raises(P.PredictError): R.make(R.Make(name, dict(command='echo')))


@pytest.mark.parametrize('text', ['', '[]', '{"recipe": 1', '{"recipe": 2}', '{"recipe": 1}',
                                  '{"recipe": 1, "classes": ["a"], "extra": 1}',
                                  '{"recipe": 1, "classes": ["a"], "members": ["x"]}'])
def test_recipes_that_are_none(text):
    with pytest.raises(P.PredictError): R.Recipe.from_json(text)
    with tracked_run('odd', 'predict') as run_id: log_text(text or ' ', 'recipe.json')
    with pytest.raises(P.PredictError): P.load_predictor(run_id)


def test_wrong_types_inside_a_recipe_are_named(dataset):
    sound = json.loads(R.Recipe(CLASSES, NET, R.describe(Frame()), 32).to_json())
    for field, value in dict(model={'import': 'har_nb.models.backbones:build', 'with': {'depth': 3}},
                             modality={'import': 'har_nb.samples.store:Frame', 'with': {'frames': 3}}).items():
        with tracked_run('odd', 'predict') as run_id:
            log_net(backbones.build(backbones.small_resnet, 3), R.Recipe.from_json(json.dumps(sound | {field: value})))
        with pytest.raises(P.PredictError, match='does not take what the recipe says'): P.load_predictor(run_id)


@pytest.mark.parametrize('field, value', [
    ('model', 'har_nb.models.backbones:build'),
    ('classes', [1, 2]),
    ('fuse', 3),
    ('modality', {'import': 'har_nb.samples.samplers:Segments', 'with': {}}),
    ('model', {'import': 'har_nb.models.backbones:small_resnet'}),
])
def test_wrong_things_inside_a_recipe_are_named(field, value):
    sound = json.loads(R.Recipe(CLASSES, NET, R.describe(Frame()), 32).to_json())
    with tracked_run('odd', 'predict') as run_id:
        log_net(backbones.build(backbones.small_resnet, 3), R.Recipe(CLASSES, NET, R.describe(Frame()), 32))
        log_text(json.dumps(sound | {field: value}), 'recipe.json')
    with pytest.raises(P.PredictError): P.load_predictor(run_id)


def test_weights_of_another_net(tmp_path):
    other = trained(backbones.build(backbones.small_resnet, 5), R.Recipe(CLASSES, NET, R.describe(Frame()), 32))
    with pytest.raises(P.PredictError, match='size mismatch.*git_sha'): P.load_predictor(other)


def test_runs_that_cannot_be_used():
    for bad in ('0'*32, 'no such run', '../../etc'):
        with pytest.raises(P.PredictError, match='there is no run'): P.load_predictor(bad)
    with tracked_run('open', 'predict') as run_id:
        with pytest.raises(P.PredictError, match='is RUNNING'): P.load_predictor(run_id)
    with pytest.raises(KeyboardInterrupt), tracked_run('stopped', 'predict') as stopped: raise KeyboardInterrupt
    with pytest.raises(P.PredictError, match='is KILLED'): P.load_predictor(stopped)
    with tracked_run('mei.table5', 'predict', dict(kind='table')) as whole: pass
    with pytest.raises(P.PredictError, match='whole table'): P.load_predictor(whole)
    deleted = trained(backbones.build(backbones.small_resnet, 3), R.Recipe(CLASSES, NET, R.describe(Frame()), 32))
    open_store().delete_run(deleted)
    with pytest.raises(P.PredictError, match='was deleted'): P.load_predictor(deleted)


@pytest.fixture
def predictor():
    set_seed(0)
    return P.load_predictor(trained(backbones.build(backbones.small_resnet, 3),
                                    R.Recipe(CLASSES, NET, R.describe(MotionEmbedding()), 32)))


def test_loading_leaves_the_random_state_alone():
    run = two()[0]
    set_seed(7)
    state = torch.get_rng_state()
    P.load_predictor(run)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_with_everything_in_it(predictor, tmp_path, monkeypatch):
    folder = tmp_path/'in'
    movie(folder/'b.avi', 30, 1); movie(folder/'a'/'short.avi', 3, 2)
    (folder/'empty.mp4').touch()
    (folder/'text.avi').write_text('hello')
    (folder/'.hidden.avi').write_text('x'); (folder/'notes.txt').write_text('x')
    whole = (folder/'b.avi').read_bytes()
    (folder/'cut.avi').write_bytes(whole[:len(whole)*2//3])
    import cv2
    for number in range(1, 13):
        (folder/'pictures').mkdir(exist_ok=True)
        cv2.imwrite(str(folder/'pictures'/f'{number:05d}.jpg'), np.full((24, 32, 3), 20*number, np.uint8))
    table = P.predict_videos(predictor, folder, top=9, workers=3)
    names = [Path(path).relative_to(folder).as_posix() for path in dict.fromkeys(table.path)]
    assert names == ['a/short.avi', 'b.avi', 'cut.avi', 'empty.mp4', 'pictures', 'text.avi']
    sizes = table.groupby('path', sort=False).size().tolist()
    assert sizes == [3, 3, 1, 1, 3, 1], 'three classes for a sound video, one row for a broken one'
    broken = table[table.error != '']
    assert broken['rank'].isna().all() and broken.probability.isna().all() and broken['class'].isna().all()
    assert 'empty' in broken.error[broken.path.str.endswith('empty.mp4')].item()
    sound = table[table.error == ''].groupby('path').probability
    assert sound.apply(lambda p: p.is_monotonic_decreasing).all() and np.allclose(sound.sum(), 1)
    pd.testing.assert_frame_equal(table, P.predict_videos(predictor, [folder], top=9, workers=1))
    P.write_csv(table, tmp_path/'out.csv')
    back = pd.read_csv(tmp_path/'out.csv', keep_default_na=False)
    assert list(back.columns) == ['path', 'rank', 'class', 'probability', 'error'] and len(back) == len(table)
    with pytest.raises(OSError): P.write_csv(table, tmp_path/'none'/'out.csv')
    assert [file.name for file in tmp_path.iterdir() if file.suffix == '.csv'] == ['out.csv']


def test_files_that_are_not_there_and_decoders_that_fail(predictor, tmp_path, monkeypatch):
    movie(tmp_path/'a.avi')
    table = P.predict_videos(predictor, [tmp_path/'a.avi', tmp_path/'gone.avi'], top=1)
    assert list(table.error.ne('')) == [False, True] and 'cannot be opened' in table.error[1]
    monkeypatch.setattr(L, 'sample_video', lambda *a: (_ for _ in ()).throw(MemoryError('too large')))
    assert P.predict_videos(predictor, tmp_path/'a.avi').error.tolist() == ['MemoryError: too large']
    (tmp_path/'none').mkdir()
    with pytest.raises(P.PredictError, match='no video in this folder'): P.predict_videos(predictor, tmp_path/'none')
    with pytest.raises(VideoError): P.predict_timeline(predictor, tmp_path/'gone.avi')


def test_windows_hold_one_window():
    def frames():
        for number in range(400): yield np.full((100, 1000), number % 250, np.uint8)
    tracemalloc.start()
    seen = [(start, len(clip), int(clip[0][0, 0]))
            for start, _, clip in P.windows(zip(frames(), range(400), strict=True), 400, 20, 7, fps=1)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30*100_000, f'{peak/1e6:.1f} MB for a window of 2 MB'
    assert [start for start, *_ in seen] == [*range(0, 381, 7), 380] and all(length == 20 for _, length, _ in seen)
    assert all(value == start % 250 for start, _, value in seen)
    ten = [(number, number) for number in range(10)]
    assert [(start, end, len(clip)) for start, end, clip in P.windows(ten, 10, 3, 5, fps=1)] == [
        (0, 3, 3),
        (5, 8, 3),
        (7, 10, 3),
    ]
    assert not list(P.windows([], 0, 3, 1, fps=1))


def test_a_timeline_is_made_of_clips(predictor, tmp_path):
    movie(tmp_path/'long.avi', 75, 4)
    timeline = P.predict_timeline(predictor, tmp_path/'long.avi', window=1, step=.4)
    assert timeline.start.tolist() == pytest.approx([0, .4, .8, 1.2, 1.6, 2]) and timeline.end.iloc[-1] == 3
    for row in timeline.to_dict('records'):
        said = predictor.predict(tmp_path/'long.avi', round(row['start']*25), round(row['end']*25))
        np.testing.assert_allclose([row[f'p_{name}'] for name in CLASSES], said.video, atol=1e-5)
        assert row['predicted'] == said.top(1)[0][0]
    short = P.predict_timeline(predictor, tmp_path/'long.avi', window=9, step=1)
    assert len(short) == 1 and short.end[0] == 3


def test_timelines_without_a_rate_or_an_end(predictor, tmp_path, monkeypatch):
    from dataclasses import replace
    whole = movie(tmp_path/'a.avi', 40)
    monkeypatch.setattr(P, 'probe', lambda path: replace(whole, fps=0.))
    with pytest.raises(P.PredictError, match='fps=25'): P.predict_timeline(predictor, tmp_path/'a.avi')
    assert len(P.predict_timeline(predictor, tmp_path/'a.avi', fps=20)) == 1
    monkeypatch.setattr(P, 'probe', lambda path: replace(whole, n_declared=90))
    with pytest.warns(UserWarning, match='40 of 90 frames'):
        assert len(P.predict_timeline(predictor, tmp_path/'a.avi', window=.8, step=.8)) == 2


def test_a_timeline_goes_by_time_stamps(predictor, made, tmp_path):
    """A telephone that slows down from 30 to 15 frames a second: windows stay as long, and frame 30 stands where it was
    shown."""
    slowing = tuple(Fraction(number if number < 20 else 2*number - 20, 30) for number in range(40))
    for path in (made('h264', times=slowing), made('av1', times=slowing)):
        timeline = P.predict_timeline(predictor, path, window=.5, step=.25)
        starts = [float(min(time for time in slowing if time >= Fraction(number, 4) - Fraction(1, 80)))
                  for number in range(7)]
        assert timeline.start.tolist() == pytest.approx(starts, abs=2e-3)
        assert timeline.end.iloc[-1] == pytest.approx(2, abs=2e-3)
        assert timeline.attrs['times'][30] == pytest.approx(40/30, abs=2e-3)
        assert timeline.attrs['fps'] == pytest.approx(20, abs=.1)
        first = next(number for number, time in enumerate(slowing) if time >= starts[3] - 1e-3)
        after = next(number for number, time in enumerate(slowing) if time >= .75 + .5 - 1/80)
        np.testing.assert_allclose(timeline.iloc[3][[f'p_{name}' for name in CLASSES]].to_numpy(float),
                                   predictor.predict(path, first, after).video, atol=1e-5)
        truth = pd.DataFrame(dict(action=['jump'], start=[10], end=[30]))
        band = P.plot_timeline(timeline, truth).axes[2].patches[0]
        assert (band.get_x(), band.get_x() + band.get_width()) == (
            pytest.approx(1/3, abs=2e-3), pytest.approx(4/3, abs=2e-3)
        )
        steady = P.predict_timeline(predictor, path, window=.5, step=.25, fps=20)
        assert steady.start.tolist() == pytest.approx([number/4 for number in range(7)]) and 'times' not in steady.attrs


def test_a_name_that_is_not_utf8_and_a_pipe(predictor, made, tmp_path):
    shutil.copy(made('h264'), tmp_path/os.fsdecode(b'caf\xe9.mp4'))
    os.mkfifo(tmp_path/'pipe.mp4')
    table = P.predict_videos(predictor, tmp_path, top=1)
    assert table.path.tolist() == [f'{tmp_path}/caf\\xe9.mp4'] and table.error.tolist() == ['']
    P.write_csv(table, tmp_path/'said.csv')
    assert 'caf\\xe9.mp4' in (tmp_path/'said.csv').read_text()
    table = P.predict_videos(predictor, [tmp_path/'pipe.mp4'])
    assert 'a pipe or a device' in table.error[0]


def test_folders_of_pictures_and_what_stands_beside_them(tmp_path):
    for number in range(1, 5):
        for folder in ('run/7', 'run/7/thumbs', 'jump/8'):
            (tmp_path/folder).mkdir(parents=True, exist_ok=True)
            (tmp_path/folder/f'{number:05}.jpg').touch()
    (tmp_path/'cover.jpg').touch()
    (tmp_path/'run'/'1.jpg').touch()
    assert [path.relative_to(tmp_path).as_posix() for path in P.find_videos(tmp_path)] == ['jump/8', 'run/7']


def test_timeline_pictures(predictor, tmp_path):
    import matplotlib.pyplot as plt
    movie(tmp_path/'long.avi', 75, 4)
    timeline = P.predict_timeline(predictor, tmp_path/'long.avi', window=1, step=.4)
    truth = pd.DataFrame(dict(action=['jump', 'wave'], start=[0, 30], end=[25, 75]))
    assert [len(P.plot_timeline(*given).axes)
            for given in ((timeline,), (timeline, truth), (timeline.head(1), truth))] == [2, 3, 3]
    bare = timeline.copy()
    bare.attrs = {}
    with pytest.raises(P.PredictError, match='fps=25'): P.plot_timeline(bare, truth)
    assert len(P.plot_timeline(bare, truth, fps=25).axes) == 3
    with pytest.raises(P.PredictError, match='swim'): P.plot_timeline(timeline, truth.assign(action='swim'))
    assert len(P.plot_explained(predictor, tmp_path/'long.avi', n=3, target='wave').axes) == 6
    plt.close('all')


def test_real_clips(predictor, shared_data, tmp_path):
    clips = [path for path in (shared_data/'clips').iterdir() if path.suffix in ('.avi', '.mp4')]
    for clip in clips: shutil.copy(clip, tmp_path)
    (tmp_path/'half.mp4').write_bytes((shared_data/'clips'/'basketball.mp4').read_bytes()[:20000])
    table = P.predict_videos(predictor, tmp_path, top=1)
    table = table[table.path.map(lambda path: Path(path).suffix in ('.avi', '.mp4'))]
    assert len(table) == len(clips) + 1 and table.error.ne('').sum() == 1
    timeline = P.predict_timeline(predictor, shared_data/'clips'/'basketball.mp4', window=1, step=1)
    assert np.allclose(timeline[[f'p_{name}' for name in CLASSES]].sum(axis=1), 1)


def test_training_leaves_what_prediction_needs(tmp_path):
    "Through `TrackingCallback`, with a frozen phase before."
    from fastai.data.core import DataLoaders

    from har_nb.learning.callbacks import TrackingCallback
    from har_nb.learning.learner import fit, make_learner
    noise = list(zip(torch.randn(12, 3, 32, 32), torch.tensor([0, 1, 2]*4), strict=True))
    save = partial(R.save_for_prediction, recipe=R.Recipe(CLASSES, NET, R.describe(Frame()), 32))
    with tracked_run('fit', 'predict') as run_id:
        learn = make_learner(DataLoaders.from_dsets(noise, noise, bs=4, num_workers=0, device='cpu'),
                             backbones.build(backbones.small_resnet, 3), callbacks=[TrackingCallback(save)])
        fit(learn, 1, 1e-3, freeze_epochs=1, progress=False)
    predictor, image = P.load_predictor(run_id), noise[0][0][None]
    with torch.inference_mode():
        torch.testing.assert_close(predictor.model(image), learn.model.eval()(image), atol=1e-5, rtol=1e-4)
    assert isinstance(predictor.model, nn.Module) and not predictor.model.training
