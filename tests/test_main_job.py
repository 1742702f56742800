"The main job as a user runs it: `har run mei.table2 --data DIR`, on good and on bad folders, and when it is killed."
import re
import shutil
import signal
from pathlib import Path

import pytest
from children import dying, in_child

QUICK = '--preset demo --size 32 --epochs 1'.split()


@pytest.fixture
def data(built_set, tmp_path): return Path(shutil.copytree(built_set.root, tmp_path/'sports'))


def runs():
    from har_nb.learning.runs import runs_table
    return runs_table('mei.table2')


def a_video(data): return sorted(p for p in data.glob('*/*') if p.suffix in {'.mp4', '.avi'})[0]


def test_the_table_is_printed_and_every_row_is_a_finished_run(trained, har, monkeypatch):
    "Run in a process of its own, by the command that is installed."
    monkeypatch.setenv('MLFLOW_TRACKING_URI', trained.uri)
    for row in ('normal', 'MEI, Gradient Division', 'two-stream', 'MEI, Equal Division', 'two-stream, Equal Division'):
        assert row in trained.printed
    table = runs()
    assert set(table.status) == {'FINISHED'}
    rows, parent = table[table['tags.kind'] == 'row'], table[table['tags.kind'] == 'table']
    assert len(rows) == 5 and len(parent) == 1
    assert set(rows['tags.mlflow.parentRunId']) == set(parent.run_id)
    for name in 'paper table row dataset protocol split seed unit decided_by data_digest'.split():
        assert rows[f'tags.{name}'].notna().all(), name
    assert rows['metrics.test_acc_video'].between(0, 1).all()
    again = har('compare', 'mei.table2')
    assert again.code == 0 and again.out.strip().splitlines()[-5:] == trained.printed.strip().splitlines()[-5:]


@pytest.fixture
def wrong(har):
    "The message that a wrong call ends with: one clear text and exit status 1."
    def call(*words):
        stopped = har('run', 'mei.table2', *words, *QUICK)
        assert stopped.code == 1
        assert (message := re.search('^har: .*', stopped.err, re.DOTALL | re.MULTILINE)), stopped.err
        assert not len(runs()), 'something was trained'
        return message[0]
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


def test_bad_files_are_named_before_training_or_left_out_aloud(wrong, har, data):
    bad = a_video(data)
    whole = bad.read_bytes()
    for damaged in (b'this is text, not video\n', b'', whole[:len(whole)//3]):
        bad.write_bytes(damaged)
        assert bad.name in wrong('--data', data)
    done = har('run', 'mei.table2', '--data', data, *QUICK, '--skip-bad', '--rows', 'normal')
    assert done.code == 0, done.err
    assert bad.name in done.out + done.err


def test_file_without_frames(wrong, data):
    from har_nb.data.video import frames, write_video
    bad = a_video(data)
    write_video(bad.with_name('one.avi'), frames(bad)[:1], codec='MJPG')
    content = bad.with_name('one.avi').read_bytes()
    bad.with_name('one.avi').unlink()
    bad.write_bytes(content[:content.index(b'movi') + 4])
    assert bad.name in wrong('--data', data)


def test_video_shorter_than_a_batch_is_used_and_noted(har, data):
    from har_nb.data.video import frames, write_video
    short = a_video(data)
    content = frames(short)[:4]
    write_video(short, content, codec='MJPG' if short.suffix == '.avi' else 'mp4v')
    done = har('run', 'mei.table2', '--data', data, *QUICK, '--rows', 'normal')
    assert done.code == 0, done.err
    assert short.name in done.out + done.err


STEPS = { # where it dies: (module, name of what is called there, before or after which call)
    'the row is open': ('har_nb.experiments.tables', 'log_origin', dict(after=0)),
    'an epoch is logged, and not saved': ('har_nb.learning.callbacks', 'Checkpoint.trained_epoch', dict(before=1)),
    'an epoch is saved': ('har_nb.learning.callbacks', 'Checkpoint.trained_epoch', dict(after=1)),
    'the fit is over': ('har_nb.experiments.tables', 'measure', dict(before=0)),
    'the results are logged': ('har_nb.experiments.tables', 'log_results', dict(after=0))}


@pytest.mark.parametrize('step', STEPS)
def test_a_run_that_is_killed_is_never_finished_and_the_next_one_works(
    trained_table, har, tracking, tmp_path, monkeypatch, step
):
    "At every step of the first row, in a process of its own; samples are decoded already."
    from importlib import import_module

    from har_nb.tools.cli import main
    shutil.copytree(trained_table.cache, tmp_path/'data'/'cache')
    module, name, when = STEPS[step]
    *holder, name = name.split('.')
    place = getattr(import_module(module), *holder) if holder else import_module(module)
    words = ['run', *trained_table.words, '--rows', 'normal', '--epochs']
    def work():
        setattr(place, name, dying(getattr(place, name), **when))
        main([*words, '3'])
    assert in_child(work) == -signal.SIGKILL
    assert set(runs().status) == {'RUNNING'}, 'not finished, and open until somebody looks after it'
    done = har(*words, '1')
    assert done.code == 0, done.err
    table = runs()
    assert set(table.status) == {'KILLED', 'FINISHED'}
    assert (table[table['tags.kind'] == 'row'].status == 'FINISHED').sum() == 1


def test_unknown_names_are_answered_with_the_known_ones(wrong, data):
    assert 'small_resnet' in wrong('--data', data, '--backbone', 'no_such_net')
    assert 'two-stream' in wrong('--data', data, '--rows', 'three-stream')
