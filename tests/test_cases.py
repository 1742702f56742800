"""Every case of tests/cases.md: its input is made here, the commands are called on it, and what they say is compared
with the right column."""
import json
import os
import re
import shutil
import unicodedata
import zlib
from fractions import Fraction
from pathlib import Path

import cv2
import footage
import numpy as np
import pandas as pd
import pytest

import har_nb.data.audit
import har_nb.data.dataset
import har_nb.tools.data
from har_nb.core import printable
from har_nb.data.lists import ListError, find_name, inventory, open_dataset
from har_nb.data.video import write_video
from har_nb.tools.data import UsageError, open_any, whatever_is_right

SPORTS = ('Running', 'StarJump')


@pytest.fixture(autouse=True)
def here(monkeypatch):
    "Files are looked at in this process: that others do it in processes of their own is no point of these tests."
    def looked(work, items, *_): return ((place, work(*item)) for place, item in enumerate(items))
    for module in (har_nb.data.audit, har_nb.data.dataset): monkeypatch.setattr(module, 'for_each_file', looked)


@pytest.fixture(autouse=True)
def every_file_is_accounted_for(monkeypatch):
    """Of every set that a test opens, by a command or itself: files on the disk are those used, left out and passed
    over."""
    opened, real = [], har_nb.tools.data.whatever_is_right
    def watched(*arguments, **settings):
        read = real(*arguments, **settings)
        opened.append(read[0])
        return read
    monkeypatch.setattr(har_nb.tools.data, 'whatever_is_right', watched)
    yield
    for dataset in opened:
        if Path(dataset.root).is_dir(): balanced(dataset)


def film(seed, n_frames=12, size=(32, 32)):
    "Frames that no other seed has."
    scene = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    clip = np.repeat(cv2.resize(scene, size[::-1])[None], n_frames, 0)
    for t, frame in enumerate(clip): frame[:, t % size[1]] = 255
    return clip


def clips(root, *names, n_frames=12, rate=25, size=(32, 32)):
    """Videos by these names, each of its own content; what cannot be written under a suffix is written as .mp4 and
    renamed."""
    for name in names:
        path = Path(root)/name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path.parent/'.being-made.mp4',
                    film(zlib.crc32(str(name).encode()), n_frames, size), rate).path.rename(path)
    return root


