"""Lists, tables and folders: every way they can be wrong, splits at full size, files that are not sound, and the real
sets."""
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest

import har_nb.data.dataset
from har_nb.data.dataset import ActionDataset, split_groups
from har_nb.data.lists import ListError, from_csv, from_folders, from_lists, open_dataset, ucf101_group, write_lists
from har_nb.data.video import write_video

SPORTS = ['Archery', 'Bowling', 'Long Jump']


@pytest.fixture
def sports(tmp_path):
    "Three classes, four groups, two clips each; the files are there but hold nothing. Group 4 is the test."
    root = tmp_path/'sports'
    for sport in SPORTS:
        (root/sport).mkdir(parents=True)
        for group in range(1, 5):
            for clip in (1, 2): (root/sport/f'v_{sport}_g{group:02d}_c{clip:02d}.avi').touch()
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob('*.avi'))
    (root/'classInd.txt').write_text(''.join(f'{i} {name}\n' for i, name in enumerate(SPORTS, 1)))
    (root/'trainlist.txt').write_text(
        ''.join(f'{path} {SPORTS.index(path.split("/")[0]) + 1}\n' for path in paths if '_g04' not in path)
    )
    (root/'testlist.txt').write_text(''.join(f'{path}\n' for path in paths if '_g04' in path))
    return root


def table(root, header='file,label,group', rows=None):
    rows = rows or [f'{path.relative_to(root).as_posix()},{path.parent.name},{path.stem[-7:-4]}'
                    for path in sorted(root.rglob('*.avi'))]
    (root/'index.csv').write_text('\n'.join([header, *rows]) + '\n')
    return root/'index.csv'


def clips(*rows): return pd.DataFrame(rows, columns=['path', 'label', 'group', 'split'])


def groups_are_whole(dataset): return dataset.clips.groupby('group').split.nunique().max() == 1


def problems(read, *args, **kwargs):
    with pytest.raises(ListError) as caught: read(*args, **kwargs)
    return [(os.path.basename(file), line, message) for file, line, message in caught.value.problems]


@pytest.mark.parametrize('encoding, newline',
                         [('utf-8', '\n'), ('utf-8-sig', '\r\n'), ('utf-8', '\r'), ('utf-8-sig', '\n\n')])
def test_line_ends_marks_and_blank_lines_are_nobodys_fault(sports, encoding, newline):
    plain = from_lists(sports)
    for name in ('classInd.txt', 'trainlist.txt', 'testlist.txt'):
        text = (sports/name).read_text().replace('\n', '  \n')
        (sports/name).write_bytes(text.replace('\n', newline).encode(encoding))
    read = from_lists(sports)
    assert read.digest == plain.digest and read.classes == SPORTS
    assert (len(read.train), len(read.test)) == (18, 6) and read.protocol == 'official' and groups_are_whole(read)


def test_numbers_and_backslashes(sports):
    plain = from_lists(sports)
    habits = {'Archery': lambda path: path.replace('/', '\\'),
              'Bowling': lambda path: f'{path}\t2', 'Long Jump': lambda path: f'./{path}  3'}
    (sports/'testlist.txt').write_text(''.join(habits[path.split('/')[0]](path) + '\n'
                                               for path in (sports/'testlist.txt').read_text().splitlines()))
    (sports/'trainlist.txt').write_text(''.join(line.rsplit(' ', 1)[0] + '\n'
                                                for line in (sports/'trainlist.txt').read_text().splitlines()))
    assert from_lists(sports).digest == plain.digest


