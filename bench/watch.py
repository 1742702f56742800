"""`har watch`: what it sees on long takes of the built-in set, what encoding each frame once costs, and how far it is
behind on a file of a minute at its own rate.

python bench/watch.py # prints the rows of bench/results.md
"""
import os
import tempfile
from pathlib import Path

# what the command begins with; seconds by which a frame may be off: half a twelfth of a window
WINDOW, STEP, NEAR = 2., .5, 1/12
DEMO = dict(people=30, takes=2, seed=7) # the set of `har demo`
THRESHOLDS = ((.5, .3), (.6, .4), (.4, .3), (.25, .2)) # probabilities; the first are those of the command
PEOPLE, SEED = 12, 1618 # of the long takes; nobody of the demo's, and nobody of seed 4321, by whom these were chosen


def takes(people=PEOPLE, seed=SEED):
    "All actions in a row, in an order of its own for each person: frames, and what is when in seconds."
    import numpy as np

    from har_nb.data.synthetic import ACTIONS, FPS, long_take
    for person in range(1, people + 1):
        order = np.random.default_rng([seed, person]).permutation(list(ACTIONS)).tolist()
        clip, spans = long_take(order, person, seed=seed, truth=False)
        yield clip.frames, spans.assign(start=spans.start/FPS, end=spans.end/FPS)


def windows_of(predictor, frames, fps):
    "Each window of a take, in order: start, end (seconds), probabilities."
    from har_nb.tools.events import sliding
    stream = ((frame, number/fps) for number, frame in enumerate(frames))
    return [(start, end, predictor.of_frames([frame for frame, _ in pairs], [seconds for _, seconds in pairs]).video)
            for start, end, pairs in sliding(stream, WINDOW, STEP, fps)]


def events_in(windows, classes, enter, leave):
    "What `har watch` tells of them."
    from har_nb.tools.events import Events
    events = Events(classes, enter, leave)
    found = [events.push(*window) for window in windows]
    return [event for event in [*found, events.close()] if event]


def right_in(windows, classes, truth):
    "Of the windows whose middle lies in an action: how many there are, how many have it as their best class."
    inside = right = 0
    for start, end, probabilities in windows:
        now = truth[(truth.start <= (start + end)/2) & (truth.end > (start + end)/2)]
        inside += len(now)
        right += classes[int(probabilities.argmax())] in set(now.action)
    return inside, right


def at_rate(frames, fps):
    "The frames that a camera of another rate would have shown."
    from har_nb.data.synthetic import FPS
    return frames if fps == FPS else frames[[int(number*FPS/fps) for number in range(int(len(frames)*fps/FPS))]]


def on_takes(predictor, all_takes, fps):
    "Sums over takes, as text: windows, then events for each pair of thresholds."
    from har_nb.tools.events import score
    seen = [(windows_of(predictor, frames, fps), truth, len(frames)/fps) for frames, truth in all_takes]
    hours = sum(seconds for *_, seconds in seen)/3600
    windows = [right_in(own, predictor.classes, truth) for own, truth, _ in seen]
    inside, right = map(sum, zip(*windows, strict=True))
    told = [f'{100*right/inside:.1f}% of {inside} windows right']
    for enter, leave in THRESHOLDS:
        counts = [score(events_in(own, predictor.classes, enter, leave), truth, seconds)
                  for own, truth, seconds in seen]
        found, missed, false = (sum(one[name] for one in counts) for name in ('found', 'missed', 'false_alarms'))
        told.append(f'begin above {enter:g}, end below {leave:g}: {found} actions found, {missed} missed, '
                    f'{false/hours:.0f} false alarms an hour')
    return '; '.join(told)


def trained(dataset, table, rows, **options):
    "The last of some rows of a table, by its demo preset: the run's predictor, and its accuracy on the test clips."
    from har_nb.experiments.tables import run
    from har_nb.learning.predictor import load_predictor
    found = run(table, dataset, rows=rows, preset='demo', cache=Path(dataset.root).parent/'cache', progress=False,
                **options)
    last = found.iloc[-1]
    about = f'{last.row}, preset demo, {last.test_acc_video:.1f}% of the test clips right'
    return load_predictor(last.run_ids[0]), about


