"`har watch` on files, with a clock that nobody waits for."
import json
from contextlib import nullcontext
from dataclasses import replace
from importlib.machinery import SourceFileLoader

import numpy as np
import pytest
from later import collecting, parametrize

from har_nb.tools.cli import parser

if not collecting:
    import torch

    from har_nb.data.video import probe
    from har_nb.learning.predict import predict_timeline
    from har_nb.learning.predictor import Predictor, load_predictor
    from har_nb.learning.recipe import Make, Recipe
    from har_nb.learning.runs import runs_table
    from har_nb.models.backbones import small_resnet
    from har_nb.models.transnet import TransNet, scaled_mean
    from har_nb.samples.samplers import Segments, SpreadClips
    from har_nb.samples.store import Frames
    from har_nb.tools.events import Events, events_of
    from har_nb.tools.sources import Clock, SourceGone, played
    from har_nb.tools.terminal import UsageError
    from har_nb.tools.watch import Reusing, follow, reusable, watch


def wound():
    "A clock that is always where somebody waits for it to be."
    class Wound(Clock):
        def __init__(self): self.at = 0.
        def now(self): return self.at
        def wait(self, until): self.at = max(self.at, until)
    return Wound()


@pytest.fixture
def run(trained): return runs_table('mei.table2', "tags.row = 'two-stream'").run_id.iloc[0]


def asked(*words): return parser().parse_args(['watch', *map(str, words)])


def test_events_of_a_file_are_those_of_its_timeline(trained, run, tmp_path, capsys):
    "Marks so low that any net says something: of eight classes one has an eighth."
    video, how = trained.dataset.paths[0], dict(enter=.124, leave=.12, smooth=.2)
    options = [word for name, value in how.items() for word in (f'--{name}', value)]
    watch(asked(video, '--run', run, '--window', 1, '--step', .25, '--to', tmp_path/'events.jsonl', *options), wound())
    said = [json.loads(line) for line in (tmp_path/'events.jsonl').read_text().splitlines()]
    timeline = predict_timeline(load_predictor(run), video, 1., .25, progress=False)
    expected = events_of(timeline, **how)
    assert [event['action'] for event in said] == [event.action for event in expected] and said
    for event, other in zip(said, expected, strict=True):
        for name in ('start', 'end', 'score'): assert event[name] == pytest.approx(getattr(other, name), abs=1e-5)
    assert '0 left out as too late; 0 of' in capsys.readouterr().out


def test_one_window_over_a_whole_file_says_what_har_predict_says(trained, run, monkeypatch):
    video, seen = trained.dataset.paths[1], []
    from har_nb.tools import watch as module
    push = module.Events.push
    monkeypatch.setattr(module.Events, 'push', lambda self, *about: (seen.append(about[2]), push(self, *about))[1])
    watch(asked(video, '--run', run, '--window', 60), wound())
    np.testing.assert_allclose(seen, [load_predictor(run).predict(video).video], atol=1e-6)


@pytest.fixture
def by_frames():
    "A net that sees each frame by itself, its weights random numbers."
    torch.manual_seed(0)
    net = TransNet(small_resnet, 8, 12, vector=scaled_mean, size=32).eval()
    described = [Make(f'har_nb.{name}') for name in ('models.transnet:TransNet', 'samples.store:Frames')]
    return Predictor(Recipe(tuple('abcdefgh'), *described, 32), net, Frames(Segments(12)))


def test_frames_encoded_once_give_the_events_of_the_timeline(trained, by_frames):
    video, how = trained.dataset.paths[0], dict(enter=.1, leave=.09, smooth=.2)
    reusing, info = Reusing(by_frames), probe(trained.dataset.paths[0])
    clock, length = wound(), info.n_frames/info.fps
    found = follow(reusing, played(video, clock), clock, Events(by_frames.classes, **how), 1., .2, info.fps, length)
    expected = events_of(predict_timeline(by_frames, video, 1., .2, progress=False), **how)
    assert [event.action for event in found.events] == [event.action for event in expected] and expected
    for event, other in zip(found.events, expected, strict=True):
        given, wanted = ([one.start, one.end, one.score] for one in (event, other))
        np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert reusing.encoded <= info.n_frames and found.dropped == 0


def test_several_clips_of_a_window_are_averaged_as_everywhere(by_frames):
    several = replace(by_frames, modality=Frames(SpreadClips(3, 12, 3)))
    frames = np.random.default_rng(0).integers(0, 255, (60, 40, 48, 3)).astype(np.uint8)
    said = Reusing(several).of_frames(frames, [number/30 for number in range(60)])
    assert said.samples.shape == (3, 8)
    np.testing.assert_allclose(said.video, several.of_frames(frames).video, atol=1e-5)


def test_frames_of_a_source_before_are_not_taken_for_those_of_now(by_frames):
    "Two takes have frames at the same times."
    reusing, rng = Reusing(by_frames), np.random.default_rng(0)
    times = [number/30 for number in range(60)]
    for _ in range(2):
        frames = rng.integers(0, 255, (60, 40, 48, 3)).astype(np.uint8)
        for first in (0, 15, 30):
            own = frames[first:], [first/30 + seconds for seconds in times[:60 - first]]
            np.testing.assert_allclose(reusing.of_frames(*own).video, by_frames.of_frames(*own).video, atol=1e-5)


def test_only_nets_that_see_each_frame_alone_reuse_them(run, by_frames):
    assert reusable(by_frames) and not reusable(load_predictor(run))


def test_the_bench_counts_events_on_long_takes(root, by_frames, monkeypatch):
    monkeypatch.syspath_prepend(str(root/'bench'))
    bench = SourceFileLoader('bench_watch', str(root/'bench'/'watch.py')).load_module()
    (frames, truth), = bench.takes(people=1)
    assert len(truth) == 8 and truth.end.max() < len(frames)/30
    said = bench.on_takes(by_frames, [(frames, truth)], 30)
    assert said.count('0 actions found, 8 missed') == 4 and 'of 33 windows right' in said, said
    assert len(bench.at_rate(frames, 25)) == int(len(frames)*25/30)


@parametrize('error', ['ctrl-c', 'gone'], lambda: [KeyboardInterrupt, SourceGone])
def test_what_was_seen_before_the_end_is_told(trained, run, capsys, monkeypatch, error):
    "A camera is ended by Ctrl-C; one that is gone is an error, behind what it gave."
    def ending(clock):
        yield from played(trained.dataset.paths[0], clock)
        raise error('the cable')
    monkeypatch.setattr('har_nb.tools.watch.source_of', lambda word, clock, *how: (ending(clock), 30., None))
    words = asked(0, '--run', run, '--window', 1, '--enter', .124, '--leave', .01)
    with pytest.raises(SourceGone, match='cable') if error is SourceGone else nullcontext(): watch(words, wound())
    *events, told = capsys.readouterr().out.splitlines()
    assert len(events) >= 1 and told.startswith(f'{len(events)} events in') and ' 0 windows' not in told


def test_what_cannot_be_watched_is_said(trained, run, tmp_path):
    for words in (['--to', tmp_path/'events.txt'], ['--enter', .2, '--leave', .5], ['--step', 0]):
        with pytest.raises(UsageError): watch(asked(trained.dataset.paths[0], '--run', run, *words), wound())