@pytest.mark.parametrize('line, says', [
    ('Archery/v_Archery_g01_c01.avi 0', 'class number 0 is not in 1 to 3'),
    ('Archery/v_Archery_g01_c01.avi 4', 'class number 4 is not in 1 to 3'),
    ('Archery/v_Archery_g01_c01.avi -1', 'class number -1 is not in 1 to 3'),
    ('Archery/v_Archery_g01_c01.avi 2', 'class number 2 is Bowling, the folder says Archery'),
    ('Archery/v_Archery_g01_c02.avi 1', 'is already in'),
    ('Archery/v_Archery_g04_c01.avi 1', 'is already in'),
    ('Curling/v_Curling_g01_c01.avi 1', "folder 'Curling' of"),
    ('v_Archery_g01_c01.avi 1', "folder '' of"),
    ('../sports/Archery/v_Archery_g01_c01.avi 1', 'leaves the folder'),
    ('/etc/Archery/v_Archery_g01_c01.avi 1', 'leaves the folder'),
    ('C:\\Archery\\v_Archery_g01_c01.avi 1', 'leaves the folder'),
    ('Archery/v_Archery_g01_c09.avi 1', 'there is no file Archery/v_Archery_g01_c09.avi'),
    ('Archery/v_Archery_g01_c01.avi one', 'is not named like a video'),
    ('Archery/notes.txt 1', 'is not named like a video')])
def test_a_bad_line_is_named(sports, line, says):
    lines = (sports/'trainlist.txt').read_text().splitlines()
    lines[0] = line
    (sports/'trainlist.txt').write_text('\n'.join(lines) + '\n')
    (found,) = problems(from_lists, sports)
    assert says in found[2] and found[:2] in [('trainlist.txt', 1), ('trainlist.txt', 2), ('testlist.txt', 1)]
    assert '.txt:' in str(ListError([found]))


def test_every_problem_of_every_list_at_once(sports):
    for name in ('trainlist.txt', 'testlist.txt'):
        (sports/name).write_text('Archery/gone.avi\nCurling/gone.avi\n\nArchery/v_Archery_g01_c01.avi 9\n')
    found = problems(from_lists, sports)
    assert Counter(name for name, *_ in found) == {
        'trainlist.txt': 3, 'testlist.txt': 6
    }, 'the test list repeats the train list, so each line is wrong twice'
    assert {line for name, line, _ in found if name == 'trainlist.txt'} == {1, 2, 4}


def test_many_problems_are_capped_and_counted(sports):
    (sports/'trainlist.txt').write_text(''.join(f'Archery/gone{i}.avi 1\n' for i in range(500)))
    with pytest.raises(ListError) as caught: from_lists(sports)
    assert len(caught.value.problems) == 500
    assert str(caught.value).startswith('500 problems:')
    assert str(caught.value).endswith('... and 480 more')
    assert len(str(caught.value).splitlines()) == 22


@pytest.mark.parametrize('content, says', [
    ('', 'the list is empty'),
    ('\n\n', 'the list is empty'),
    ('0 Archery\n1 Bowling\n2 Long Jump\n', 'numbered from 1 without a gap, here are 0, 1, 2'),
    ('1 Archery\n3 Bowling\n', 'without a gap'),
    ('1 Archery\n1 Bowling\n', 'number 1 is already Archery'),
    ('1 Archery\n2 Archery\n', 'class Archery occurs twice'),
    ('Archery\nBowling\n', 'is not a number and a name'),
    ('1\n', 'is not a number and a name'),
    (b'1 Arch\xe9ry\n', 'not UTF-8 text'),
])
def test_class_index(sports, content, says):
    (sports/'classInd.txt').write_bytes(content if isinstance(content, bytes) else content.encode())
    found = problems(from_lists, sports)
    assert all(name == 'classInd.txt' for name, *_ in found) and says in found[0][2]


def test_class_index_in_any_order_and_with_tabs(sports):
    plain = from_lists(sports)
    (sports/'classInd.txt').write_text('3\tLong Jump\n1\tArchery\n2\tBowling\n')
    assert from_lists(sports).digest == plain.digest


