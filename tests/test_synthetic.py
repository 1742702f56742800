"The built-in set: exact order pairs, truth that holds, and builds that appear whole or not at all."
import json
import os
import select
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from stopped import Child, at

from har_nb.data import synthetic
from har_nb.data.lists import open_dataset
from har_nb.data.people import ACTIONS, APPEARANCE_PAIR, JOINTS, ORDER_PAIRS
from har_nb.data.synthetic import BuildError, build, long_take, render_clip, split_people
from har_nb.data.video import frames


def bag(images): return sorted(image.tobytes() for image in images)


def sums(video, interval, weights=(1,)*10):
    "Weighted sums of the batches: equal sums are equal motion embeddings."
    weights = np.array(weights, np.uint32)[:, None, None, None]
    return [(video[s:s+10]*weights).sum(0) for s in range(0, len(video) - 9, interval)]


@pytest.mark.parametrize('pair', ORDER_PAIRS)
@pytest.mark.parametrize(
    'factors', [dict(), dict(camera_motion=True), dict(effects=True), dict(n_frames=60), dict(n_frames=30)], ids=str
)
def test_twins_are_exact(pair, factors):
    for person, take in ((1, 0), (9, 1)):
        p, q = (render_clip(name, person, take, truth=False, **factors).frames for name in pair)
        assert np.array_equal(p[::-1], q) and not np.array_equal(p, q)
        for interval in (5, 10):
            seen = np.arange(9, len(p), interval)
            assert bag(p[seen]) == bag(q[seen])
            assert bag(sums(p, interval)) == bag(sums(q, interval))
            if interval == 5: assert bag(sums(p, interval, range(1, 11))) != bag(sums(q, interval, range(1, 11)))


def test_twins_stay_exact_on_disk(tmp_path):
    data = build(tmp_path/'set', people=3, takes=1, progress=False)
    path = dict(zip(zip(data.clips.label, data.clips.group, strict=True), data.paths, strict=True))
    for forth, back in ORDER_PAIRS:
        for person in ('g01', 'g02', 'g03'):
            assert np.array_equal(frames(path[forth, person])[::-1], frames(path[back, person]))


def test_same_seed_same_clip():
    one, again, other = (render_clip('Running', 2, seed=seed).frames for seed in (0, 0, 1))
    assert np.array_equal(one, again) and (one.shape != other.shape or not np.array_equal(one, other))


@pytest.mark.parametrize('action', ACTIONS)
def test_truth(action):
    clip = render_clip(action, 3, camera_motion=True, size=(120, 160))
    n = len(clip.frames)
    assert clip.frames.shape == (n, 120, 160, 3) and clip.masks.shape == (n, 120, 160) and clip.masks.dtype == bool
    assert clip.joints.shape == (n, len(JOINTS), 2) and clip.joints.dtype == np.float32
    assert clip.flow.shape == (n - 1, 2, 120, 160) and clip.flow.dtype == np.float32
    x, y = np.meshgrid(np.arange(160, dtype=np.float32), np.arange(120, dtype=np.float32))
    still, along = [], []
    for t in range(15, n - 15):
        to_x, to_y = x + clip.flow[t, 0], y + clip.flow[t, 1]
        fetched = cv2.remap(clip.frames[t+1], to_x, to_y, cv2.INTER_LINEAR)
        owner = cv2.remap(clip.masks[t+1].astype(np.float32), to_x, to_y, cv2.INTER_LINEAR)
        inside = (to_x > 1) & (to_y > 1) & (to_x < 158) & (to_y < 118)
        kept = (np.abs(owner - clip.masks[t]) < .01) & (np.hypot(*clip.flow[t]) > .5) & inside
        still.append(np.abs(clip.frames[t+1].astype(int) - clip.frames[t])[kept].sum())
        along.append(np.abs(fetched.astype(int) - clip.frames[t])[kept].sum())
    assert sum(along) < .5*sum(still)
    for joint in ('neck', 'pelvis'):
        column, row = clip.joints[:, JOINTS.index(joint)].round().astype(int).T
        near = [clip.masks[t, max(0, r-2):r+3, max(0, c-2):c+3].any()
                for t, r, c in zip(range(n), row, column, strict=True)]
        assert np.mean(near) > .7    # a wheel may stand in front


def test_truth_of_a_reversal():
    forth, back = (render_clip(name, 4) for name in ORDER_PAIRS[0])
    assert np.array_equal(forth.masks[::-1], back.masks) and np.array_equal(forth.joints[::-1], back.joints)
    joint = JOINTS.index('wrist_l')
    for clip in (forth, back):
        step = np.diff(clip.joints[:, joint], axis=0)
        column, row = clip.joints[:-1, joint].round().astype(int).T
        inside = (row >= 0) & (row < 112) & (column >= 0) & (column < 144)
        seen = clip.flow[np.flatnonzero(inside), :, row[inside], column[inside]]
        assert np.median(np.abs(seen - step[inside])) < 1


def test_left_and_right_belong_to_the_body():
    for take in range(6):
        clip = render_clip('StarJump', 1, take)
        left, right = (clip.joints[:, JOINTS.index(f'shoulder_{side}'), 0] for side in 'lr')
        assert (left > right).all()    # a person who faces the camera has the left arm on the picture's right


