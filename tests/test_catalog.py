"""The catalog: published lists to published counts, mistakes by file and line, sets that are fetched from a server on
this computer."""
import functools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from footage import drawn, encode, numbers
from test_download import rar4, serve, server, tarred, zipped  # noqa: F401

from har_nb.data import catalog
from har_nb.data.catalog import (
    CATALOG,
    HMDB51,
    KTH,
    KTH_PEOPLE,
    MINI_KINETICS,
    SEAGS_V1,
    SOMETHING_V1,
    SUPERVISELY_PERSONS,
    UCF101,
    Part,
    get,
    hmdb51_group,
    laid_out,
    named,
    overlapping,
    own_name,
    person_mask,
    recognise,
)
from har_nb.data.download import DownloadError
from har_nb.data.lists import ListError
from har_nb.data.video import probe, write_video

QUICK = dict(progress=False, pause=.01, attempts=2)


def write(path, *lines, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', **how)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    "The bytes of a video, 30 frames."
    path = tmp_path_factory.mktemp('video')/'clip.avi'
    write_video(path, np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8), codec='MJPG')
    return path.read_bytes()


# The published lists

@pytest.mark.parametrize('split', [1, 2, 3])
def test_ucf101_lists(published, split):
    dataset = UCF101.open(published('ucf101'), split, must_exist=False)
    assert dataset.summary().loc['all'].to_dict() == {**UCF101.counts[split], 'groups': 101*25}
    assert (len(dataset), len(dataset.classes), dataset.name, dataset.protocol) == (13320, 101, 'UCF101', 'official')
    assert dataset.clips.group.groupby(dataset.clips.label).nunique().eq(25).all()
    assert dataset.overlap().loc['train-test', ['groups_shared', 'clips_touched']].tolist() == [0, 0]
    assert not dataset.leaky


@pytest.mark.parametrize('seed', range(2))
def test_a_random_draw_of_ucf101_leaks(published, seed):
    dataset = UCF101.open(published('ucf101'), protocol='paper', must_exist=False, seed=seed)
    assert (len(dataset.train), len(dataset.test), dataset.protocol) == (10656, 2664, 'paper')
    assert dataset.overlap().loc['train-test', 'share'] > .99 and dataset.leaky


@pytest.mark.parametrize('split', [1, 2, 3])
def test_hmdb51_lists(published, split):
    dataset = HMDB51.open(published('hmdb51'), split, must_exist=False)
    assert HMDB51.counts[split] == dict(train=3570, test=1530)
    assert dataset.summary().loc['all', ['train', 'test']].to_dict() == HMDB51.counts[split]
    assert dataset.summary()[['train', 'test']].iloc[:-1].eq([70, 30]).all(axis=None) and len(dataset.classes) == 51
    assert not dataset.leaky and '1666 clips marked 0 unused' in dataset.source
    films = dataset.clips.group.str.partition('/')[2]
    by_film = replace(dataset, clips=dataset.clips.assign(group=films))
    assert by_film.leaky, 'film alone would call the official split leaky'


def test_hmdb51_in_all(published):
    everything = HMDB51.read(published('hmdb51'), None, False)
    assert len(everything) == HMDB51.clips == 6766 and everything.protocol == 'unsplit'
    drawn = HMDB51.open(published('hmdb51'), protocol='paper', must_exist=False)
    assert len(drawn) == 6766 and .75 < drawn.overlap().loc['train-test', 'share'] < .9


def test_kth_text(published):
    dataset = KTH.open(published('kth'), must_exist=False)
    assert (len(dataset), dataset.clips.path.nunique(), len(dataset.classes), dataset.clips.group.nunique()) == (
        2391, 599, 6, 25
    )
    assert dataset.summary().loc['all', ['train', 'valid', 'test']].to_dict() == KTH.counts[1]
    assert sorted(person for people in KTH_PEOPLE.values() for person in people) == list(range(1, 26))
    assert 'handclapping/person13_handclapping_d3_uncomp.avi' not in set(dataset.clips.path)
    assert dataset.spans[:2] == [(0, 95), (100, 195)] and not dataset.leaky
    two = KTH.open(published('kth'), protocol='16/9', must_exist=False)
    assert two.summary().loc['all', ['train', 'test']].to_dict() == dict(train=1528, test=863) and not two.leaky
    assert KTH.open(published('kth'), protocol='paper', must_exist=False).overlap().loc['train-test', 'share'] == 1
    assert overlapping(dataset) == []