@pytest.mark.parametrize('name', ['trainlist.txt', 'testlist.txt', 'classInd.txt'])
def test_lists_that_are_missing_or_empty(sports, name):
    (sports/name).write_text('')
    assert problems(from_lists, sports) == [(name, None, 'the list is empty')]
    (sports/name).unlink()
    assert problems(from_lists, sports) == [(name, None, 'cannot be opened (No such file or directory)')]
    (sports/name).mkdir()
    assert problems(from_lists, sports) == [(name, None, 'cannot be opened (Is a directory)')]


@pytest.mark.parametrize('read', [from_lists, from_folders, open_dataset])
def test_missing_folder(tmp_path, read):
    assert problems(read, tmp_path/'nowhere') == [('nowhere', None, 'there is no such folder')]


def test_a_published_validation_list(sports):
    lines = (sports/'trainlist.txt').read_text().splitlines(True)
    (sports/'trainlist.txt').write_text(''.join(line for line in lines if '_g03' not in line))
    (sports/'validlist.txt').write_text(''.join(line for line in lines if '_g03' in line))
    assert open_dataset(sports).summary().loc['all'].to_dict() == dict(train=12, valid=6, test=6, groups=12)
    with pytest.raises(ValueError, match='already'): open_dataset(sports).carve_validation()


def test_numbered_lists(sports):
    for name in ('trainlist', 'testlist'):
        (sports/f'{name}01.txt').write_text((sports/f'{name}.txt').read_text())
        (sports/f'{name}.txt').unlink()
    (sports/'trainlist02.txt').write_text('Archery/v_Archery_g04_c01.avi 1\n')
    (sports/'testlist02.txt').write_text('Archery/v_Archery_g01_c01.avi\n')
    assert open_dataset(sports).split_name == 'trainlist01' and len(open_dataset(sports)) == 24
    assert open_dataset(sports, split=2).train.clips.path.tolist() == ['Archery/v_Archery_g04_c01.avi']
    assert problems(open_dataset, sports, split=3)[0][0] == 'testlist03.txt'


def test_group_rules_are_the_callers(sports):
    assert from_lists(sports, group=lambda path: path[-11:-8]).clips.group.nunique() == 4
    assert open_dataset(sports, group=lambda path: 'all').clips.group.nunique() == 1
    assert ucf101_group('a/clip.mp4') == 'a/clip.mp4'


@pytest.mark.parametrize('header, row, says', [
    ('file,label,group', 'Archery/v_Archery_g01_c01.avi,Archery', '2 cells, the header has 3'),
    ('file,label,group', 'Archery/v_Archery_g01_c01.avi,,1', 'no label'),
    ('file,label,group', ',Archery,', 'no file and no group'),
    ('file,label,group', 'Archery/gone.avi,Archery,1', 'there is no file'),
    ('file,label,group', '../x.avi,Archery,1', 'leaves the folder'),
    ('file,label,group,split', 'Archery/v_Archery_g01_c01.avi,Archery,1,dev',
     "split 'dev' is none of train, valid, test"),
])
def test_a_bad_row_is_named(sports, header, row, says):
    good = 'Bowling/v_Bowling_g01_c01.avi,Bowling,2' + ',train'*header.endswith('split')
    found = problems(from_csv, table(sports, header, [good, row]),
                     group='group', split='split' if header.endswith('split') else None)
    assert found == [('index.csv', 3, found[0][2])] and says in found[0][2]