def small_transnet():
    "A TransNet that learns from the set of the demo in a minute; MobileNet from random numbers learns nothing of it."
    from dataclasses import replace

    from har_nb.papers.transnet.tables import row, table2
    settings = dict(vector='scaled_mean', width=.5, lr=5e-3, epochs=15)
    return replace(table2, rows=(row('small_resnet', 'small_resnet', None, **settings),))


def events_and_reuse(folder, people=PEOPLE):
    "Events on long takes, whole windows against frames that are encoded once."
    from har_nb.data.synthetic import FPS, build
    from har_nb.papers.mei.tables import table2 as mei
    from har_nb.tools.watch import Reusing
    os.environ['MLFLOW_TRACKING_URI'] = f'sqlite:///{folder}/mlflow.db'
    dataset, all_takes = build(folder/'set', progress=False, **DEMO), list(takes(people))
    actions, seconds = sum(len(truth) for _, truth in all_takes), sum(len(frames) for frames, _ in all_takes)/FPS
    where = (f'{actions} actions in long takes ({seconds:.0f} s) of {people} people that it does not know, windows of '
             f'{WINDOW:g} s')
    predictor, about = trained(dataset, mei, ['two-stream'])
    yield f'mei.table2 ({about}): {where}', on_takes(predictor, all_takes, FPS), 'told'
    predictor, about = trained(dataset, small_transnet(), None, protocols=('official',))
    for fps in (FPS, 25):
        seen = [(at_rate(frames, fps), truth) for frames, truth in all_takes]
        yield (f'TransNet ({about}): the same at {fps} frames a second, every window whole',
               on_takes(predictor, seen, fps), 'told')
        for near in (0., NEAR):
            reusing = Reusing(predictor, near)
            said = on_takes(reusing, seen, fps)
            yield (f'the same, frames encoded once, a neighbour within {near:.3f} s taken for a frame',
                   f'{said}; {reusing.encoded} frames encoded', 'told')


def minute(folder, seconds=60, fps=25):
    "A file of a minute, drawn."
    from itertools import cycle, islice

    from har_nb.data.video import write_video
    frames = (frame for frames, _ in cycle(list(takes(3))) for frame in frames)
    return write_video(folder/'minute.avi', islice(frames, seconds*fps), fps, codec='MJPG').path


def real_time(folder):
    "How far the answers are behind, on a clock that nobody winds."
    import numpy as np
    import torch

    from har_nb.learning.predictor import Predictor
    from har_nb.learning.recipe import Make, Recipe
    from har_nb.models.backbones import mobilenet_v1
    from har_nb.models.transnet import TransNet
    from har_nb.samples.samplers import Segments
    from har_nb.samples.store import Frames
    from har_nb.tools.events import Events
    from har_nb.tools.sources import Clock, played
    from har_nb.tools.watch import Reusing, follow
    torch.manual_seed(0)
    names, path, still = tuple('abcdefgh'), minute(folder), np.zeros((112, 144, 3), np.uint8)
    net = TransNet(mobilenet_v1, len(names), size=112).eval().to(memory_format=torch.channels_last)
    made = [Make(f'har_nb.{name}') for name in ('models.transnet:TransNet', 'samples.store:Frames')]
    whole = Predictor(Recipe(names, *made, 112), net, Frames(Segments(12)))
    for name, predictor in (('every window whole', whole), ('frames encoded once', Reusing(whole)),
                            (f'frames encoded once, near {NEAR:.3f} s', Reusing(whole, NEAR))):
        predictor.of_frames([still]*50, [number/25 - 10 for number in range(50)]) # not measured
        clock = Clock()
        found = follow(predictor, played(path, clock), clock, Events(names), WINDOW, STEP, 25., 60.)
        yield ('a file of 60 s at its own rate, TransNet on MobileNetV1 (random weights), 112 pixels, a window of '
               f'{WINDOW:g} s each {STEP:g} s, threads: {torch.get_num_threads()}, load average '
               f'{os.getloadavg()[0]:.1f}; {name}',
               f'{1000*found.latency():.0f} ms behind, {1000*found.latency(.95):.0f} ms for 19 of 20; '
               f'{found.dropped} of {found.frames} frames dropped, {found.skipped} of '
               f'{found.skipped + found.windows} windows too late', 'under 500 ms, none dropped')


def rows(folder):
    yield from events_and_reuse(folder)
    yield from real_time(folder)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as place:
        for row in rows(Path(place)): print(' | '.join(row), flush=True)
