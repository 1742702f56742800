"""The set with power: what is drawn on purpose has no direction in time, the same seed gives the same bytes, and one
thing can be changed."""
import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from har_nb.data import sports
from har_nb.data.people import ACTIONS, ORDER_PAIRS
from har_nb.data.sports import (
    CHANGES,
    DEVELOPMENT,
    MEASUREMENT,
    Factors,
    build_sports,
    changed,
    draw_clip,
    factors_of,
    index_of,
)
from har_nb.data.synthetic import BuildError
from har_nb.data.video import frames
from har_nb.tools.data import open_any

FEW = dict(train=2, test=1, takes=1, workers=1, progress=False)
ALL = Factors(camera=1.5, effects=True, others=2, pace=1.4, height=.5)


@pytest.fixture(scope='module')
def hard(tmp_path_factory): return build_sports(tmp_path_factory.mktemp('sports')/'set', 'hard', **FEW)


def digest(root):
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob('*'))
            if path.is_file()}


@pytest.mark.parametrize('pair', ORDER_PAIRS)
@pytest.mark.parametrize('factors', [Factors(), ALL, replace(ALL, pace=.7)], ids=['plain', 'fast', 'slow'])
def test_a_pair_is_one_clip_read_both_ways(pair, factors):
    one, other = (draw_clip(name, 3, 1, factors, size=(48, 64)).frames for name in pair)
    assert np.array_equal(one[::-1], other) and not np.array_equal(one, other)


@pytest.mark.parametrize('pair', ORDER_PAIRS)
def test_without_the_person_a_pair_is_one_clip(pair):
    "So that no net can tell them apart: order pairs are at chance, whatever moves in the background."
    one, other = (draw_clip(name, 3, 1, replace(ALL, erased=True), size=(48, 64)).frames for name in pair)
    assert np.array_equal(one, other) and one.std(0).max() > 5


def test_without_the_person_a_pair_is_one_file(hard, tmp_path):
    erased = changed(hard, tmp_path/'erased', CHANGES['person erased'], workers=1, progress=False)
    assert list(erased.clips.path) == list(hard.test.clips.path)
    files = {label: path.read_bytes() for label, path in zip(erased.clips.label, erased.paths, strict=True)}
    for forth, back in ORDER_PAIRS: assert files[forth] == files[back]
    digests = {hashlib.sha256(file).hexdigest() for file in files.values()}
    assert len(digests) == 1, 'nothing but the person tells what is done'


def test_a_loop_begins_anywhere():
    "Single frames at a fixed place say nothing about the order."
    starts = [sports.take_of(person, take, Factors(), (48, 64), DEVELOPMENT).person.start
              for person in range(1, 41)
              for take in range(2)]
    assert np.abs(np.exp(1j*np.array(starts)).mean()) < .2


def test_factors_are_those_of_the_take(hard):
    index = pd.read_csv(hard.root/'index.csv')
    named = ['camera', 'effects', 'clutter', 'speed', 'distance', 'camera_amount', 'others', 'pace', 'height']
    assert (index.groupby(['person', 'take'])[named].nunique() == 1).all().all(), 'the same in every class'
    assert set(index.file) == set(hard.clips.path) and set(index.split) == {'train', 'test'}
    whole = index_of(dict(level='hard', train=56, test=24, takes=2, seed=MEASUREMENT, change={}))
    assert len(whole) == 80*2*8 and whole[whole.split == 'test'].person.nunique() == 24
    assert (whole.camera == 'moving').mean() == (whole.effects == 'yes').mean() == .5
    assert set(whole.speed) == {'slow', 'usual', 'fast'} and set(whole.distance) == {'far', 'near'}
    plain = index_of(dict(level='plain', train=56, test=24, takes=2, seed=MEASUREMENT, change={}))
    assert set(plain.camera) == {'still'} and set(plain.speed) == {'usual'} and set(plain.clutter) == {'no'}


def test_pace_is_the_pace_of_the_action():
    "Slow clips last longer, and go round as often."
    for name in ('CrankForward', 'ClimbUp'):
        turns = {}
        for pace in (.7, 1., 1.4):
            take = sports.take_of(5, 0, Factors(pace=pace), (48, 64), DEVELOPMENT)
            poses = ACTIONS[name].movement(take.phase, take.person)['prop']
            turns[pace] = np.abs(np.diff(poses[take.phase > 0])).mean()
        assert turns[.7] < turns[1.] < turns[1.4] and 1.6 < turns[1.4]/turns[.7] < 2.5


def test_the_same_seed_gives_the_same_bytes(hard, tmp_path):
    again = build_sports(tmp_path/'again', 'hard', **FEW)
    assert digest(again.root) == digest(hard.root) and again.digest == hard.digest
    other = build_sports(tmp_path/'other', 'hard', seed=MEASUREMENT, **FEW)
    assert set(digest(other.root).values()) & set(digest(hard.root).values()) <= {digest(hard.root)['classInd.txt']}


def test_a_folder_of_something_else_is_left_alone(hard, tmp_path):
    with pytest.raises(BuildError, match="level 'hard'"): build_sports(hard.root, 'plain', **FEW)
    (tmp_path/'mine.txt').write_text('years of work')
    with pytest.raises(BuildError, match='something else'): build_sports(tmp_path, 'plain', **FEW)
    with pytest.raises(BuildError, match='none of plain, hard'): build_sports(tmp_path/'new', 'harder', **FEW)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']
    assert build_sports(hard.root, 'hard', **FEW).digest == hard.digest


def test_one_thing_changes_at_a_time(hard, tmp_path):
    base = factors_of(3, 0, 'hard', DEVELOPMENT)
    def middle(factors): return draw_clip('Running', 3, 0, factors, shown=[30], masks=True)
    clip, placed = middle(base), middle(replace(base, place=1))
    assert np.array_equal(clip.masks, placed.masks) and not np.array_equal(clip.frames, placed.frames)
    bare, bare_placed = (middle(replace(base, place=place, effects=False)) for place in (0, 1))
    inside = bare.masks & (np.abs(np.diff(bare.masks.astype(int), axis=1, prepend=0)) == 0)
    apart = np.abs(bare.frames.astype(int) - bare_placed.frames)
    assert np.mean(apart[inside]) < .3*np.mean(apart[~bare.masks])
    still = changed(hard, tmp_path/'still', CHANGES['camera still'], workers=1, progress=False)
    assert set(pd.read_csv(still.root/'index.csv').camera) == {'still'}
    assert json.loads((still.root/'set.json').read_text())['change'] == dict(camera=0.)


def test_the_command_draws_it_and_opens_it(har, tmp_path):
    said = har('data', 'sports', tmp_path/'set', '--level', 'plain', '--train', '2', '--test', '1', '--takes', '1',
               '--workers', '1')
    assert said.code == 0 and 'ClimbUp' in said.out
    dataset = open_any(tmp_path/'set')
    assert dict(dataset.clips.split.value_counts()) == dict(train=16, test=8) and dataset.clips.group.nunique() == 3
    assert len(frames(dataset.paths[0])) >= 50, 'long enough for sixteen frames, three apart'