def test_mini_kinetics_lists(tmp_path):
    ids = {'train': [f'{n:011d}' for n in range(80000)], 'val': [f'{n:011d}' for n in range(80000, 85000)]}
    for part, names in ids.items(): write(tmp_path/f'{part}_ytid_list.txt', *names)
    with pytest.raises(ListError, match='kinetics400.*train.csv: cannot be opened'):
        MINI_KINETICS.open(tmp_path, must_exist=False)
    for part, file in (('train', 'train'), ('val', 'validate')):
        write(tmp_path/'kinetics400'/f'{file}.csv', 'label,youtube_id,time_start,time_end,split',
              *(f'"class {i % 200}",{name},1,11,{part}' for i, name in enumerate(ids[part])))
    dataset = MINI_KINETICS.open(tmp_path, must_exist=False)
    assert dataset.summary().loc['all'].to_dict() == {**MINI_KINETICS.counts[1], 'groups': 85000}
    assert len(dataset.classes) == 200


def test_lists_alone_pass_their_check_but_for_the_files(published):
    for entry, name in ((UCF101, 'ucf101'), (HMDB51, 'hmdb51'), (KTH, 'kth')):
        assert recognise(published(name)) is entry
        report = entry.check(published(name), progress=False)
        assert report[report.severity == 'error'].problem.tolist() == ['missing'] and len(report) == 1


def test_the_published_lists_themselves(shared_data):
    """Doubles test_ucf101_lists, test_hmdb51_lists, test_kth_text and
    test_lists_alone_pass_their_check_but_for_the_files, on the lists that may not be passed on; and KTH's own nine
    mistakes."""
    for entry, name in ((UCF101, 'ucf101'), (HMDB51, 'hmdb51'), (KTH, 'kth')):
        folder = shared_data/'lists'/name
        assert recognise(folder) is entry
        for number, counts in entry.counts.items():
            assert entry.open(folder, number, must_exist=False).summary().loc['all', list(counts)].to_dict() == counts
        assert len(overlapping(entry.open(folder, must_exist=False))) == (9 if entry is KTH else 0)


# Mistakes

def ucf101(folder, mistake=None):
    write(folder/'ucfTrainTestlist'/'classInd.txt', '1 Archery', '2 Bowling', newline='\r\n')
    for number in (1, 2, 3):
        write(folder/'ucfTrainTestlist'/f'trainlist0{number}.txt', *(
            f'{label}/v_{label}_g0{i}_c01.avi {k}' for k, label in enumerate(('Archery', 'Bowling'), 1) for i in (1, 2)
        ))
        write(folder/'ucfTrainTestlist'/f'testlist0{number}.txt',
              *(f'{label}/v_{label}_g03_c01.avi' for label in ('Archery', 'Bowling')))
    return [f'{label}/v_{label}_g0{i}_c01.avi' for label in ('Archery', 'Bowling') for i in (1, 2, 3)]


def test_every_fault_of_ucf101s_lists_in_one_error(tmp_path):
    ucf101(tmp_path)
    with (tmp_path/'ucfTrainTestlist'/'trainlist02.txt').open('a') as file:
        file.write('Archery/../../x_g01_c01.avi 1\n'
                   'Archery/v_Archery_g01_c01.avi 1\n'
                   'Archery/v_Archery_g09_c01.avi 0\n'
                   'Swim/v_Swim_g01_c01.avi 1\n')
    with pytest.raises(ListError) as caught: UCF101.open(tmp_path, 2, must_exist=False)
    assert [line for _, line, _ in caught.value.problems] == [5, 6, 7, 8]
    report = UCF101.check(tmp_path, files=False, progress=False)
    assert report[report.problem == 'malformed list'].path.tolist() == [
        f'trainlist02.txt:{line}' for line in (5, 6, 7, 8)
    ]


@pytest.mark.parametrize('line,message', [
    ('Heat_run_u_nm_np1_fr_goo_0.avi 3', 'is not a name and 0, 1 or 2'),
    ('Heat_run_u_nm_np1_fr_goo_0.avi', 'is not a name'),
    ('../evil.avi 1', 'leaves the folder'),
    ('one.avi 1', 'is already in'),
    ('notes.txt 1', 'is not a name'),
])
def test_faults_of_hmdb51s_lists(tmp_path, line, message):
    write(tmp_path/'run_test_split1.txt', 'one.avi 1 ', '', 'two.avi 2', line, newline='\r\n', encoding='utf-8-sig')
    with pytest.raises(ListError, match=f'run_test_split1.txt:4: .*{message}'): HMDB51.open(tmp_path, must_exist=False)
    with pytest.raises(ListError, match='there are no lists'): HMDB51.open(tmp_path, 3, must_exist=False)