def pictures(folder, n=12, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(film(seed, n), 1): cv2.imwrite(str(folder/f'image_{number:05d}.jpg'), frame)


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def listed(root, suffix, number=''):
    "Two classes, three videos, three clips each; the third clip of every video is a test clip. In UCF101's form."
    names = [
        f'{sport}/v_{sport}_g0{group}_c0{clip}{suffix}' for sport in SPORTS for group in (1, 2, 3) for clip in (1, 2, 3)
    ]
    clips(root, *names)
    write(root/'classInd.txt', *(f'{place} {sport}' for place, sport in enumerate(SPORTS, 1)))
    write(root/f'trainlist{number}.txt',
          *(f'{name} {1 + SPORTS.index(name.partition("/")[0])}' for name in names if '_c03' not in name))
    write(root/f'testlist{number}.txt', *(name for name in names if '_c03' in name))
    return root


def plain(root, classes=('A', 'B'), n=4):
    return clips(root, *(f'{name}/{name}_{place}.mp4' for name in classes for place in range(n)))


def findings(said): return {(f['check'], f['severity']) for f in json.loads(said.out)['findings']}


def details(said, check): return [f['detail'] for f in json.loads(said.out)['findings'] if f['check'] == check]


def accounted(root, **how):
    "What became of each file: files on the disk are those used, left out and passed over."
    dataset, _ = whatever_is_right(root, *(how.get(name) for name in ('group', 'split', 'protocol', 'leave_out')))
    return balanced(dataset)


def balanced(dataset):
    here = inventory(dataset)
    on_disk = sum(len(names) for _, _, names in os.walk(dataset.root, followlinks=True))
    assert here.files.sum() == on_disk and not here.path.duplicated().any()
    uses = here.groupby('use').files.sum().to_dict()
    assert set(uses) <= {'used', 'left out', 'passed over'}
    return uses


# 01: names carry groups, whatever the container

@pytest.mark.parametrize('suffix', ['.mp4', '.avi', '.mov', '.webm', '.MP4', '.mts'])
def test_names_carry_groups_whatever_the_suffix(har, tmp_path, suffix):
    root = listed(tmp_path/'set', suffix)
    said = har('audit', root, '--json')
    assert said.code == 1
    assert ('leak', 'error') in findings(said)
    assert '100.0% of the 6 test clips' in details(said, 'leak')[0]
    assert json.loads(said.out)['name'] == 'set' and accounted(root) == {'used': 18, 'left out': 3}
    assert har('data', 'check', root).code == 0


# 02: a published set is known by its content

def test_an_own_set_in_ucf101s_form_is_nobody_elses(har, tmp_path):
    root = listed(tmp_path/'UCF101', '.mp4', '07')
    checked = har('data', 'check', root)
    assert checked.code == 0 and 'published' not in checked.out
    assert open_any(root, split=7).name == 'own UCF101' and len(open_any(root, split=7)) == 18
    assert 'leak: train-test: 100.0% of the 6 test clips' in '\n'.join(
        har_nb.data.audit.before_training(open_any(root, split=7))
    )
    with pytest.raises(UsageError, match='no split 0'): open_any(root, split=0)


# 03: folders of splits

def split_folders(root, *tops):
    return clips(root, *(f'{top}/{sport}/{top}_{place}.mp4' for top in tops for sport in SPORTS for place in (1, 2)))


def test_folders_of_splits_and_what_stands_beside_them(har, tmp_path):
    root = split_folders(tmp_path/'data', 'train', 'val', 'test', 'extra')
    said = har('audit', root, '--json')
    assert said.code == 1
    assert 'extra beside test, train, val' in details(said, 'list')[0]
    assert '--leave-out extra' in details(said, 'list')[0]
    assert sorted(open_any(root, leave_out=['extra']).classes) == sorted(SPORTS)
    left = har('audit', root, '--leave-out', 'extra', '--json')
    assert left.code == 0
    assert not {check for check, _ in findings(left)} & {'list', 'class named like a split', 'no test'}
    assert '4 files' in details(left, 'left out')[0]
    assert accounted(root, leave_out=('extra',)) == {'used': 12, 'left out': 4}
    assert har('data', 'check', root, '--leave-out', 'extra').code == 0
    refused = har('run', 'mei.table2', '--data', root, '--preset', 'demo', '--epochs', 1)
    assert refused.code == 1 and 'extra beside test, train, val' in refused.err
    assert 'there is no folder more to leave out' in har('data', 'check', root, '--leave-out', 'more').out


@pytest.mark.parametrize('tops', [
    ('Train', 'Validation', 'Test'),
    ('training', 'testing'),
    ('train_set', 'test_set'),
    ('train', 'test'),
])
def test_splits_by_many_names(tmp_path, tops):
    read = open_any(split_folders(tmp_path/'data', *tops))
    assert read.classes == list(SPORTS) and {'train', 'test'} <= set(read.clips.split) and read.protocol == 'official'


def test_classes_named_like_splits_are_told(har, tmp_path):
    flat = clips(tmp_path/'flat', *(f'{top}/{place}.mp4' for top in ('train', 'test') for place in range(3)))
    assert 'no folder in them holds the videos of a class' in details(har('audit', flat, '--json'), 'list')[0]
    vehicles = plain(tmp_path/'vehicles', ('bus', 'train'))
    said = har('audit', vehicles, '--json')
    assert ('class named like a split', 'warning') in findings(said)
    assert said.code == 0
    assert open_any(vehicles).classes == ['bus', 'train']


# 10: tables

@pytest.mark.parametrize('header, row', [
    ('file,label,group', 'a.mp4,Run,p1'),
    ('\ufefffile;label;group', 'a.mp4;Run;p1'),
    ('File\tLabel\tGroup', 'a.mp4\tRun\tp1'),
    ('FILE|LABEL|GROUP', 'a.mp4|Run|p1'),
])
def test_separators_and_capitals(har, tmp_path, header, row):
    root = clips(tmp_path/'set', 'a.mp4', 'b.mp4')
    write(root/'index.csv', header, row, row.replace('a.mp4', 'b.mp4').replace('Run', 'Walk'))
    read = open_any(root)
    assert read.classes == ['Run', 'Walk']
    assert read.clips.group.tolist() == ['p1', 'p1']
    assert har('audit', root).code == 0
    assert accounted(root) == {'used': 2, 'left out': 1}


def test_a_number_of_a_split_where_there_are_no_lists(har, tmp_path):
    root = clips(tmp_path/'set', 'a.mp4', 'b.mp4')
    write(root/'index.csv', 'file,label,group', 'a.mp4,Run,p1', 'b.mp4,Walk,p2')
    said = har('audit', root, '--split', 1)
    assert said.code == 1
    assert 'leave --split away, or name a column: file, label, group' in said.out
    assert 'Traceback' not in said.err
    assert har('run', 'mei.table2', '--data', root, '--split', 1).err.count('\n') == 1
    write(root/'index.csv', 'file,label,group,split1', 'a.mp4,Run,p1,train', 'b.mp4,Walk,p2,Test')
    for split in (1, 'split1'):
        assert open_any(root, split=split).clips.split.tolist() == ['train', 'test']
    folders = plain(tmp_path/'folders')
    assert 'read from its folders' in har('audit', folders, '--split', 2).out


# 12: nothing that may be a video is passed over in silence

def test_links_and_every_suffix_are_read(har, tmp_path):
    root = plain(tmp_path/'data')
    clips(tmp_path/'elsewhere', 'one.mp4', 'two.mp4')
    (root/'A'/'part2').symlink_to(tmp_path/'elsewhere')
    (root/'A'/'back').symlink_to(root)
    clips(root, 'B/cam_1.MTS', 'B/cam_2.m2ts', 'B/old.VOB', 'B/dv.mod')
    read = open_any(root)
    assert read.clips.label.value_counts().to_dict() == {'A': 6, 'B': 8}
    (root/'A'/'back').unlink()
    assert accounted(root) == {'used': 14}
    said = har('audit', root, '--json')
    assert said.code == 0 and 'passed over' not in {check for check, _ in findings(said)}


def test_what_may_be_a_video_is_told_with_its_number(har, tmp_path):
    root = plain(tmp_path/'data')
    content = (root/'A'/'A_0.mp4').read_bytes()
    for name in ('film.part', 'film.xyz', 'film'): (root/'A'/name).write_bytes(content)
    (root/'B'/'gone.mp4').symlink_to(root/'nowhere.mp4')
    (root/'B'/'stored').write_text('../A')
    os.mkfifo(root/'B'/'pipe.mp4')
    assert accounted(root) == {'used': 8, 'passed over': 6}
    said = har('audit', root, '--json')
    told = ' '.join(details(said, 'passed over'))
    assert all(words in told for words in ('3 files, begins like a video', 'A/film.part',
                                           'a link that leads nowhere: B/gone.mp4', 'stored as text: B/stored',
                                           'a pipe, a socket or a device: B/pipe.mp4'))
    assert 'begins like a video' in har('data', 'check', root).out
    assert any(line.startswith('passed over') for line in har_nb.data.audit.before_training(open_any(root)))


# 13: what is no clip

@pytest.mark.parametrize('name', ['@eaDir/A_0.mp4/thumb.jpg', '@eaDir/A_0.mp4', '$RECYCLE.BIN/$R1.mp4',
                                  'lost+found/1.mp4', '.ipynb_checkpoints/A_0.mp4', '__MACOSX/A/._A_0.mp4',
                                  'System Volume Information/x.mp4', '#recycle/a.mp4', '._A_0.mp4'])
@pytest.mark.parametrize('place', ['', 'A/'])
def test_hidden_and_system_folders_are_left_out_with_a_note(tmp_path, name, place):
    root = plain(tmp_path/'drive')
    file = root/place/name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((root/'A'/'A_0.mp4').read_bytes())
    (root/'lost+found').mkdir(exist_ok=True)
    read = open_any(root)
    assert read.classes == ['A', 'B'] and len(read) == 8 and accounted(root) == {'used': 8, 'left out': 1}
    said = [finding for finding in har_nb.data.audit.disk_findings(read) if finding[0] == 'left out']
    assert len(said) == 1
    assert said[0][1] == 'note'
    assert said[0][3].startswith('1 file, hidden, or of the system')
    assert 'lost+found' in said[0][3]


# 14: folders of pictures

def picture_set(root):
    for name in ('class0', 'class1'):
        for group in (1, 2): pictures(root/name/f'v_{name}_g{group:02d}_c01', seed=10*group + int(name[-1]))
    return root


def test_folders_of_pictures_are_clips(har, tmp_path):
    root = picture_set(tmp_path/'layout')
    read = open_any(root)
    assert len(read) == 4
    assert sorted(read.clips.group.unique()) == ['class0/g01', 'class0/g02', 'class1/g01', 'class1/g02']
    assert accounted(root) == {'used': 48}
    said = har('audit', root, '--json')
    assert said.code == 0 and {row['codec'] for row in json.loads(said.out)['tables']['media']} == {'pictures'}
    assert har('data', 'check', root).code == 0
    for lines, name in (
        (['class0/v_class0_g01_c01 1', 'class1/v_class1_g01_c01 2'], 'trainlist.txt'),
        (['class0/v_class0_g02_c01', 'class1/v_class1_g02_c01'], 'testlist.txt'),
        (['1 class0', '2 class1'], 'classInd.txt'),
    ):
        write(root/name, *lines)
    by_lists = open_any(root)
    assert by_lists.source == 'trainlist.txt, testlist.txt' and sorted(by_lists.clips.path) == sorted(read.clips.path)


def test_a_folder_of_pictures_whose_name_ends_in_a_number(tmp_path):
    for name in ('clip', 'clip 1', 'take 2'): pictures(tmp_path/'a'/name, 3)
    write(tmp_path/'classInd.txt', '1 a')
    write(tmp_path/'trainlist.txt', 'a/clip 1 1', 'a/clip 1')
    write(tmp_path/'testlist.txt', 'a/take 2')
    with pytest.raises(ListError, match='trainlist.txt:2: a/clip 1 is already'): open_dataset(tmp_path)
    write(tmp_path/'trainlist.txt', 'a/clip 1 1')
    assert open_dataset(tmp_path).clips.path.tolist() == ['a/clip 1', 'a/take 2']


def test_stray_pictures_and_folders_in_folders(har, tmp_path):
    root = picture_set(tmp_path/'layout')
    cv2.imwrite(str(root/'cover1.jpg'), film(0)[0])
    cv2.imwrite(str(root/'class0'/'thumb1.png'), film(0)[0])
    pictures(root/'class1'/'v_class1_g01_c01'/'masks', 3)
    read = open_any(root)
    assert len(read) == 4 and accounted(root) == {'used': 48, 'left out': 2, 'passed over': 3}
    told = details(har('audit', root, '--json'), 'passed over')
    assert len(told) == 1 and 'inside a folder of pictures: class1/v_class1_g01_c01/masks' in told[0]
    pictures(tmp_path/'wrong'/'run'), pictures(tmp_path/'wrong'/'walk', seed=1)
    assert 'give each clip a folder of its own' in details(har('audit', tmp_path/'wrong', '--json'), 'list')[0]


# Told without a file

def test_a_name_that_is_not_utf8_is_told(har, tmp_path):
    root = plain(tmp_path/'data')
    odd = os.fsdecode(os.fsencode(root/'A') + b'/caf\xe9.mp4')
    os.rename(root/'A'/'A_0.mp4', odd)
    assert printable(os.path.basename(odd)) == 'caf\\xe9.mp4' and accounted(root) == {'used': 7, 'passed over': 1}
    for said in (har('audit', root), har('data', 'check', root)):
        assert said.code == 0 and '1 file, its name is not UTF-8: rename it: A/caf\\xe9.mp4' in said.out
    os.rename(root/'B', os.fsdecode(os.fsencode(root) + b'/\xe9t\xe9'))
    assert len(open_any(root)) == 3 and accounted(root) == {'used': 3, 'passed over': 5}


def test_one_class_is_refused_in_the_words_of_the_audit(har, tmp_path):
    root = plain(tmp_path/'data', ('Run',), 6)
    said = har('audit', root, '--json')
    assert said.code == 1 and ('one class', 'error') in findings(said)
    ran = har('run', 'mei.table2', '--data', root, '--preset', 'demo', '--epochs', 1)
    assert ran.code == 1 and f'one class: {details(said, "one class")[0]}' in ran.err and ran.err.count('\n') == 1


@pytest.mark.parametrize('words, told', [
    ('--set size=abc', "size is a whole number, not 'abc'"),
    ('--set batch_size=1.5', 'batch_size is a whole number'),
    ('--lr 0', 'lr is above 0'),
    ('--lr -1', 'lr is above 0'),
    ('--lr nan', 'lr is a number'),
    ('--set lr=inf', 'lr is a number'),
    ('--split 0', 'there is no split 0'),
    ('--split -1', 'there is no split -1'),
    ('--size 0', 'size is at least 1'),
])
def test_values_that_cannot_be(har, tmp_path, words, told):
    said = har('run', 'mei.table2', '--data', plain(tmp_path/'data', n=1), '--preset', 'demo', *words.split())
    assert said.code == 1 and told in said.err and said.err.count('\n') == 1


@pytest.mark.parametrize('words', ['--window nan', '--window inf', '--window 0',
                                   '--step inf', '--step nan', '--step -1', '--top 0'])
def test_seconds_that_cannot_be(har, tmp_path, words):
    said = har('predict', tmp_path/'any.mp4', '--run', '0'*32, '--timeline', tmp_path/'line.png', *words.split())
    assert said.code == 1 and '--window and --step are seconds above 0' in said.err


@pytest.mark.parametrize('on_disk, in_list', [('NFD', 'NFC'), ('NFC', 'NFD')])
def test_letters_in_two_spellings(har, tmp_path, on_disk, in_list):
    spell = unicodedata.normalize
    sports = ['Séance', 'Élan']
    root = clips(tmp_path/'set',
                 *(spell(on_disk, f'{name}/v_{name}_g{group:02d}_c01.mp4') for name in sports for group in (1, 2)))
    write(root/'classInd.txt', *(spell('NFC', f'{place} {name}') for place, name in enumerate(sports, 1)))
    write(root/'trainlist.txt',
          *(spell(in_list, f'{name}/v_{name}_g01_c01.mp4 {place}') for place, name in enumerate(sports, 1)))
    write(root/'testlist.txt', *(spell(in_list, f'{name}/v_{name}_g02_c01.mp4') for name in sports))
    read = open_any(root)
    assert read.classes == [spell('NFC', name) for name in sports]
    assert all(path.is_file() for path in read.paths)
    assert accounted(root) == {'used': 4, 'left out': 3}
    assert find_name(root, spell(in_list, 'Séance/other.mp4')) == spell(in_list, 'Séance/other.mp4')
    for name in ('classInd.txt', 'trainlist.txt', 'testlist.txt'): (root/name).unlink()
    assert open_any(root).classes == sorted(spell('NFC', name) for name in sports)


def test_a_class_named_all(har, tmp_path):
    root = plain(tmp_path/'data', ('all', 'none'), 6)
    read = open_any(root).holdout(.3)
    assert read.summary().index.tolist() == ['all', 'none', 'all clips'] and read.summary().loc['all', 'train'] == 4
    shown = har_nb.data.audit.audit(read, files=False)
    assert 'uneven classes' not in set(shown.findings.check) and len(shown.plot().axes) == 2
    assert har('audit', root).code == 0


@pytest.mark.parametrize('side', ['train', 'test'])
def test_a_class_missing_from_a_side(har, tmp_path, side):
    root = listed(tmp_path/'set', '.mp4')
    file = root/f'{side}list.txt'
    write(file, *(line for line in file.read_text().splitlines() if 'StarJump' not in line))
    said = har('audit', root, '--json')
    assert said.code == 1 and ('class missing', 'error') in findings(said)
    words = f'class missing: StarJump, {side}: no clip of this class in {side}'
    assert words in har_nb.data.audit.before_training(open_any(root))


def test_the_audit_tells_everything_at_once(har, tmp_path):
    root = listed(tmp_path/'set', '.mp4')
    (root/'Running'/'v_Running_g01_c01.mp4').write_bytes(b'')
    (root/'Running'/'v_Running_g02_c01.mp4').unlink()
    (root/'Running'/'more.part').write_bytes((root/'StarJump'/'v_StarJump_g01_c01.mp4').read_bytes())
    clips(root, 'StarJump/v_StarJump_g01_c01.mp4', 'StarJump/v_StarJump_g02_c01.mp4', rate=60)
    with (root/'trainlist.txt').open('a') as file: file.write('Swimming/v_Swimming_g01_c01.mp4 3\n')
    said = har('audit', root, '--json')
    assert said.code == 1
    assert {('list', 'error'), ('missing', 'error'), ('empty', 'error'), ('leak', 'error'),
            ('passed over', 'warning'), ('rates', 'warning')} <= findings(said)
    assert details(said, 'missing') == [f'there is no file Running/v_Running_g02_c01.mp4 in {root}']
    assert {f['subject'] for f in json.loads(said.out)['findings'] if f['check'] in ('list', 'missing')} == {
        'trainlist.txt:3', 'trainlist.txt:13'
    }
    ran = har('run', 'mei.table2', '--data', root)
    assert ran.code == 1 and details(said, 'missing')[0] in ran.err and details(said, 'list')[0] in ran.err
    write(root/'classInd.txt', 'no number')
    said = har('audit', root, '--json')
    assert {('list', 'error'), ('leak', 'error'), ('empty', 'error')} <= findings(said)
    assert 'missing' in har('data', 'check', root).out


@pytest.mark.parametrize('words', ['nowhere', 'set --split 0', 'set --split 9',
                                   'set --group place', 'set --protocol mine', 'file.txt', 'empty'])
def test_json_is_json_whatever_happens(har, tmp_path, words):
    listed(tmp_path/'set', '.mp4')
    (tmp_path/'file.txt').touch(), (tmp_path/'empty').mkdir()
    folder, *more = words.split()
    said = har('audit', tmp_path/folder, *more, '--json')
    told = json.loads(said.out)
    assert said.code == 1
    assert told['ok'] is False
    assert told['findings'][0]['severity'] == 'error'
    assert 'Traceback' not in said.err


def test_json_even_of_a_defect(har, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(har_nb.data.audit, 'copies', lambda *_: 1/0)
    with pytest.raises(ZeroDivisionError): har('audit', plain(tmp_path/'data'), '--json')
    assert json.loads(capsys.readouterr().out)['findings'][0]['detail'] == 'division by zero'


def test_rates_that_differ(tmp_path):
    root = clips(tmp_path/'set', *(f'A/{n}.mp4' for n in range(6)), rate=60)
    clips(root, *(f'B/{n}.mp4' for n in range(6)), rate=24)
    found = har_nb.data.audit.audit(open_any(root))
    told = found.findings[found.findings.check == 'rates']
    assert told.severity.tolist() == ['warning']
    assert 'ten frames last 0.417 s in B and 0.167 s in A' in told.detail.iloc[0]
    assert '(2.50 times as long)' in told.detail.iloc[0]
    assert re.search(r'(\d+) clips are not at the usual', told.detail.iloc[0])


def test_a_thousand_to_ten(har, tmp_path):
    root = plain(tmp_path/'set', ('often',), 1)
    content = (root/'often'/'often_0.mp4').read_bytes()
    (root/'seldom').mkdir()
    for place in range(1000): (root/'often'/f'{place}.mp4').write_bytes(content + place.to_bytes(4, 'big'))
    for place in range(10): (root/'seldom'/f'{place}.mp4').write_bytes(content + (5000 + place).to_bytes(4, 'big'))
    read = open_any(root)
    found = har_nb.data.audit.audit(read.holdout(.3), files=False).findings
    assert '1001 clips of often, 10 of seldom' in found.detail[found.check == 'uneven classes'].iloc[0]
    for part in (read.holdout(.3), *read.folds(5)):
        assert {'train', 'test'} <= set(part.clips.split[part.clips.label == 'seldom'])
    assert set(read.holdout(.3).carve_validation(.3).clips.split[read.clips.label == 'seldom']) == {
        'train', 'valid', 'test'
    }
    assert accounted(root) == {'used': 1011}


# 04 to 08, 15: files that are read as players show them

# 30, then 15 frames a second
STEPS = tuple(Fraction(t, 30) for t in range(20)) + tuple(Fraction(20 + 2*t, 30) for t in range(20))
VIDEOS = { # case -> a file of it
    '04 trimmed': lambda made, folder: footage.trimmed(folder/'trimmed.mp4', made('h264'), 15),
    '05 sound longer than the picture': lambda made, folder: made('h264', '.mkv', sound=5),
    '05 the picture begins late': lambda made, folder: made('h264', '.mkv', sound=5, start=2),
    '05 variable rate': lambda made, folder: made('vp8', times=STEPS),
    '06 browser': lambda made, folder: footage.as_browsers_record(folder/'browser.webm', made('vp8')),
    '07 mirrored': lambda made, folder: footage.turned(folder/'mirrored.mp4', made('h264'), footage.ACROSS),
    '08 phone': lambda made, folder: made('h264', times=STEPS),
    '15 AV1': lambda made, folder: made('av1')}


@pytest.fixture
def gathered(made, tmp_path):
    "A file of every case in two classes."
    for place, (name, make) in enumerate(VIDEOS.items()):
        folder = tmp_path/'gathered'/'AB'[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        path = make(made, tmp_path)
        shutil.copy(path, folder/f'{name}{path.suffix}')
    return tmp_path/'gathered'


def test_audit_and_check_of_every_video_case(har, gathered):
    said = har('audit', gathered, '--json')
    assert said.code == 0
    assert 'variable rate' in {check for check, _ in findings(said)}
    assert accounted(gathered) == {'used': 8}
    media = {row['path'][2:4]: row for row in json.loads(said.out)['tables']['media'] if row['path'][2:4] != '05'}
    assert media['04']['n_frames'] == 25
    assert media['06']['fps'] == pytest.approx(25, abs=.1)
    assert media['08']['duration'] == pytest.approx(2, abs=.02)
    assert har('data', 'check', gathered).code == 0


def test_an_own_set_is_trained_and_its_run_predicts_every_case(har, gathered, tmp_path):
    root = listed(tmp_path/'UCF101', '.mp4', '01')
    ran = har('run', 'mei.table2', '--data', root, '--preset', 'demo', '--epochs', 1, '--size', 32, '--rows', 'normal')
    assert ran.code == 0
    assert 'on own UCF101' in ran.out
    assert 'difference' not in ran.out, 'nothing is compared with what is printed for UCF101'
    assert 'leak: train-test: 100.0%' in ran.err
    run_id = re.search(r'(\w{32})  normal', ran.out)[1]
    pictures(tmp_path/'clip'/'00001')
    (tmp_path/'link').symlink_to(gathered)
    odd = os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9.mp4')
    shutil.copy(next(gathered.rglob('08*')), odd)
    said = har('predict', gathered, tmp_path/'link', tmp_path/'clip', odd, '--run', run_id, '--top', 1,
               '--csv', tmp_path/'said.csv')
    table = pd.read_csv(tmp_path/'said.csv', keep_default_na=False)
    assert said.code == 0
    assert len(table) == 2*len(VIDEOS) + 2
    assert not table.error.any()
    assert table.path.iloc[-1].endswith('caf\\xe9.mp4')
    (gathered/'A'/'half.part').write_bytes(next(gathered.rglob('08*')).read_bytes())
    with pytest.warns(UserWarning, match='1 passed over, which may be videos: A/half.part'):
        assert har('predict', gathered, '--run', run_id).code == 0
    line = har('predict', next(gathered.rglob('08*')), '--run', run_id, '--timeline', tmp_path/'line.png',
               '--csv', tmp_path/'line.csv', '--window', .5)
    assert line.code == 0
    assert pd.read_csv(tmp_path/'line.csv').end.max() == pytest.approx(2, abs=.04), 'seconds of its time stamps'


# What nobody had tried

@pytest.mark.parametrize('minutes', [40])
def test_a_long_recording(har, tmp_path, minutes):
    "Tiny frames, 25 a second, many of them; a frame at a time is held."
    def recording():
        for t in range(25*60*minutes):
            frame = np.full((32, 32, 3), 40, np.uint8)
            frame[:, t % 32] = 255
            yield frame
    root = plain(tmp_path/'set', ('B',))
    (root/'A').mkdir()
    write_video(root/'A'/'long.mp4', recording())
    said = har('audit', root, '--json')
    row = next(row for row in json.loads(said.out)['tables']['media'] if row['path'] == 'A/long.mp4')
    assert said.code == 0 and row['duration'] == 60*minutes and row['n_frames'] == 1500*minutes


def test_interlaced_camcorder_files(har, tmp_path):
    root, clip = plain(tmp_path/'set', ('B',)), footage.drawn(20)
    (root/'A').mkdir()
    for place, suffix in enumerate(('.mpg', '.MTS', '.m2ts', '.vob')):
        made = footage.encode(root/'A'/f'{place}.mpg', np.roll(clip, place, 2), 'mpeg2', flags='+ildct+ilme')
        made.rename(made.with_suffix(suffix))
    said = har('audit', root, '--json')
    assert said.code == 0 and accounted(root) == {'used': 8}
    assert all(row['n_frames'] == 20 for row in json.loads(said.out)['tables']['media'] if row['path'].startswith('A/'))


# The table

def test_every_case_in_the_table_names_its_tests(root):
    text, named = (root/'tests'/'cases.md').read_text(encoding='utf-8'), set()
    for file in (root/'tests').rglob('test_*.py'):
        named |= {f'{file.name}::{name}'
                  for name in re.findall(r'^def (test_\w+)', file.read_text(encoding='utf-8'), re.M)}
    asked = set(re.findall(r'`(test_\w+\.py::test_\w+)`', text))
    assert len(asked) > 25 and asked <= named, asked - named
    assert {f'{number:02d}' for number in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 14, 15)} <= set(
        re.findall(r'^\|(\d\d)', text, re.M)
    )