def test_tables(sports):
    path = table(sports, 'clip;x'.replace(';', ','), ['"Long Jump/v_Long Jump_g01_c01.avi",1'])
    assert 'there is no column file: clip, x' in problems(from_csv, path)[0][2]
    path.write_text('')
    assert problems(from_csv, path) == [('index.csv', None, 'the table is empty')]
    path.write_text('file,label\n')
    assert problems(from_csv, path) == [('index.csv', None, 'the table is empty')]
    rows = ['Archery/v_Archery_g01_c01.avi,Archery,a,Training', 'Archery/v_Archery_g02_c01.avi,Archery,b,val',
            '"Long Jump/v_Long Jump_g01_c01.avi", Long Jump ,c,TEST']
    read = from_csv(table(sports, '\ufefffile,label,who,part\r', rows), group='who', split='part')
    assert read.clips.split.tolist() == ['train', 'valid', 'test']
    assert read.clips.group.tolist() == list('abc')
    assert read.protocol == 'official'
    assert 'unknown class' in problems(from_csv, path, classes=['Archery'])[0][2]
    assert from_csv(path, classes=['Long Jump', 'Archery']).classes == ['Long Jump', 'Archery']
    twice = table(sports, rows=['Archery/v_Archery_g01_c01.avi,Archery,1']*2)
    assert problems(from_csv, twice) == [('index.csv', 3, f'Archery/v_Archery_g01_c01.avi is already in {twice}:2')]


def test_from_csv_reads_videos_from_elsewhere(sports, tmp_path):
    (tmp_path/'lists').mkdir()
    path = table(sports).rename(tmp_path/'lists'/'shots.csv')
    assert len(from_csv(path, group='group', root=sports)) == 24
    assert len(problems(from_csv, path, group='group')) == 24


def test_folders(sports, tmp_path):
    (sports/'Bowling'/'deep').mkdir()
    (sports/'Bowling'/'deep'/'UPPER.MP4').touch()
    (sports/'Bowling'/'.half-written.avi').touch()
    (sports/'Bowling'/'Thumbs.db').touch()
    (sports/'.cache').mkdir()
    read = from_folders(sports)
    assert len(read) == 25
    assert read.classes == SPORTS
    assert read.protocol == 'unsplit'
    assert 'Bowling/deep/UPPER.MP4' in set(read.clips.path)
    (sports/'Curling').mkdir()
    assert problems(from_folders, sports) == [('Curling', None, 'this folder of a class holds no video')]
    (tmp_path/'bare').mkdir()
    assert problems(open_dataset, tmp_path/'bare') == [
        ('bare', None, 'there is no folder with videos, no list and no index.csv')
    ]


def test_folders_for_each_split(tmp_path):
    for split in ('train', 'val', 'test'):
        for name in ('run', 'walk'):
            (tmp_path/split/name).mkdir(parents=True)
            (tmp_path/split/name/f'{split}.mp4').touch()
    read = open_dataset(tmp_path)
    assert read.classes == ['run', 'walk']
    assert read.summary().loc['all'].to_dict() == dict(train=2, valid=2, test=2, groups=6)
    assert read.protocol == 'official'


def test_open_dataset_says_what_it_read(sports):
    assert open_dataset(sports).source == 'trainlist.txt, testlist.txt'
    table(sports)
    assert open_dataset(sports).source == 'trainlist.txt, testlist.txt'
    assert 'is read from its lists' in problems(open_dataset, sports, group='place')[0][2]
    for path in sports.glob('*.txt'): path.unlink()
    assert open_dataset(sports).source == 'index.csv' and open_dataset(sports).clips.group.nunique() == 4
    assert 'there is no column place' in problems(open_dataset, sports, group='place')[0][2]
    table(sports, 'file,label,recording,scene', ['Archery/v_Archery_g01_c01.avi,Archery,1,2'])
    assert problems(open_dataset, sports) == [
        ('index.csv', 1,
         'which column must not be split? There is none called group: say --group recording or --group scene')
    ]
    table(sports, 'file,label', ['Archery/v_Archery_g01_c01.avi,Archery'])
    assert 'add one' in problems(open_dataset, sports)[0][2]
    assert len(open_dataset(sports, group=ucf101_group)) == 1
    (sports/'index.csv').write_bytes(b'file,label,group\nArchery/v_Archery_g01_c01.avi,\x00"Arc\rhery,1\n')
    assert problems(open_dataset, sports)[0][0] == 'index.csv'
    (sports/'index.csv').unlink()
    assert open_dataset(sports).source == 'folders'
    assert 'is read from its folders' in problems(open_dataset, sports, split='part')[0][2]
    assert 'is read from its folders' in problems(open_dataset, sports, group='place')[0][2]