@pytest.mark.parametrize('line,message', [
    ('person26_boxing_d1 frames 1-9', 'not one of the 25'),
    ('person02_boxing_d1 frames 9-1', 'not a first and a last frame'),
    ('person02_boxing_d1 frames 0-5', 'counted from 1'),
    ('person02_boxing_d1 frames 1-5, 7', "'7' is not"),
    ('person02_boxing_d1 frames one', 'not a video and its frames'),
    ('prson02_boxing_d1 frames 1-5', 'not a video'),
    ('person01_boxing_d1 frames 1-5', 'already in'),
])
def test_faults_of_kths_text(tmp_path, line, message):
    write(tmp_path/'00sequences.txt', 'The sequences of the database:',
          '', 'person01_boxing_d1\t\tframes\t1-95, 96-185', line)
    with pytest.raises(ListError, match=f'00sequences.txt:4: .*{message}'): KTH.open(tmp_path, must_exist=False)


def test_faults_of_something_somethings_lists(tmp_path, video):
    write(tmp_path/'something-something-v1-labels.csv', 'Holding something', 'Pushing something, slowly')
    write(tmp_path/'something-something-v1-train.csv', '1;Holding something',
          'two;Holding something', '3;Dropping something')
    write(tmp_path/'something-something-v1-validation.csv', '4;Pushing something, slowly', '1;Holding something')
    with pytest.raises(ListError) as caught: SOMETHING_V1.open(tmp_path, must_exist=False)
    assert [(file.rsplit('-', 1)[1], line) for file, line, _ in caught.value.problems] == [
        ('train.csv', 2),
        ('train.csv', 3),
        ('validation.csv', 2),
    ]
    write(tmp_path/'something-something-v1-train.csv', '1;Holding something')
    write(tmp_path/'something-something-v1-validation.csv', '4;Pushing something, slowly')
    write(tmp_path/'something-something-v1-test.csv', '5')
    for number in (1, 5, 6):
        folder = tmp_path/'20bn-something-something-v1'/str(number)
        folder.mkdir(parents=True)
        for i in range(1, 4): cv2.imwrite(str(folder/f'{i:05d}.jpg'), np.full((32, 32, 3), i, np.uint8))
    with pytest.raises(ListError, match='validation.csv:1: there is no file 20bn-something-something-v1/4'):
        SOMETHING_V1.open(tmp_path)
    report = SOMETHING_V1.check(tmp_path, workers=1, progress=False)
    rows = set(zip(report.path, report.problem, strict=True))
    assert {('20bn-something-something-v1/4', 'missing'), ('20bn-something-something-v1/6', 'extra')} <= rows
    assert not any(path.endswith('/5') for path, _ in rows)


def test_seags_by_its_manifest(tmp_path, video):
    paths = [f'Tennis/v_Tennis_{i}.mp4' for i in range(1, 7)]
    write(tmp_path/'classInd.txt', '1 Tennis')
    write(tmp_path/'trainlist.txt', *(f'{path} 1' for path in paths[:4]))
    write(tmp_path/'testlist.txt', *paths[4:])
    for path in paths:
        (tmp_path/path).parent.mkdir(exist_ok=True)
        (tmp_path/path).write_bytes(video)
    assert laid_out(tmp_path) is None, 'without a manifest lists are lists'
    write(tmp_path/'manifest.csv', 'path,source', *(f'{path},match {i//2}' for i, path in enumerate(paths)))
    assert laid_out(tmp_path) is SEAGS_V1
    assert recognise(tmp_path) is None, 'its form, and not its 1,169 clips of eight classes'
    assert SEAGS_V1.open(tmp_path).clips.group.tolist() == ['match 0', 'match 0', 'match 1',
                                                            'match 1', 'match 2', 'match 2']
    assert not SEAGS_V1.open(tmp_path).leaky
    assert SEAGS_V1.open(tmp_path, protocol='paper').summary().loc['all', ['train', 'test']].tolist() == [4, 2]
    report = SEAGS_V1.check(tmp_path, workers=1, progress=False)
    assert (report.severity == 'note').all() and set(report.problem) == {'wrong count'}
    write(tmp_path/'manifest.csv', 'clip,from', 'a,b')
    with pytest.raises(ListError, match='manifest.csv:1: a manifest has the columns path and source'):
        SEAGS_V1.open(tmp_path)


