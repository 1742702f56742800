"`har watch` on files, with a clock that nobody waits for."
import json

import numpy as np
import pytest
from later import collecting

from har_nb.tools.cli import parser

if not collecting:
    from har_nb.learning.predict import predict_timeline
    from har_nb.learning.predictor import load_predictor
    from har_nb.learning.runs import runs_table
    from har_nb.tools.terminal import UsageError
    from har_nb.tools.watch import Clock, events_of, watch


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


def test_what_cannot_be_watched_is_said(trained, run, tmp_path):
    for words in (['--to', tmp_path/'events.txt'], ['--enter', .2, '--leave', .5], ['--step', 0]):
        with pytest.raises(UsageError): watch(asked(trained.dataset.paths[0], '--run', run, *words), wound())