def test_the_data_set_is_a_value(sports):
    read = from_lists(sports)
    assert [len(part) for part in (read, read.train, read.valid, read.test)] == [24, 18, 0, 6]
    assert read.test.labels.tolist() == [0, 0, 1, 1, 2, 2] and read.test.clips.index.tolist() == list(range(6))
    assert all(path.is_absolute() and path.is_file() for path in read.paths) and len(read.paths) == 24
    assert read.subset(['Long Jump', 'Bowling']).class_index == {'Long Jump': 0, 'Bowling': 1}
    assert len(read.subset(['Bowling'])) == 8
    for classes in (['Curling'], ['Bowling', 'Bowling'], []):
        with pytest.raises(ValueError): read.subset(classes)
    gone = read.clips.path.tolist()[:3]
    assert len(read.without(gone)) == 21 and not set(gone) & set(read.without(gone).clips.path)
    with pytest.raises(ValueError, match='gone.avi'): read.without(['gone.avi'])
    digests = [read.digest, read.holdout(seed=1).digest, read.holdout(seed=2).digest,
               read.subset(['Bowling']).digest, read.carve_validation().digest, read.without(gone).digest]
    assert len(set(digests)) == 6 and from_lists(sports).digest == read.digest
    assert '24 clips, 3 classes, official trainlist' in read._repr_markdown_() and 'Long Jump' in read._repr_markdown_()
    assert len(read.valid.summary()) == 4 and read.valid.valid.paths == []


def test_relative_root_and_symbolic_links(sports, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'link').symlink_to(sports)
    assert from_lists('sports').digest == from_lists(sports).digest == from_lists('link').digest
    assert from_lists('sports').name == 'sports' and from_lists('sports').paths == from_lists(sports).paths
    monkeypatch.chdir(sports)
    assert from_lists('.').name == 'sports'


@pytest.mark.parametrize('seed', range(5))
def test_splits_keep_groups_and_balance(sports, seed):
    read = from_folders(sports)
    held = read.holdout(.25, seed)
    assert groups_are_whole(held)
    assert held.summary().test.tolist() == [2, 2, 2, 6]
    assert held.digest == read.holdout(.25, seed).digest
    folds = read.folds(4, seed)
    assert [fold.split_name for fold in folds] == [f'fold {i}/4' for i in (1, 2, 3, 4)]
    assert {fold.protocol for fold in folds} == {'folds'}
    assert sorted(path for fold in folds for path in fold.test.clips.path) == sorted(read.clips.path)
    for fold in folds:
        carved = fold.carve_validation(1/3, seed)
        assert groups_are_whole(carved)
        assert carved.test.clips.path.tolist() == fold.test.clips.path.tolist()
        assert carved.summary().valid.tolist() == [2, 2, 2, 6]


def test_seeds_give_other_splits_that_row_order_does_not_touch(sports):
    read = from_folders(sports)
    assert len({read.holdout(.25, seed).digest for seed in range(20)}) > 10
    turned = ActionDataset(read.root, read.classes, read.clips[::-1].reset_index(drop=True))
    assert set(turned.holdout(.25, 3).test.clips.path) == set(read.holdout(.25, 3).test.clips.path)


def test_unequal_groups_with_several_classes():
    random = np.random.default_rng(0)
    for seed in range(20):
        groups = random.choice(30, 400, p=random.dirichlet(np.ones(30)))
        labels = random.choice(6, 400, p=random.dirichlet(np.ones(6)*3))
        part = split_groups(labels, groups, [.7, .3], seed)
        assert all(len(set(part[groups == group])) == 1 for group in set(groups))
        assert all(set(part[labels == label]) == {0, 1}
                   for label in set(labels)
                   if len(set(groups[labels == label])) > 1)
        assert .2 < part.mean() < .4


