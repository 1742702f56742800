"A disk that is full, and files that may not grow: one clear error, nothing half-written, and it goes on when there is room."
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from tiny import curve, fitted

from har_nb.data.synthetic import build
from har_nb.learning.runs import close_dead_runs, log_metrics, tracked_run
from har_nb.learning.tracking import StoreAway, open_store

LIMITED = '''
import json, math, os, resource, sys
from pathlib import Path
from har_nb.data.video import VideoError, write_video
from har_nb.learning.runs import log_table, tracked_run
from har_nb.learning.tracking import StoreAway, open_store
from har_nb.samples.archive import StoreError
import numpy as np, pandas as pd
sys.path.insert(0, sys.argv[1])
from tiny import fit, learner, net
folder, said = Path(sys.argv[2]), {}
def attempt(name, work, *errors):
    try: work()
    except errors as error: said[name] = str(error)
chance = np.random.default_rng(0)
noise = [chance.integers(0, 256, (64, 80, 3), np.uint8) for _ in range(60)]
with tracked_run('whole', 'faults') as whole: pass
size = Path(os.environ['MLFLOW_TRACKING_URI'].removeprefix('sqlite:///')).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for codec, suffix in (('mp4v', '.mp4'), ('FFV1', '.mkv'), ('MJPG', '.avi')): attempt('video ' + codec, lambda: write_video(folder/f'clip{suffix}', noise, codec=codec), VideoError)
attempt('state', lambda: fit(learner(model=net(4000)), folder/'state.pth'), StoreError)
said['left'] = sorted(path.name for path in folder.iterdir() if path.suffix not in ('.db', '.lock') and 'artifacts' not in path.name)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
def artifact():
    with tracked_run('artifact', 'faults') as run_id:
        said['run of artifact'] = run_id
        log_table(pd.DataFrame(dict(a=chance.random(10**6))), 'predictions.parquet')
attempt('artifact', artifact, OSError)
def database():
    with tracked_run('database', 'faults') as run_id:
        said['run of database'] = run_id
        for number in range(100): open_store().set_tag(run_id, f'tag{number}', 'x'*5000)
attempt('database', database, StoreAway)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps(said))
'''


def test_files_that_may_not_grow(tracking, tmp_path, root):
    "Videos, the state of a fit, artifacts and the database of runs, under a limit that every system has (RLIMIT_FSIZE)."
    import json
    done = subprocess.run([sys.executable, '-c', LIMITED, root/'tests'/'faults', tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    for codec in ('mp4v', 'FFV1', 'MJPG'): assert 'disk full' in said[f'video {codec}'], said
    assert 'state.pth: the state of the fit cannot be written (File too large). Make room' in said['state']
    assert said['left'] == [], 'nothing half-written stays'
    assert 'File too large' in said['artifact'] and open_store().get_run(said['run of artifact']).info.status == 'FAILED'
    assert 'does not answer' in said['database'] and 'make room' in said['database'] # SQLite calls it full, or an I/O error
    assert close_dead_runs() == [said['run of database']], 'it could not be told, and is closed by whoever comes next'
    assert 'Traceback' not in done.stderr, done.stderr


@contextmanager
def small_disk(folder, kib):
    "A file system that is soon full, where this process may mount one."
    folder.mkdir()
    if os.geteuid() or not shutil.which('mount') or subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={kib}k', 'tmpfs', folder], capture_output=True).returncode: pytest.skip('no small file system can be mounted here')
    try: yield folder
    finally: subprocess.run(['umount', '--lazy', folder], check=True)


STORES = '''
import math, sys
from pathlib import Path
import torch
from har_nb.data.lists import from_lists
from har_nb.learning.features import frame_features
from har_nb.samples.samplers import Segments
from har_nb.samples.store import Frames, StoreError, decode_samples
clips, disks, samples = from_lists(sys.argv[1]), Path(sys.argv[2]), None
for name, limit in (('no room', math.inf), ('no room', 0), ('little room', math.inf), ('some room', math.inf), ('some room', 0)):
    try: decode_samples(clips, [Frames(Segments(4))], 56, disks/name, workers=2, progress=False, limit=limit)
    except StoreError as error: print(name, limit, error, flush=True)
(samples,), _ = decode_samples(clips, [Frames(Segments(4))], 56, disks/'enough', workers=2, progress=False)
try: frame_features(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten()), samples, disks/'little room', device='cpu', progress=False)
except StoreError as error: print('features', error, flush=True)
'''


def test_stores_on_a_full_disk(tmp_path):
    "Files that are written through memory end a process by a signal where the disk has no room for them; LMDB's lock and kept features are such files."
    clips = build(tmp_path/'sports', people=2, takes=1, size=(56, 72), workers=1, progress=False)
    (tmp_path/'disks').mkdir()
    with small_disk(tmp_path/'disks'/'no room', 8), small_disk(tmp_path/'disks'/'little room', 300) as little, small_disk(tmp_path/'disks'/'some room', 450):
        done = subprocess.run([sys.executable, '-c', STORES, clips.root, tmp_path/'disks'], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f'{done.returncode} {done.stdout} {done.stderr[-2000:]}'
        said = done.stdout.splitlines()
        assert [line.partition(' /')[0] for line in said] == ['no room inf', 'no room 0', 'little room inf', 'some room inf', 'features'], done.stdout
        assert all('No space left on device' in line and 'Make room' in line for line in said)
        assert not list((little/'features').glob('*.npy')) and not list((little/'features').glob('.*.npy.*')), 'nothing half-written stays'
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
        assert open_store().get_run(run_id).info.status == 'FINISHED' and [step for step, _ in curve(run_id)] == [0, 1, 2, 3, 4]
