"""A disk that is full, and files that may not grow: one clear error, nothing half-written, and it goes on when there is
room."""
import json
import math
import os
import shutil
import subprocess
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from children import in_child
from later import collecting

from har_nb.data.synthetic import build
from har_nb.data.video import VideoError, write_video
from har_nb.learning.runs import close_dead_runs, log_metrics, log_table, tracked_run
from har_nb.learning.tracking import StoreAway, database_file, open_store
from har_nb.samples.archive import StoreError
from har_nb.samples.samplers import Segments
from har_nb.samples.store import LIMIT, Frames, decode_samples

if not collecting:
    import torch
    from tiny import curve, fit, fitted, learner, net

    from har_nb.learning.features import frame_features


def attempt(said, name, work, *errors):
    try: work()
    except errors as error: said[name] = str(error)


def limited(folder):
    "In a process of its own, which may be given limits: what each attempt to write ends with."
    import resource
    def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    said, chance = {}, np.random.default_rng(0)
    noise = [chance.integers(0, 256, (64, 80, 3), np.uint8) for _ in range(60)]
    with tracked_run('whole', 'faults'): pass
    size = database_file().stat().st_size
    limit(20_000)
    for codec, suffix in (('mp4v', '.mp4'), ('FFV1', '.mkv'), ('MJPG', '.avi')):
        attempt(said, f'video {codec}',
                lambda codec=codec, suffix=suffix: write_video(folder/f'clip{suffix}', noise, codec=codec), VideoError)
    attempt(said, 'state', lambda: fit(learner(model=net(4000)), folder/'state.pth'), StoreError)
    said['left'] = sorted(path.name
                          for path in folder.iterdir()
                          if path.suffix not in ('.db', '.lock') and 'artifacts' not in path.name)
    limit(size + 20_000)
    def artifact():
        with tracked_run('artifact', 'faults') as run_id:
            said['run of artifact'] = run_id
            log_table(pd.DataFrame(dict(a=chance.random(10**6))), 'predictions.parquet')
    def database():
        with tracked_run('database', 'faults') as run_id:
            said['run of database'] = run_id
            for number in range(100): open_store().set_tag(run_id, f'tag{number}', 'x'*5000)
    attempt(said, 'artifact', artifact, OSError)
    attempt(said, 'database', database, StoreAway)
    limit(resource.RLIM_INFINITY)
    return said


def answer(work, file):
    "What a function gives in a forked process, which may be ended by a signal."
    assert in_child(lambda: file.write_text(json.dumps(work()))) == 0
    return json.loads(file.read_text())


def test_files_that_may_not_grow(tracking, tmp_path_factory, tmp_path, capfd):
    """Videos, the state of a fit, artifacts and the database of runs, under a limit that every system has
    (RLIMIT_FSIZE)."""
    said = answer(lambda: limited(tmp_path), tmp_path_factory.mktemp('said')/'said.json')
    for codec in ('mp4v', 'FFV1', 'MJPG'): assert 'disk full' in said[f'video {codec}'], said
    assert 'state.pth: the state of the fit cannot be written (File too large). Make room' in said['state']
    assert said['left'] == [], 'nothing half-written stays'
    assert 'File too large' in said['artifact']
    assert open_store().get_run(said['run of artifact']).info.status == 'FAILED'
    # SQLite calls it full, or an I/O error
    assert 'does not answer' in said['database'] and 'make room' in said['database']
    assert close_dead_runs() == [said['run of database']], 'it could not be told, and is closed by whoever comes next'
    assert 'Traceback' not in (told := capfd.readouterr().err), told


@contextmanager
def small_disk(folder, kib):
    "A file system that is soon full, where this process may mount one."
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', f'size={kib}k', 'tmpfs', folder]
    may = not os.geteuid() and shutil.which('mount')
    if not may or subprocess.run(command, capture_output=True).returncode:
        pytest.skip('no small file system can be mounted here')
    try: yield folder
    finally: subprocess.run(['umount', '--lazy', folder], check=True)


def filled(clips, disks):
    "What each attempt to decode, or to keep features, onto small disks ends with."
    said = []
    def store(name, limit):
        return (
            decode_samples(clips, [Frames(Segments(4))], 56, disks/name, workers=2, progress=False, limit=limit)[0][0]
        )
    for name, limit in (
        ('no room', math.inf),
        ('no room', 0),
        ('little room', math.inf),
        ('some room', math.inf),
        ('some room', 0),
    ):
        try: store(name, limit)
        except StoreError as error: said.append(f'{name} {limit} {error}')
    samples = store('enough', LIMIT)
    try:
        frame_features(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten()), samples, disks/'little room',
                       device='cpu', progress=False)
    except StoreError as error: said.append(f'features {error}')
    return said


def test_stores_on_a_full_disk(tmp_path):
    """Files that are written through memory end a process by a signal where the disk has no room for them; LMDB's lock
    and kept features are such files."""
    clips = build(tmp_path/'sports', people=2, takes=1, size=(56, 72), workers=1, progress=False)
    (tmp_path/'disks').mkdir()
    with (
        small_disk(tmp_path/'disks'/'no room', 8),
        small_disk(tmp_path/'disks'/'little room', 300) as little,
        small_disk(tmp_path/'disks'/'some room', 450),
    ):
        said = answer(lambda: filled(clips, tmp_path/'disks'), tmp_path/'said.json')
        assert [line.partition(' /')[0] for line in said] == ['no room inf', 'no room 0', 'little room inf',
                                                              'some room inf', 'features'], said
        assert all('No space left on device' in line and 'Make room' in line for line in said)
        assert not list((little/'features').glob('*.npy'))
        assert not list((little/'features').glob('.*.npy.*')), 'nothing half-written stays'
        assert all(file.stat().st_size == 0 for file in little.rglob('samples.uint8'))


def test_runs_on_a_full_disk(empty_store, tmp_path, monkeypatch):
    "Full while a run is open: numbers wait; there is room again: they are sent."
    with small_disk(tmp_path/'disk', 4000) as disk:
        shutil.copy(empty_store, disk)
        monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{disk}/mlflow.db')
        with tracked_run('fit', 'faults') as run_id:
            with (disk/'ballast').open('wb', buffering=0) as ballast, pytest.raises(OSError):
                while True: ballast.write(bytes(4096))
            with pytest.raises(StoreAway, match='full.*make room'):
                from har_nb.learning.tracking import store_answers
                for step in range(100):
                    with store_answers(): log_metrics({f'm{i}': i for i in range(100)}, step)
            (disk/'ballast').unlink()
            fitted()
        assert open_store().get_run(run_id).info.status == 'FINISHED'
        assert [step for step, _ in curve(run_id)] == [0, 1, 2, 3, 4]