def test_splits_that_cannot_be(sports):
    read = from_lists(sports, group=lambda path: 'one' if 'Bowling' in path else ucf101_group(path))
    for split in (read.holdout, read.folds):
        with pytest.raises(ValueError, match='both train and test Bowling'): split()
    assert groups_are_whole(read.subset(['Archery', 'Long Jump']).holdout())
    assert read.carve_validation(.4).summary().valid.to_dict() == {'Archery': 2, 'Bowling': 0, 'Long Jump': 2, 'all': 4}
    with pytest.raises(ValueError, match='12 groups, too few for 13'): from_folders(sports).folds(13)
    with pytest.raises(ValueError, match='too few groups in training'):
        from_lists(sports, group=lambda path: 'one').carve_validation()
    with pytest.raises(ValueError, match='too few groups in training'): read.test.carve_validation()
    for bad in (0, 1, -1, 30):
        with pytest.raises(ValueError, match='share between 0 and 1'): read.holdout(bad)
        with pytest.raises(ValueError, match='share between 0 and 1'): read.carve_validation(bad)
    with pytest.raises(ValueError, match='at least 2'): read.folds(1)
    with pytest.raises(ValueError, match="'group' or 'clip'"): read.holdout(by='person')


def test_a_split_by_clip_says_that_it_is_one(sports):
    held = from_folders(sports).holdout(.25, by='clip')
    assert held.protocol == 'holdout by clip' and held.summary().test.tolist() == [2, 2, 2, 6]
    assert len(from_lists(sports).carve_validation(.5, by='clip').valid) == 9


def test_lists_are_written_and_read_back(sports, tmp_path):
    carved = from_folders(sports).holdout(.25, 1).carve_validation(.3)
    write_lists(carved)
    again = open_dataset(sports)
    assert again.classes == carved.classes
    assert set(map(tuple, again.clips.to_numpy())) == set(map(tuple, carved.clips.to_numpy()))
    other = ActionDataset(sports, ['a'], clips(('Archery/v_Archery_g01_c01.avi', 'a', 'g', 'train')))
    with pytest.raises(ValueError, match='not in a folder of its class'): write_lists(other)