def test_names_protocols_and_splits(tmp_path):
    names = ('UCF101', 'hmdb-51', 'Mini-Kinetics-200', 'something_something_v1', 'SEAGS V1')
    assert [named(name) for name in names] == [UCF101, HMDB51, MINI_KINETICS, SOMETHING_V1, SEAGS_V1]
    with pytest.raises(ValueError, match='no split 4: 1, 2, 3'): UCF101.open(tmp_path, 4)
    with pytest.raises(ValueError, match="no protocol 'best': official, 16/9, paper"):
        KTH.open(tmp_path, protocol='best')
    assert recognise(tmp_path) is None and len(CATALOG) == 7
    assert [own_name(tmp_path/name) for name in ('mine', 'UCF101', 'hmdb-51 of mine')] == [
        'mine', 'own UCF101', 'own hmdb-51 of mine'
    ]
    for entry in CATALOG:
        with pytest.raises(ListError): entry.open(tmp_path)
        assert entry.licence
        assert entry.citation
        assert entry.homepage
        assert entry.layout
        assert entry.groups
        assert entry.downloads or entry.access


def test_films():
    for film, rest in (
        ('walk/prelinger_they_grow_up_so_fast_1', '_walk_f_cm_np10_ri_med_2.avi'),
        ('sword_exercise/20060723sfjffbartsinger', '_sword_exercise_f_cm_np1_ba_med_0.avi'),
    ):
        assert hmdb51_group(film + rest) == film
    assert hmdb51_group('walk/home.avi') == 'walk/home'


# Masks

def test_masks_and_their_faults(tmp_path):
    write(tmp_path/'meta.json', '{}')
    good = dict(
        size=dict(height=10, width=12),
        objects=[dict(classTitle='person_poly', points=dict(exterior=[[1, 1], [4, 1], [4, 4], [1, 4]], interior=[]))],
    )
    (tmp_path/'ds1'/'img').mkdir(parents=True)
    for name in ('a.png', 'b.jpg', 'spare.png'):
        cv2.imwrite(str(tmp_path/'ds1'/'img'/name), np.zeros((10, 12, 3), np.uint8))
    write(tmp_path/'ds1'/'ann'/'a.json', json.dumps(good))
    write(tmp_path/'ds1'/'ann'/'b.jpg.json', json.dumps(good))
    table = SUPERVISELY_PERSONS.open(tmp_path)
    assert table.picture.tolist() == ['ds1/img/a.png', 'ds1/img/b.jpg'] and table.persons.tolist() == [1, 1]
    assert person_mask(tmp_path/table.annotation[1]).sum() == 16
    (tmp_path/'ds1'/'img'/'b.jpg').write_text('no picture')
    write(tmp_path/'ds1'/'ann'/'c.png.json', json.dumps(good))
    write(tmp_path/'ds1'/'ann'/'d.json', '{"size": ')
    report = recognise(tmp_path).check(tmp_path, progress=False)
    found = set(zip(report.path, report.problem, strict=True))
    assert {(path, problem) for path, problem in found if problem != 'wrong count'} == {
        ('ds1/img/b.jpg', 'unreadable'),
        ('ds1/img/c.png', 'missing'),
        ('ds1/ann/d.json', 'malformed'),
        ('ds1/img/d', 'missing'),
        ('ds1/img/spare.png', 'extra'),
    }
    with pytest.raises(ListError, match='d.json'): SUPERVISELY_PERSONS.open(tmp_path)
    bitmap = dict(classTitle='person_bmp', bitmap=dict(data='####', origin=[0, 0]))
    for text in ('{', '[]', '{"size": {"height": 3}}', json.dumps(good | dict(objects=[bitmap]))):
        write(tmp_path/'bad.json', text)
        with pytest.raises(ListError, match='not an annotation'): person_mask(tmp_path/'bad.json')


# From a server

