"Splits, what they share, clips that are parts of files, and work on many files."
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from har_nb.data.dataset import ActionDataset, for_each_file
from har_nb.data.lists import Clip, ListError, as_dataset
from har_nb.data.video import write_video


def table(n_classes=4, groups=10, clips=3, **columns):
    rows = [(f'c{c}/v_{g}_{k}.avi', f'c{c}', f'c{c}/{g}', 'train')
            for c in range(n_classes)
            for g in range(groups)
            for k in range(clips)]
    return pd.DataFrame(rows, columns=['path', 'label', 'group', 'split']).assign(**columns)


@pytest.fixture
def dataset(tmp_path): return ActionDataset(tmp_path, [f'c{c}' for c in range(4)], table(), name='toy')


def test_a_split_by_group_shares_nothing(dataset):
    held = dataset.holdout(.3).carve_validation(.3)
    assert list(held.overlap().index) == ['train-valid', 'train-test', 'valid-test']
    assert not held.overlap().groups_shared.any() and not held.leaky
    assert 'Leaky' not in held._repr_markdown_()


@pytest.mark.parametrize('balanced', [True, False])
def test_a_split_by_clip_is_called_leaky(dataset, balanced):
    held = dataset.holdout(.3, by='clip', balanced=balanced)
    share = held.overlap().loc['train-test', 'share']
    touched = held.test.clips.group.isin(set(held.train.clips.group)).mean()
    assert held.leaky and share == touched > .5
    assert f'{share:.1%}' in held._repr_markdown_()
    assert held.protocol == 'holdout by clip'


def test_drawn_and_balanced_differ_as_they_say(dataset):
    counts = [held.test.clips.label.value_counts().reindex(dataset.classes)
              for held in (dataset.holdout(.3, by='clip'), dataset.holdout(.3, by='clip', balanced=False))]
    assert counts[0].nunique() == 1 and counts[1].nunique() > 1
    assert counts[0].sum() == counts[1].sum() == 36


def test_validation_that_shares_groups_with_the_test_is_leaky(dataset):
    split = np.where(dataset.clips.group.str.endswith('/9'), 'test', 'train')
    torn = replace(dataset, clips=dataset.clips.assign(split=split))
    split[np.flatnonzero(split == 'test')[::2]] = 'valid'
    assert not torn.leaky and replace(dataset, clips=dataset.clips.assign(split=split)).leaky


def test_an_empty_or_unsplit_set_is_not_leaky(dataset):
    assert not dataset.leaky and not dataset.test.leaky and not len(dataset.overlap())


def test_parts_of_one_file_are_clips_of_their_own(tmp_path):
    write_video(tmp_path/'a.avi', np.zeros((20, 32, 32, 3), np.uint8), codec='MJPG')
    clips = [Clip('a.avi', 'x', 'p', 'train', 'list', 1, 0, 10), Clip('a.avi', 'x', 'p', 'train', 'list', 2, 10, 20)]
    read = as_dataset(tmp_path, clips, ['x'], [])
    assert read.spans == [(0, 10), (10, 20)] and not len(read.check_files(progress=False))
    held = read.holdout(.5, by='clip')
    assert len(held.train) == len(held.test) == 1 and held.train.digest != held.test.digest
    with pytest.raises(ListError, match='already in list:1'):
        as_dataset(tmp_path, [clips[0], clips[0]._replace(line=2)], ['x'], [])


def test_a_clip_that_ends_after_its_file_is_an_error(tmp_path):
    write_video(tmp_path/'a.avi', np.zeros((20, 32, 32, 3), np.uint8), codec='MJPG')
    halves = [Clip('a.avi', 'x', 'p', 'train', 'list', n, start, start + 12) for n, start in enumerate((0, 12), 1)]
    read = as_dataset(tmp_path, halves, ['x'], [])
    report = read.check_files(progress=False)
    assert report[['problem', 'severity']].to_numpy().tolist() == [['ends before its clip', 'error']]
    assert '20 frames' in report.detail[0]


def test_a_worker_that_dies_costs_one_item():
    found = dict(for_each_file(os._exit, [(1,)], 2, crashed='died'))
    assert found == {0: 'died'}
    assert dict(for_each_file(divmod, [(7, 2), (9, 4), (5, 5)], 2)) == {0: (3, 1), 1: (2, 1), 2: (1, 0)}


HELD = """
import os, sys
def hold(step):
    "Say where this process is, and stay there until it is killed."
    if step != os.environ['STEP']: return
    # stays open: its reader sees the end when all who opened it are gone
    told = os.open(os.environ['TOLD'], os.O_WRONLY)
    os.write(told, f'{step}\\n'.encode())
    while True:
        try: os.read(os.open(os.environ['NEVER'], os.O_RDONLY), 1)
        except KeyboardInterrupt: os.write(told, b'a worker was interrupted\\n')
if '--multiprocessing-fork' in sys.orig_argv and 'resource_tracker' not in ' '.join(sys.orig_argv):
    hold('a worker starts')
"""
WORK = """
import os, sys
from sitecustomize import hold
def work(number):
    if number: hold('a worker works')
    return number
if __name__ == '__main__':
    from har_nb.data.dataset import for_each_file
    for _ in for_each_file(work, [(number,) for number in range(4)], 2): pass
"""


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='signals and pipes with names')
@pytest.mark.parametrize('step', ['a worker starts', 'a worker works'])
def test_ctrl_c_leaves_nobody_behind(tmp_path, step):
    "Pressed once, heard by every process of the terminal, while workers are held at a step that never ends."
    (tmp_path/'sitecustomize.py').write_text(HELD)
    (tmp_path/'work.py').write_text(WORK)
    for name in ('told', 'never'): os.mkfifo(tmp_path/name)
    search = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get('PYTHONPATH')]))
    environment = os.environ | dict(STEP=step, TOLD=str(tmp_path/'told'),
                                    NEVER=str(tmp_path/'never'), PYTHONPATH=search)
    caller = subprocess.Popen([sys.executable, 'work.py'],
                              cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        with (tmp_path/'told').open() as told:
            assert told.readline() == f'{step}\n'
            os.killpg(caller.pid, signal.SIGINT)
            _, said = caller.communicate(timeout=100)
            assert set(told.read().splitlines()) <= {step}, 'a worker heard of it'
    finally:
        if caller.poll() is None: os.killpg(caller.pid, signal.SIGKILL)
    assert caller.returncode == -signal.SIGINT and said.strip().endswith('KeyboardInterrupt')