@pytest.fixture
def faulty(tmp_path):
    "A set with a fault of every kind among sound files."
    random, root = np.random.default_rng(0), tmp_path/'set'
    (root/'run').mkdir(parents=True)
    for name in ('sound1', 'sound2', 'truncated', 'short', 'crash'):
        write_video(root/'run'/f'{name}.avi',
                    random.integers(0, 256, (4 if name == 'short' else 40, 32, 32, 3), dtype=np.uint8), codec='MJPG')
    whole = (root/'run'/'truncated.avi').read_bytes()
    (root/'run'/'truncated.avi').write_bytes(whole[:len(whole)*2//3])
    (root/'run'/'zero.avi').write_bytes(whole[:whole.index(b'movi') + 4])
    (root/'run'/'empty.mp4').touch()
    (root/'run'/'text.mp4').write_text('not found\n'*50)
    (root/'run'/'gone.mp4').touch()
    read = from_folders(root)
    (root/'run'/'gone.mp4').unlink()
    return read


def test_one_bad_file_never_stops_the_check(faulty, capfd):
    report = faulty.check_files(min_frames=10, workers=2)
    assert report.set_index('path').problem.to_dict() == {
        'run/empty.mp4': 'empty', 'run/gone.mp4': 'missing', 'run/short.avi': 'short', 'run/text.mp4': 'unreadable',
        'run/truncated.avi': 'truncated', 'run/zero.avi': 'unreadable',
    }
    assert (report[report.severity == 'note'].problem == 'short').all()
    assert (report.severity == 'error').sum() == 5
    assert report.detail.str.len().min() > 5
    left = faulty.without(report.path[report.severity == 'error'])
    again = left.check_files(workers=1)
    assert again.empty and list(again.columns) == ['path', 'problem', 'detail', 'severity']
    assert faulty.without(faulty.clips.path).check_files().empty
    assert capfd.readouterr() == ('', '')


def test_a_file_that_kills_its_worker_is_a_row(faulty, monkeypatch):
    "That workers die of a decoder, and others go on, is shown in test_audit."
    def dying(work, items, workers, crashed):
        for place, (path, *rest) in enumerate(items):
            yield place, crashed if 'crash' in str(path) else work(path, *rest)
    monkeypatch.setattr(har_nb.data.dataset, 'for_each_file', dying)
    report = faulty.check_files().set_index('path')
    assert report.loc['run/crash.avi'].tolist() == ['unreadable', 'the decoder crashes on it', 'error']
    assert not any('sound' in path for path in report.index) and (report.severity == 'error').sum() == 6


def test_a_script_without_a_guard_is_told(faulty, tmp_path):
    (tmp_path/'script.py').write_text('from har_nb.data.lists import from_folders\n'
                                      f'from_folders({str(faulty.root)!r}).check_files(workers=2)')
    done = subprocess.run([sys.executable, tmp_path/'script.py'], capture_output=True, text=True, timeout=120)
    assert done.returncode and "below if __name__ == '__main__'" in done.stderr


def test_splits_at_full_size(published):
    read = from_lists(published('ucf101'), None, 'trainlist01.txt', 'testlist01.txt', must_exist=False)
    assert groups_are_whole(read)
    for name, split in dict(holdout=read.holdout, folds=read.folds, carve=read.carve_validation,
                            clips=lambda: read.holdout(.3, by='clip')).items():
        made = split()[0] if name == 'folds' else split()
        assert name == 'clips' or groups_are_whole(made)
        assert (made.counts() > 0).all(axis=None)


def test_cctv_fight(shared_data):
    "Doubles test_splits_keep_groups_and_balance, on a table of 240 real clips; test_audit decodes them."
    read = open_dataset(shared_data/'cctv_fight')
    assert read.classes == ['fight', 'noFight']
    assert len(read) == 240
    assert read.clips.group.nunique() == 195
    assert read.source == 'index.csv'
    for part in [read.holdout(.3), *read.folds(5)]:
        assert groups_are_whole(part) and abs(part.test.labels.mean() - .5) < .1
        assert groups_are_whole(part.carve_validation(.3))


def test_indoor_actions(shared_data):
    """Doubles test_unequal_groups_with_several_classes and test_splits_that_cannot_be, on a real table; test_audit
    decodes its files."""
    folder = shared_data/'indoor_actions'
    assert 'say --group recording or --group scene' in problems(open_dataset, folder)[0][2]
    read = open_dataset(folder, group='recording')
    assert len(read) == 213 and len(read.classes) == 9 and read.clips.group.nunique() == 17
    for seed in range(10):
        held = read.holdout(.3, seed)
        assert groups_are_whole(held)
        assert (held.summary()[['train', 'test']] > 0).all(axis=None)
        assert .2 < len(held.test)/213 < .45
        carved = held.carve_validation(.3, seed)
        assert groups_are_whole(carved) and (carved.summary().train > 0).all() and len(carved.valid)
    assert len(read.folds(3)) == 3
    with pytest.raises(ValueError, match='both train and test active'): open_dataset(folder, group='scene').holdout(.5)


def test_real_files_that_suffered(footage, tmp_path):
    for name in ('a', 'b'): (tmp_path/name).mkdir()
    whole, other, _ = [path.read_bytes() for path in footage.values()]
    (tmp_path/'a'/'whole.mp4').write_bytes(whole)
    (tmp_path/'a'/'half.mp4').write_bytes(whole[:len(whole)//2])
    (tmp_path/'b'/'other.mp4').write_bytes(other)
    report = open_dataset(tmp_path).check_files(workers=1)
    assert report.path.tolist() == ['a/half.mp4'] and report.severity.tolist() == ['error']