def test_appearance_pair_shares_everything_but_the_thing():
    tennis, baseball = (render_clip(name, 6, 1) for name in APPEARANCE_PAIR)
    assert np.array_equal(tennis.joints, baseball.joints)
    assert 0 < (tennis.frames != baseball.frames).any(-1).mean() < .06


def test_people_do_not_cross_the_split(tmp_path):
    data = build(tmp_path/'set', people=6, takes=1, progress=False)
    train, test = (set(view.clips.group) for view in (data.train, data.test))
    assert not train & test and (len(train), len(test)) == (4, 2) and split_people(6) == split_people(6)
    assert len(open_dataset(tmp_path/'set')) == 48
    assert data.check_files(progress=False).query('severity == "error"').empty


def test_second_call_does_nothing_and_other_settings_are_refused(tmp_path):
    root = tmp_path/'set'
    build(root, people=2, takes=1, progress=False)
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    build(root, people=2, takes=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before
    with pytest.raises(BuildError, match='seed 0 .asked: 5.'): build(root, people=2, takes=1, seed=5, progress=False)
    other = tmp_path/'other'; other.mkdir(); (other/'notes.txt').write_text('mine')
    with pytest.raises(BuildError, match='not empty'): build(other, people=2, takes=1, progress=False)
    assert (other/'notes.txt').read_text() == 'mine'


def build_in_a_child(root, workers, step, here):
    """Stops when a worker has started (`number`: its pid goes to a file), when a take is drawn, before the lists,
    before the set gets its name."""
    started = subprocess.Popen
    def popen(*arguments, **settings):
        worker = started(*arguments, **settings)
        with open(root.parent.with_suffix('.pids'), 'a') as file: file.write(f'{worker.pid}\n')
        if step == 'worker': here('worker')
        return worker
    subprocess.Popen = popen
    if step == 'take':
        bar = synthetic.progress_bar
        def watched(*arguments, **settings):
            for number, item in enumerate(bar(*arguments, **settings)):
                if number: here('take')
                yield item
        synthetic.progress_bar = watched
    if step == 'lists': at(synthetic, '_write_split', here)
    if step == 'name': at(os, 'rename', here)
    build(root, people=4, takes=1, size=(32, 48), workers=workers, progress=False)


def wait_for_workers(file):
    "Until all of those whose numbers stand in a file have ended; without asking again and again."
    for pid in map(int, file.read_text().split()) if file.exists() else ():
        try: handle = os.pidfd_open(pid)
        except ProcessLookupError: continue
        select.select([handle], [], [])
        os.close(handle)


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize('workers, step', [(1, 'take'), (1, 'lists'), (1, 'name'), (2, 'worker'), (2, 'take')])
def test_interrupted_build_leaves_nothing(tmp_path, workers, step, how):
    folder = tmp_path/'sets'
    folder.mkdir()
    child = Child(build_in_a_child, folder/'set', workers, step)
    assert child.arrive(1 if step in ('lists', 'name') else 2)
    if how == signal.SIGINT: assert child.interrupt() == ('interrupted', '') and not list(folder.iterdir())
    else: assert child.stop() == -signal.SIGKILL
    assert not (folder/'set').exists()
    if hasattr(os, 'pidfd_open'): wait_for_workers(tmp_path/'sets.pids') # they end by themselves when nobody listens
    build(folder/'set', people=2, takes=1, size=(32, 48), workers=1, progress=False)
    assert [path.name for path in folder.iterdir()] == ['set']


def test_failing_worker_is_one_error(tmp_path):
    with pytest.raises(RuntimeError, match='a worker stopped'):
        build(tmp_path/'set', people=2, takes=1, workers=2, size=(111, 143), progress=False)
    assert not list(tmp_path.iterdir())


def test_build_from_stdin_after_opencv_has_threads(tmp_path):
    code = (
        'import cv2, numpy as np\n'
        'cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 5)\n'
        'from har_nb.data.synthetic import build\n'
        f'build({str(tmp_path/"set")!r}, people=2, takes=1, workers=2, progress=False)'
    )
    subprocess.run([sys.executable, '-'], input=code, text=True, check=True, timeout=90)
    assert json.loads((tmp_path/'set'/'set.json').read_text())['people'] == 2


def test_one_process_gives_the_same_files(tmp_path):
    for workers in (1, 2): build(tmp_path/str(workers), people=2, takes=1, workers=workers, progress=False)
    for path in (tmp_path/'1').rglob('*.avi'):
        assert path.read_bytes() == (tmp_path/'2'/path.relative_to(tmp_path/'1')).read_bytes()


def test_long_take(tmp_path):
    clip, segments = long_take(list(ACTIONS), 2, camera_motion=True)
    assert segments.action.tolist() == list(ACTIONS) and (segments.start < segments.end).all()
    assert (segments.start.to_numpy()[1:] > segments.end.to_numpy()[:-1]).all()
    assert len(clip.frames) == len(clip.masks) == len(clip.joints) == len(clip.flow) + 1
    assert clip.masks.any((1, 2)).all() and np.isfinite(clip.flow).all()


def test_bad_settings():
    for n_frames in (20, 64): pytest.raises(ValueError, render_clip, 'Running', 1, n_frames=n_frames)
    with pytest.raises(KeyError): render_clip('Chess', 1)
    assert synthetic.FPS == 30 and os.path.splitext(synthetic.clip_name('Running', 1, 0))[1] == '.avi'
