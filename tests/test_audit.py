"""The audit: each fault planted alone is found and nothing else; splits as published; crashes, JSON, near duplicates,
real sets."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import har_nb.data.audit as module
from har_nb.data.audit import Audit, audit, confounds, copies, near_duplicates, survey
from har_nb.data.dataset import ActionDataset
from har_nb.data.lists import from_csv, from_folders, from_lists, open_dataset, ucf101_group
from har_nb.data.look import Moments, fingerprints, look
from har_nb.data.video import write_video

CLASSES, GROUPS = ('jump', 'run'), 6


def film(seed, n_frames=30, size=(48, 64)):
    "A textured scene with something moving in it."
    random = np.random.default_rng(seed)
    scene = cv2.resize(random.integers(0, 256, (6, 8, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    frames = np.repeat(scene[None], n_frames, 0)
    for t, frame in enumerate(frames):
        cv2.circle(frame, (8 + t*48//n_frames, 24), 6, random.integers(0, 256, 3).tolist(), -1)
    return frames


@pytest.fixture(scope='session')
def sound_files(tmp_path_factory):
    "Two classes, six groups, two clips each."
    root = tmp_path_factory.mktemp('audit')/'set'
    for c, name in enumerate(CLASSES):
        (root/name).mkdir(parents=True)
        for g in range(GROUPS):
            for i in (0, 1):
                write_video(root/name/f'v_{name}_g{g:02d}_c{i + 1:02d}.avi', film(100*c + 10*g + i, 30 + 2*g),
                            codec='MJPG')
    return root


@pytest.fixture
def root(sound_files, tmp_path):
    "A set of one's own to spoil."
    return Path(shutil.copytree(sound_files, tmp_path/'set'))


@pytest.fixture
def here(monkeypatch):
    "Files are looked at in this process: no time is lost starting others."
    monkeypatch.setattr(module, 'for_each_file',
                        lambda work, items, *_: ((place, work(*item)) for place, item in enumerate(items)))


def split(root, seed=0, **kwargs): return from_folders(root, group=ucf101_group).holdout(.34, seed, **kwargs)


def found(result, *ignored):
    return {(row.check, row.severity)
            for row in result.findings.itertuples()
            if row.check not in ('few clips', *ignored)}


def resplit(dataset, **changes):
    table = dataset.clips.copy()
    for column, values in changes.items():
        for row, value in values.items(): table.loc[row, column] = value
    return ActionDataset(dataset.root, dataset.classes, table, dataset.name, dataset.protocol, dataset.split_name)


def test_nothing_is_wrong_with_a_sound_set(root, here):
    result = audit(split(root), near_duplicates=True, expected=dict(clips=24, classes=2, groups=12, jump=12))
    assert result.ok and found(result) == set() and set(result.findings.severity) <= {'note'}
    assert 'nothing' not in result.verdict and audit(from_folders(root, group=ucf101_group), expected={}).ok
    assert set(result.tables) == {'classes', 'overlap', 'media', 'copies', 'confounds', 'near_duplicates'}
    assert result.tables['near_duplicates'].empty
    assert result.tables['copies'].empty
    assert not result.tables['confounds'].found.any()


def empty(path): path.write_bytes(b'')
def page(path): path.write_text('<html>Too many requests</html>\n'*100)
def halved(path): path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
def gone(path): path.unlink()
def header(path): path.write_bytes(path.read_bytes()[:path.read_bytes().index(b'movi') + 4])


@pytest.mark.parametrize('spoil, problem', [
    (empty, 'empty'),
    (page, 'unreadable'),
    (halved, 'truncated'),
    (gone, 'missing'),
    (header, 'unreadable'),
])
def test_a_file_that_is_not_sound(root, here, spoil, problem):
    dataset = split(root)
    spoil(dataset.paths[3])
    result = audit(dataset, near_duplicates=True)
    assert found(result, 'not compared') == {(problem, 'error')} and not result.ok
    assert result.findings.subject[0] == dataset.clips.path[3] and json.loads(result.to_json())['ok'] is False
    assert audit(dataset, files=False).ok, 'the table alone says nothing of files'


def test_a_short_clip_is_a_note(root, here):
    dataset = split(root)
    result = audit(dataset, min_frames=35)
    assert found(result) == {('short', 'note')}
    assert result.ok
    assert (result.findings.check == 'short').sum() == (dataset.clips.group.str[-1].isin(list('012'))).sum()


def test_copies(root, here):
    dataset = from_folders(root, group=ucf101_group)
    paths = dict(zip(dataset.clips.path, dataset.paths, strict=True))
    shutil.copy(paths['run/v_run_g00_c01.avi'], paths['run/v_run_g00_c02.avi'])
    for same_side, expected in ((True, {('copy', 'warning')}), (False, {('copy across splits', 'error')})):
        rows = dict(enumerate(['train']*24)) | {
            i: 'test' for i, p in enumerate(dataset.clips.path)
            if '_g05' in p or (not same_side and p == 'run/v_run_g00_c02.avi')
        }
        assert found(audit(resplit(dataset, split=rows)), 'leak') == expected
    shutil.copy(paths['run/v_run_g00_c01.avi'], paths['jump/v_jump_g00_c01.avi'])
    rows = dict(enumerate(['train']*24)) | {i: 'test' for i, p in enumerate(dataset.clips.path) if '_g05' in p}
    result = audit(resplit(dataset, split=rows))
    assert found(result) == {('two labels', 'error')}
    assert 'jump and run' in result.findings.detail[0]
    assert len(result.tables['copies']) == 3
    unequal = root/'run'/'v_run_g05_c02.avi'
    unequal.write_bytes(bytes(len(unequal.read_bytes())))
    # equal size is not equal content, and a file without frames is no copy of anything
    assert len(copies(dataset, survey(dataset))) == 3


def test_leaks(root, here):
    dataset = split(root)
    files = survey(dataset)
    leaky = split(root, by='clip')
    result = audit(leaky, files)
    assert found(result) == {('leak', 'error')} and leaky.leaky
    share = leaky.overlap().loc['train-test', 'share']
    assert f'{share:.1%} of the {len(leaky.test)} test clips' in result.findings.detail[0]
    valid = audit(dataset.carve_validation(.3, by='clip'), files)
    assert found(valid) == {('leak', 'warning')} and valid.ok and 'train-valid' in set(valid.findings.subject)
    of_a_test_group = dataset.clips.index[dataset.clips.group == dataset.test.clips.group[0]]
    shared = resplit(dataset, split={of_a_test_group[0]: 'valid'})
    assert ('leak', 'warning') in found(audit(shared, files))
    assert 'valid-test' in set(audit(shared, files).findings.subject)


def test_tables_without_files(root):
    dataset = split(root)
    assert found(audit(dataset, False, expected=dict(clips=25, jump=12, run=11, test=8, diving=3))) == {
        ('count', 'error')
    }
    assert audit(dataset, False, expected=dict(clips=25, run=11, diving=3)).findings.subject[:3].tolist() == [
        'clips', 'run', 'diving'
    ]
    no_test = audit(from_folders(root), False)
    assert found(no_test) == {('no test', 'note')} and no_test.ok
    rows = {i: 'train' for i in dataset.clips.index[dataset.clips.label == 'run']}
    missing = audit(resplit(dataset, split=rows), False)
    assert found(missing) == {('class missing', 'error')} and missing.findings.subject[0] == 'run, test'
    valid = {dataset.train.clips.path[0]: 'valid'}
    divided = resplit(dataset, split={i: 'valid' for i, p in enumerate(dataset.clips.path) if p in valid})
    assert found(audit(divided, False)) == {('class missing', 'warning'), ('leak', 'warning')}
    single = from_folders(root, group=lambda path: path).holdout(.3)
    assert found(audit(single, False)) == {('no groups', 'note')}
    assert found(audit(dataset.without(dataset.clips.path), False)) == {('no clips', 'error')}
    assert found(audit(dataset.without(dataset.clips.path))) == {('no clips', 'error'), ('left out', 'note')}
    some = dataset.train.clips.path[dataset.train.clips.label == 'run'].tolist()
    runs = dataset.test.clips.path[dataset.test.clips.label == 'run'].tolist()
    uneven = audit(dataset.without(some + runs[1:]), False)
    assert ('uneven classes', 'note') in found(uneven)
    with pytest.raises(ValueError, match='near duplicates'): audit(dataset, False, near_duplicates=True)


def test_a_survey_belongs_to_its_clips(root, here):
    dataset = split(root)
    files = survey(dataset.train)
    with pytest.raises(ValueError, match='other clips'): audit(dataset, files)
    with pytest.raises(ValueError, match='no fingerprints'): audit(dataset.train, files, near_duplicates=True)


@pytest.mark.parametrize('quantity', ['duration', 'picture size', 'frame rate', 'codec'])
def test_what_tells_the_class_without_the_action(root, here, quantity):
    for seed, path in enumerate(sorted((root/'run').glob('*.avi'))):
        n_frames, fps = 30 + 2*(seed//2), 25
        size, rate, codec, length = {
            'picture size': ((60, 64), fps, 'MJPG', 1),
            'frame rate': ((48, 64), 12, 'MJPG', .48),
            'codec': ((48, 64), fps, 'XVID', 1),
        }.get(quantity, ((48, 64), fps, 'MJPG', 2))
        write_video(path, film(500 + seed, round(n_frames*length), size), rate, codec)
    dataset = split(root)
    result = audit(dataset)
    rates = result.findings[result.findings.check == 'rates']
    assert len(rates) == (quantity == 'frame rate')
    warnings = result.findings[(result.findings.severity == 'warning') & (result.findings.check != 'rates')]
    assert warnings.subject.tolist() == [quantity]
    assert result.ok
    assert found(result, 'rates') <= {('confound', 'warning'), ('confound', 'note')}
    table = result.tables['confounds'].set_index(['quantity', 'label'])
    assert (table.auc[quantity] > .95).all() and (table.auc.drop(['bytes per second', quantity], level=0) < .75).all()


def test_chance_is_no_confound():
    random, alarms = np.random.default_rng(0), 0
    for _ in range(20):
        table = pd.DataFrame(
            [(f'{c}{g}{i}.avi', c, f'{c}{g}', 'train') for c in 'abcdef' for g in range(8) for i in range(3)],
            columns=['path', 'label', 'group', 'split'],
        )
        group = pd.factorize(table.group)[0]
        def number(group=group): return random.normal(10, 1, group.max() + 1)[group] # clips of a group are filmed alike
        files = pd.DataFrame(dict(path=table.path, n_frames=50., duration=number(), fps=number(),
                                  height=number(), width=number(), codec='h264', bytes_per_second=number()))
        alarms += confounds(ActionDataset(Path(), list('abcdef'), table), files).found.any()
    assert alarms <= 3, 'one clean set in twenty may raise an alarm'
    one = table.assign(group=table.label)
    assert confounds(ActionDataset(Path(), list('abcdef'), one), files).empty


def test_parts_of_files(tmp_path, here, monkeypatch):
    "A file that holds several clips is decoded once; what is beyond its end is an error."
    write_video(tmp_path/'long.avi', np.concatenate([film(1), film(2), film(1)]), codec='MJPG')
    write_video(tmp_path/'other.avi', film(3), codec='MJPG')
    rows = [
        ('long.avi', 'a', 'p1', 'train', 0, 30),
        ('long.avi', 'b', 'p1', 'train', 30, 60),
        ('long.avi', 'a', 'p1', 'train', 60, 120),
        ('other.avi', 'b', 'p2', 'test', 0, 30),
        ('other.avi', 'a', 'p2', 'test', 5, 25),
    ]
    clips = pd.DataFrame(rows, columns=['path', 'label', 'group', 'split', 'start', 'stop'])
    dataset = ActionDataset(tmp_path, ['a', 'b'], clips, 'parts', 'official')
    decoded = []
    monkeypatch.setattr(module, 'look', lambda *item: decoded.append(item[0]) or look(*item))
    files = survey(dataset, moments=4)
    assert len(decoded) == 2
    assert files.n_frames.tolist() == [30, 30, 30, 30, 20]
    assert np.allclose(files.duration, files.n_frames/25)
    assert files.problem.dropna().to_dict() == {2: 'ends before its clip'} and '90 frames' in files.detail[2]
    assert found(audit(dataset, files)) == {('ends before its clip', 'error')}
    assert found(audit(resplit(dataset, split={0: 'test'}), False)) == {
        ('leak', 'error'),
        ('file across splits', 'error'),
    }
    pairs = near_duplicates([str(path) for path in dataset.paths], groups=list('abcde'), spans=dataset.spans)
    assert pairs[['first_clip', 'second_clip']].to_numpy().tolist()[0] == [0, 2] and pairs.distance[0] < 5


def test_a_folder_of_pictures(tmp_path):
    (tmp_path/'1').mkdir()
    for i, frame in enumerate(film(1), 1): cv2.imwrite(str(tmp_path/'1'/f'{i:05d}.jpg'), frame)
    about, prints = look(tmp_path/'1', ((0, None),), 4)
    assert (about['n_file'], about['fps'], about['codec'], about['audio'], prints[0][0].shape) == (
        30, 12, 'pictures', False, (4, 4)
    )
    assert about['bytes'] > 1000
    (tmp_path/'1'/'00007.jpg').write_bytes(b'')
    about, prints = look(tmp_path/'1', ((0, None),), 4)
    assert about['problem'] == 'unreadable' and '00007' not in str(prints)


@pytest.mark.parametrize('promised', [0, .5, 1, 1.02, 2])
def test_moments_are_evenly_spread_whatever_the_length(promised):
    for n_frames in [*range(1, 70), 1000, 4321]:
        moments = Moments(n=4)
        moments.expect(int(promised*n_frames))
        for number in range(n_frames):
            if moments.wants(number): moments.take(number)
        places = np.array(moments.pictures())
        assert len(places) == min(4, n_frames) and len(moments.kept) < 32
        assert np.abs(places/n_frames - (np.arange(len(places)) + .5)/len(places)).max() < .1 + 1/n_frames


def test_near_duplicates(root, here):
    dataset = from_folders(root, group=ucf101_group)
    original = film(100)
    copy = np.stack([cv2.imdecode(cv2.imencode('.jpg', cv2.resize(f, (96, 72)), [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
                     for f in original])
    write_video(root/'jump'/'v_jump_g90_c01.avi', copy, codec='MJPG')
    write_video(root/'run'/'v_run_g91_c01.avi', original[:, :, ::-1], codec='MJPG')
    write_video(root/'run'/'v_run_g92_c01.avi', np.full_like(original, 30), codec='MJPG')
    dataset = from_folders(root, group=ucf101_group)
    (first,) = np.flatnonzero(dataset.clips.path == 'run/v_run_g00_c01.avi')
    assert np.array_equal(film(100), original)
    rows = dict(enumerate(['train']*len(dataset))) | {
        i: 'test' for i, path in enumerate(dataset.clips.path) if any(g in path for g in ('_g05', '_g90', '_g91'))
    }
    result = audit(resplit(dataset, split=rows), near_duplicates=True)
    pairs = result.tables['near_duplicates']
    assert {(p.first, p.second, p.mirrored) for p in pairs.itertuples()} == {
        ('jump/v_jump_g90_c01.avi', 'run/v_run_g00_c01.avi', False),
        ('run/v_run_g00_c01.avi', 'run/v_run_g91_c01.avi', True),
        ('jump/v_jump_g90_c01.avi', 'run/v_run_g91_c01.avi', True),
    }
    assert pairs.distance.is_monotonic_increasing
    assert {(p.first_clip, p.second_clip) for p in pairs.itertuples()} == {
        (p.first_clip, p.second_clip) for p in pairs.itertuples() if p.first_clip < p.second_clip
    }
    assert found(result, 'confound') == {
        ('near duplicates', 'warning'),
        ('near duplicates', 'note'),
        ('not compared', 'note'),
    }
    assert result.ok
    assert 'v_run_g92_c01.avi' in result.findings.detail[result.findings.check == 'not compared'].iloc[0]
    same_group = near_duplicates(dataset.paths, groups=['x']*len(dataset))
    assert same_group.empty and same_group.attrs['left_out'] == [str(root/'run'/'v_run_g92_c01.avi')]
    assert len(near_duplicates(dataset.paths)) == len(pairs) and near_duplicates([]).empty


def test_pairs_are_found_without_comparing_every_pair_closely():
    "Against all pairs, one by one; and where a comparison of all would fill memory."
    random = np.random.default_rng(0)
    prints = random.integers(0, 2**63, (300, 4, 4), dtype=np.int64).astype(np.uint64)
    for i in range(20): prints[280 + i] = prints[i] ^ (np.uint64(1) << random.integers(0, 60, (4, 4)).astype(np.uint64))
    groups = np.arange(300)
    plain = {(i, j): module._distances(prints[i][None], prints[j][None])[0]
             for i in range(300)
             for j in range(i + 1, 300)}
    expected = {pair: distance for pair, distance in plain.items() if distance <= 32}
    assert {(int(i), int(j)): d for i, j, d in module._pairs(prints, prints, groups, 32)} == expected
    assert len(expected) == 20
    many = random.integers(0, 2**63, (4000, 4, 4), dtype=np.int64).astype(np.uint64)
    assert len(module._pairs(many, many, np.arange(len(many)), 32)) == 0


@pytest.mark.parametrize('alike', [7.5, 25, 32, 47])
def test_bands_find_what_a_comparison_of_all_pairs_finds(alike):
    "Fingerprints that differ in a tenth to a fifth of their bits, plain and mirrored, within groups and across them."
    random = np.random.default_rng(int(alike))
    prints = random.integers(0, 2**63, (240, 4, 4), dtype=np.int64).astype(np.uint64)
    flips = random.random((160, 4, 256)) < random.uniform(0, .22, (160, 1, 1))
    prints[80:] = prints[np.arange(160) % 80] ^ np.packbits(flips, axis=2).view(np.uint64)
    turned, groups = prints[random.permutation(240)], random.integers(0, 30, 240)
    for other in (prints, turned):
        found, expected = (how(prints, other, groups, alike) for how in (module._pairs, module._every_pair))
        assert len(expected) > 10
        np.testing.assert_array_equal(found, expected)


def test_clips_that_all_look_alike_are_compared_each_with_each(monkeypatch):
    "Lists would hold everybody, eleven times; the answer is the same."
    black, told = np.zeros((40, 4, 4), np.uint64), []
    every = module._every_pair
    monkeypatch.setattr(module, '_every_pair', lambda *a: told.append(1) or every(*a))
    assert len(module._pairs(black, black, np.arange(40), 32)) == 40*39/2 and told


def test_flat_pictures_have_no_fingerprint():
    plain, mirrored = fingerprints([np.full((64, 64), 7, np.uint8),
                                    np.arange(4096, dtype=np.uint16).reshape(64, 64).astype(np.uint8)])
    assert plain.shape == mirrored.shape == (1, 4) and plain.dtype == np.uint64


def test_reports(root, here):
    dataset = split(root, by='clip')
    for path in dataset.paths[:10]: page(path)
    result = audit(dataset)
    data = json.loads(result.to_json(), parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))
    assert data == result.to_dict()
    assert data['ok'] is False
    assert set(data) == {'name', 'split', 'ok', 'verdict', 'findings', 'tables'}
    assert {f['check'] for f in data['findings']} >= {'unreadable', 'leak'}
    assert len(data['tables']['media']) == 24
    assert str(root.parent) not in result.to_json()
    assert data['tables']['media'][0]['duration'] is None and data['tables']['overlap'][0]['name'] == 'train-test'
    text = result.to_markdown(most=3)
    assert '|error|unreadable|...|and 7 more|' in text
    assert text.count('unreadable') == 4
    assert str(root.parent) not in text
    assert result.findings.severity.map(['error', 'warning', 'note'].index).is_monotonic_increasing
    assert 'set, holdout by clip seed 0: 11 errors' in repr(result)
    for shown in (result, audit(dataset, False), audit(from_folders(root), False)):
        figure = shown.plot()
        figure.canvas.draw()
        assert len(figure.axes) == (3 if 'media' in shown.tables else 2)
    quiet = Audit('set', 'unsplit', result.findings[:0], {})
    assert quiet.ok and quiet.verdict == 'nothing found' and json.loads(quiet.to_json())['findings'] == []


def test_workers_survive_a_decoder_that_dies(root, tmp_path):
    "Each worker imports a decoder that dies on one file, as FFmpeg may; every other file is looked at."
    (tmp_path/'sitecustomize.py').write_text(
        'import os, cv2\n'
        'real = cv2.VideoCapture\n'
        'cv2.VideoCapture = lambda path, *rest: os._exit(11) if "v_run_g03_c01" in path else real(path, *rest)\n'
    )
    page(root/'jump'/'v_jump_g01_c01.avi')
    code = (
        'if __name__ == "__main__":\n'
        ' from har_nb.data.audit import audit\n'
        ' from har_nb.data.lists import from_folders\n'
        f' r = audit(from_folders({str(root)!r}), near_duplicates=True, workers=1)\n'
        ' print(r.to_json())'
    )
    (tmp_path/'script.py').write_text(code)
    done = subprocess.run([sys.executable, tmp_path/'script.py'],
                          capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(tmp_path)), timeout=200)
    data = json.loads(done.stdout)
    assert {(f['check'], f['subject'], f['detail']) for f in data['findings'] if f['severity'] == 'error'} == {
        ('unreadable', 'run/v_run_g03_c01.avi', 'the decoder crashes on it'),
        ('unreadable', 'jump/v_jump_g01_c01.avi', 'not a video, or cut off before its index'),
    }, done.stderr
    assert sum(row['duration'] is not None for row in data['tables']['media']) == 22 and done.stderr == ''


def test_ucf101_official_shares_nothing_and_random_shares_all(published):
    dataset = from_lists(published('ucf101'), None, 'trainlist01.txt', 'testlist01.txt', must_exist=False)
    counts = dict(clips=13320, classes=101, groups=2525, train=9537, test=3783)
    result = audit(dataset, files=False, expected=counts)
    assert result.ok and result.findings.empty and result.tables['overlap'].loc['train-test', 'share'] == 0
    random = dataset.holdout(.2, seed=1, by='clip', balanced=False)
    leaky = audit(random, files=False)
    assert not leaky.ok
    assert found(leaky) == {('leak', 'error')}
    assert leaky.tables['overlap'].loc['train-test', 'share'] > .99
    assert 'of the 2664 test clips share a group with train' in leaky.findings.detail[0]


def test_indoor_actions(shared_data, here):
    "Doubles test_nothing_is_wrong_with_a_sound_set, on real recordings."
    dataset = from_csv(shared_data/'indoor_actions'/'index.csv', group='recording').holdout(.3)
    result = audit(dataset, near_duplicates=True, expected=dict(clips=213, classes=9, groups=17, walk=64))
    assert result.ok
    assert len(result.tables['media']) == 213
    assert {'few clips', 'uneven classes'} <= set(result.findings.check), result.to_markdown()
    assert not {'copy', 'two labels', 'truncated', 'unreadable'} & set(result.findings.check)
    assert json.loads(result.to_json())['ok']


def test_cctv_fight(shared_data, here):
    "Doubles test_near_duplicates, on a real scene that stands in two groups."
    dataset = open_dataset(shared_data/'cctv_fight').holdout(.3)
    result = audit(dataset, near_duplicates=True)
    table = result.tables['confounds']
    assert result.ok and not table.found[table.quantity != 'bytes per second'].any(), result.to_markdown()
    assert (result.tables['media'].fps == 12.5).all() and (result.tables['media'].width == 160).all()
    pairs = {frozenset((p.first, p.second)) for p in result.tables['near_duplicates'].itertuples()}
    assert frozenset(('fight/fi090.mp4', 'fight/fi091.mp4')) in pairs, 'one scene in two groups'


def test_camera_clips(footage, tmp_path, here):
    for name, path in footage.items(): shutil.copy(path, tmp_path/f'{name}.mp4')
    table = pd.DataFrame([(f'{name}.mp4', name.partition('_')[0], name, 'train') for name in footage],
                         columns=['path', 'label', 'group', 'split'])
    result = audit(ActionDataset(tmp_path, sorted(set(table.label)), table, 'clips'), near_duplicates=True)
    pairs = result.tables['near_duplicates']
    assert result.ok and len(result.tables['media']) == 3, result.to_markdown()
    assert {(p.first, p.second) for p in pairs.itertuples()} <= {
        ('carphone_distorted.mp4', 'carphone_pristine.mp4'),
        ('carphone_pristine.mp4', 'carphone_distorted.mp4'),
    }
    assert len(pairs) == 1
