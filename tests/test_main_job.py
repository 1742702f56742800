"The main job as a user runs it: `har run mei.table2 --data DIR`, on good and on bad folders, and when it is killed."
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HAR = Path(sys.executable).parent/'har'
QUICK = '--preset demo --size 32 --epochs 1'.split()


@pytest.fixture(scope='module')
def sports(tmp_path_factory):
    from har_nb.data.synthetic import build
    folder = tmp_path_factory.mktemp('sets')/'sports'
    build(folder, people=4, takes=1, progress=False)
    return folder


@pytest.fixture
def data(sports, tmp_path): return Path(shutil.copytree(sports, tmp_path/'sports'))


@pytest.fixture
def har(tmp_path, tracking):
    environment = os.environ | dict(MLFLOW_TRACKING_URI=tracking, HAR_NB_DATA=str(tmp_path/'data'))
    def call(*words, start=False):
        command = [str(HAR), *map(str, words)]
        if start: return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return call


def runs(tracking):
    from har_nb.learning.runs import runs_table
    return runs_table('mei.table2')


def a_video(data): return sorted(p for p in data.glob('*/*') if p.suffix in {'.mp4', '.avi'})[0]


def test_the_table_is_printed_and_every_row_is_a_finished_run(har, data, tracking):
    done = har('run', 'mei.table2', '--data', data, *QUICK)
    assert done.returncode == 0, done.stderr
    for row in ('normal', 'MEI, Gradient Division', 'two-stream', 'MEI, Equal Division', 'two-stream, Equal Division'): assert row in done.stdout
    table = runs(tracking)
    assert set(table.status) == {'FINISHED'}
    rows, parent = table[table['tags.kind'] == 'row'], table[table['tags.kind'] == 'table']
    assert len(rows) == 5 and len(parent) == 1
    assert set(rows['tags.mlflow.parentRunId']) == set(parent.run_id)
    for name in 'paper table row dataset protocol split seed unit decided_by data_digest'.split(): assert rows[f'tags.{name}'].notna().all(), name
    assert rows['metrics.test_acc_video'].between(0, 1).all()
    again = har('compare', 'mei.table2')
    assert again.returncode == 0 and again.stdout.strip().splitlines()[-5:] == done.stdout.strip().splitlines()[-5:]


@pytest.fixture
def wrong(tmp_path, tracking, monkeypatch):
    "The message that a wrong call ends with, in this process: one clear text and exit status 1."
    from har_nb.tools.cli import main
    monkeypatch.setenv('HAR_NB_DATA', str(tmp_path/'data'))
    def call(*words):
        with pytest.raises(SystemExit) as stopped: main(['run', 'mei.table2', *map(str, words), *QUICK])
        assert str(stopped.value).startswith('har: ')
        assert not len(runs(tracking)), 'something was trained'
        return str(stopped.value)
    return call


def test_missing_folder(wrong, tmp_path): assert 'nowhere' in wrong('--data', tmp_path/'nowhere')


def test_empty_folder(wrong, tmp_path):
    (tmp_path/'empty').mkdir()
    assert 'empty' in wrong('--data', tmp_path/'empty')


def test_empty_list(wrong, data):
    (data/'trainlist.txt').write_text('')
    assert 'trainlist.txt' in wrong('--data', data)


def test_list_naming_a_file_that_is_not_there(wrong, data):
    with open(data/'trainlist.txt', 'a') as f: f.write('TennisSwing/v_TennisSwing_g99_c01.avi 5\n')
    message = wrong('--data', data)
    assert 'v_TennisSwing_g99_c01.avi' in message


def test_class_index_out_of_range(wrong, data):
    lines = (data/'trainlist.txt').read_text().splitlines()
    lines[2] = lines[2].rsplit(' ', 1)[0] + ' 99'
    (data/'trainlist.txt').write_text('\n'.join(lines) + '\n')
    message = wrong('--data', data)
    assert '99' in message and 'trainlist.txt:3' in message


def test_bad_files_are_named_before_training_or_left_out_aloud(wrong, har, data, tracking):
    bad = a_video(data)
    whole = bad.read_bytes()
    for damaged in (b'this is text, not video\n', b'', whole[:len(whole)//3]):
        bad.write_bytes(damaged)
        assert bad.name in wrong('--data', data)
    done = har('run', 'mei.table2', '--data', data, *QUICK, '--skip-bad', '--rows', 'normal')
    assert done.returncode == 0, done.stderr
    assert bad.name in done.stdout + done.stderr


def test_file_without_frames(wrong, data):
    from har_nb.data.video import frames, write_video
    bad = a_video(data)
    write_video(bad.with_name('one.avi'), frames(bad)[:1], codec='MJPG')
    content = bad.with_name('one.avi').read_bytes()
    bad.with_name('one.avi').unlink()
    bad.write_bytes(content[:content.index(b'movi') + 4])
    assert bad.name in wrong('--data', data)


def test_video_shorter_than_a_batch_is_used_and_noted(har, data, tracking):
    from har_nb.data.video import frames, write_video
    short = a_video(data)
    content = frames(short)[:4]
    write_video(short, content, codec='MJPG' if short.suffix == '.avi' else 'mp4v')
    done = har('run', 'mei.table2', '--data', data, *QUICK, '--rows', 'normal')
    assert done.returncode == 0, done.stderr
    assert short.name in done.stdout + done.stderr


def test_a_run_that_is_killed_is_never_finished_and_the_next_one_works(har, data, tracking):
    process = har('run', 'mei.table2', '--data', data, *QUICK, '--epochs', '500', start=True)
    for _ in range(240):
        time.sleep(.5)
        if len(table := runs(tracking)) and (table['tags.kind'] == 'row').any(): break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 'FINISHED' not in set(runs(tracking).status)
    done = har('run', 'mei.table2', '--data', data, *QUICK, '--rows', 'normal')
    assert done.returncode == 0, done.stderr
    assert set(runs(tracking).status) == {'KILLED', 'FINISHED'}


def test_unknown_names_are_answered_with_the_known_ones(wrong, data):
    assert 'small_resnet' in wrong('--data', data, '--backbone', 'no_such_net')
    assert 'two-stream' in wrong('--data', data, '--rows', 'three-stream')