def test_get_ucf101(server, tmp_path, video):  # noqa: F811
    names = ucf101(tmp_path/'source')
    lists = {f'ucfTrainTestlist/{path.name}': path.read_bytes()
             for path in (tmp_path/'source'/'ucfTrainTestlist').iterdir()}
    videos = rar4({f'UCF-101/{name}': video for name in names})
    server.files |= {
        'lists.zip': serve(zipped(lists)),
        'UCF101.rar': serve(videos, upto=len(videos)//2 + 1, ETag='"1"'),
    }
    entry = replace(UCF101, clips=6, classes=2, counts={number: dict(train=4, test=2) for number in (1, 2, 3)},
                    downloads=(Part(server['lists.zip'], size=len(zipped(lists))),
                               Part(server['UCF101.rar'], size=len(videos))))
    report = get(entry, tmp_path/'ucf', workers=1, **QUICK)
    assert report.empty, report
    assert server.begins('UCF101.rar') == [0, len(videos)//2 + 1]
    assert sorted(path.name for path in (tmp_path/'ucf').iterdir() if not path.name.startswith('.')) == [
        'UCF-101', 'ucfTrainTestlist'
    ]
    assert laid_out(tmp_path/'ucf') is UCF101 and len(entry.open(tmp_path/'ucf').train) == 4
    asked = len(server.asked)
    assert get(entry, tmp_path/'ucf', files=False, **QUICK).empty and len(server.asked) == asked
    (tmp_path/'ucf'/'UCF-101'/names[0]).unlink()
    assert get(entry, tmp_path/'ucf', files=False, **QUICK).empty and len(server.asked) == asked + 2
    (tmp_path/'ucf'/'UCF-101'/names[1]).write_bytes(video[:len(video)//2])
    (tmp_path/'ucf'/'UCF-101'/'Archery'/'mine.avi').write_bytes(video)
    report = entry.check(tmp_path/'ucf', workers=1, progress=False)
    assert {('Archery/mine.avi', 'extra'), (names[1], 'truncated')} <= set(
        zip(report.path, report.problem, strict=True)
    )


def test_get_hmdb51(server, tmp_path, video):  # noqa: F811
    clips = {label: {f'{label}/{film}_{label}_u_nm_np1_fr_goo_0.avi': video for film in ('Heat', 'Alien', 'Jaws')}
             for label in ('run', 'sit')}
    lists = {}
    for label, names in clips.items():
        text = ''.join(f'{name.partition("/")[2]} {mark} \n' for mark, name in enumerate(names))
        for number in (1, 2, 3):
            lists[f'testTrainMulti_7030_splits/{label}_test_split{number}.txt'] = text.encode()
    server.files |= {
        'splits.rar': serve(rar4(lists)),
        'org.rar': serve(rar4({f'{label}.rar': rar4(names) for label, names in clips.items()})),
    }
    entry = replace(HMDB51, clips=6, classes=2, counts={number: dict(train=2, test=2) for number in (1, 2, 3)},
                    downloads=(Part(server['splits.rar']), Part(server['org.rar'])))
    report = get(entry, tmp_path/'hmdb', workers=1, **QUICK)
    assert report.empty, report
    assert laid_out(tmp_path/'hmdb') is HMDB51 and not list((tmp_path/'hmdb').rglob('*.rar'))


def test_get_kth_and_sequences_that_run_beyond_the_end(server, tmp_path, video):  # noqa: F811
    text = (
        'person01_boxing_d1 frames 1-10, 11-30\n'
        'person11_boxing_d1 frames 1-10, 11-31\n'
        'person22_walking_d1 frames 1-9, 8-20\n'
        'person13_walking_d3 *missing*\n'
    )
    server.files |= {
        '00sequences.txt': serve(text.encode(), Content_Type='text/plain'),
        'boxing.zip': serve(zipped({f'person{n}_boxing_d1_uncomp.avi': video for n in ('01', '11')})),
        'walking.zip': serve(zipped({'person22_walking_d1_uncomp.avi': video})),
    }
    entry = replace(KTH, clips=6, classes=2, counts={1: dict(train=2, valid=2, test=2)},
                    downloads=(Part(server['00sequences.txt']), Part(server['boxing.zip'], 'boxing'),
                               Part(server['walking.zip'], 'walking')))
    report = get(entry, tmp_path/'kth', workers=1, **QUICK)
    assert list(report[['path', 'problem', 'severity']].itertuples(index=False, name=None)) == [
        ('walking/person22_walking_d1_uncomp.avi', 'overlapping', 'note'),
        ('boxing/person11_boxing_d1_uncomp.avi', 'ends before its clip', 'error'),
    ]
    for path in (tmp_path/'kth').rglob('*.avi'): path.rename(tmp_path/'kth'/path.name)
    read = entry.open(tmp_path/'kth')
    assert read.clips.path[0] == 'person01_boxing_d1_uncomp.avi', 'the archives unpacked flat will do as well'


def test_get_mini_kinetics(server, tmp_path):  # noqa: F811
    pytest.importorskip('yt_dlp')
    write_video(tmp_path/'source.mp4',
                np.random.default_rng(0).integers(0, 256, (60, 32, 48, 3), dtype=np.uint8), fps=10)
    ids, head = ['kIRmvrmc2nM', '2B65vtRd5Ck', '-7tDxxH2g6I'], 'label,youtube_id,time_start,time_end,split'
    tables = {
        'kinetics400/train.csv': '\n'.join([head, *(f'archery,{name},1,4,train' for name in ids[:2])]).encode(),
        'kinetics400/validate.csv': f'{head}\narchery,{ids[2]},0,3,val\n'.encode(),
    }
    server.files |= {
        'train_ytid_list.txt': serve('\n'.join(ids[:2]).encode()),
        'val_ytid_list.txt': serve(ids[2].encode()),
        'kinetics400.tar.gz': serve(tarred(tables, 'w:gz')),
    }
    server.files |= {f'{name}.mp4': serve((tmp_path/'source.mp4').read_bytes(), Content_Type='video/mp4')
                     for name in ids[1:]}
    entry = replace(MINI_KINETICS, clips=3, classes=1, counts={1: dict(train=2, test=1)},
                    downloads=tuple(Part(server[name])
                                    for name in ('train_ytid_list.txt', 'val_ytid_list.txt', 'kinetics400.tar.gz')),
                    collect=functools.partial(catalog._collect_kinetics, address=server['{}.mp4'], attempts=1))
    report = get(entry, tmp_path/'kinetics', workers=1, **QUICK)
    assert list(report[['path', 'problem', 'severity']].itertuples(index=False, name=None)) == [
        (f'archery/{ids[0]}_000001_000004.mp4', 'not fetched', 'note'),
        (f'archery/{ids[0]}_000001_000004.mp4', 'missing', 'note'),
    ]
    assert '404' in report.detail[0]
    dataset = entry.open(tmp_path/'kinetics')
    assert dataset.source == '2 of 3 listed videos' and [probe(path).n_frames for path in dataset.paths] == [30, 30]
    gone = replace(entry,
                   collect=functools.partial(catalog._collect_kinetics,
                                             address=server['gone-{}.mp4'], attempts=1, patience=1))
    with pytest.raises(DownloadError, match='1 videos in a row could not be fetched'):
        get(gone, tmp_path/'kinetics', **QUICK)


def test_ten_seconds_of_an_uneven_file_are_ten_seconds(tmp_path):
    times = np.concatenate([np.arange(60)/30, 2 + np.arange(40)/10]) # two seconds at 30 a second, four at 10
    path = encode(tmp_path/'phone.mp4', drawn(100), times=times, bf='0')
    clip, rate = catalog._ten_seconds(path, 1, 4)
    assert numbers(clip) == [*range(30, 80)] and rate == pytest.approx(50/3)
    even = encode(tmp_path/'even.mp4', drawn(60), rate=20, bf='0')
    clip, rate = catalog._ten_seconds(even, 1, 9) # it ends before
    assert numbers(clip) == [*range(20, 60)] and rate == 20


@pytest.mark.parametrize('entry,message', [
    (SOMETHING_V1, 'An account and an agreement'),
    (SEAGS_V1, 'not released it.*har_nb.data.seags'),
    (SUPERVISELY_PERSONS, 'An account with Supervisely'),
])
def test_sets_that_no_program_can_fetch(tmp_path, entry, message):
    with pytest.raises(DownloadError) as caught: get(entry.name, tmp_path)
    said = str(caught.value)
    assert message.split('.*')[0] in said and entry.homepage in said and entry.layout.splitlines()[0] in said
    with pytest.raises(ValueError, match='no set .imagenet. in the catalog: ucf101'): get('imagenet', tmp_path)


def test_a_file_put_there_by_hand_is_used(server, tmp_path, video):  # noqa: F811
    names = ucf101(tmp_path/'ucf')
    entry = replace(UCF101, clips=6, classes=2, counts={number: dict(train=4, test=2) for number in (1, 2, 3)},
                    downloads=(Part(server['UCF101.rar']),))
    (tmp_path/'ucf'/'UCF101.rar').write_bytes(rar4({f'UCF-101/{name}': video for name in names}))
    assert get(entry, tmp_path/'ucf', files=False, keep_archives=True, **QUICK).empty and server.asked == []
    assert (tmp_path/'ucf'/'UCF101.rar').exists()
    with pytest.raises(DownloadError, match=r'404.*Or bring the file to .*UCF101.rar yourself'):
        get(entry, tmp_path/'other', files=False, **QUICK)
