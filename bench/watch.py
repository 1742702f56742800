"""`har watch`: what it sees on long takes of the built-in set, what encoding each frame once costs, and how far it is
behind on a file of a minute at its own rate.

python bench/watch.py # prints the rows of bench/results.md
"""
import tempfile
from pathlib import Path

# what the command begins with; seconds by which a frame may be off: half a twelfth of a window
WINDOW, STEP, NEAR = 2., .5, 1/12
DEMO = dict(people=30, takes=2, seed=7) # the set of `har demo`
PEOPLE, SEED = 12, 4321 # of the long takes; nobody of the demo's


def takes(people=PEOPLE, seed=SEED):
    "All actions in a row, in an order of its own for each person: frames, and what is when in seconds."
    import numpy as np

    from har_nb.data.synthetic import ACTIONS, FPS, long_take
    for person in range(1, people + 1):
        order = np.random.default_rng([seed, person]).permutation(list(ACTIONS)).tolist()
        clip, spans = long_take(order, person, seed=seed, truth=False)
        yield clip.frames, spans.assign(start=spans.start/FPS, end=spans.end/FPS)


def watched(predictor, frames, truth, fps):
    "Events of one take, and of the windows whose middle lies in an action: how many there are, how many are right."
    from har_nb.tools.events import Events, sliding
    events, found, inside, right = Events(predictor.classes), [], 0, 0
    stream = ((frame, number/fps) for number, frame in enumerate(frames))
    for start, end, pairs in sliding(stream, WINDOW, STEP, fps):
        said = predictor.of_frames([frame for frame, _ in pairs], [seconds for _, seconds in pairs])
        found.append(events.push(start, end, said.video))
        now = truth[(truth.start <= (start + end)/2) & (truth.end > (start + end)/2)]
        inside += len(now)
        right += said.top(1)[0][0] in set(now.action)
    return [event for event in [*found, events.close()] if event], inside, right


def at_rate(frames, fps):
    "The frames that a camera of another rate would have shown."
    from har_nb.data.synthetic import FPS
    return frames if fps == FPS else frames[[int(number*FPS/fps) for number in range(int(len(frames)*fps/FPS))]]


def on_takes(predictor, all_takes, fps):
    "Sums over takes, as text."
    from har_nb.tools.events import score
    total, seconds = {}, 0.
    for frames, truth in all_takes:
        length = len(frames)/fps
        events, inside, right = watched(predictor, frames, truth, fps)
        counts = score(events, truth, length) | dict(inside=inside, right=right)
        total = {name: total.get(name, 0) + number for name, number in counts.items()}
        seconds += length
    return (f'{total["found"]} of {total["actions"]} actions found, {total["missed"]} missed, '
            f'{total["false_alarms"]} false alarms in {seconds:.0f} s, '
            f'{3600*total["false_alarms"]/seconds:.0f} an hour; '
            f'{100*total["right"]/total["inside"]:.1f}% of {total["inside"]} windows right')


def trained(folder):
    "TransNet on the demo's set, by its own table and preset: the run's predictor, its accuracy."
    import os

    from har_nb.data.synthetic import build
    from har_nb.experiments.tables import run
    from har_nb.learning.predictor import load_predictor
    from har_nb.papers.transnet.tables import table2
    os.environ['MLFLOW_TRACKING_URI'] = f'sqlite:///{folder}/mlflow.db'
    dataset = build(folder/'set', progress=False, **DEMO)
    found = run(table2, dataset, rows=['MobileNet, none'], preset='demo', cache=folder/'cache', progress=False)
    return load_predictor(found.run_ids[0][0]), found.test_acc_video[0]


def events_and_reuse(folder, people=PEOPLE):
    "Events on long takes, whole windows against frames that are encoded once."
    from har_nb.data.synthetic import FPS
    from har_nb.tools.watch import Reusing
    predictor, accuracy = trained(folder)
    about = (f'TransNet (narrow MobileNet, preset demo, {accuracy:.1f}% of the test clips right) on long takes of '
             f'{people} people that it does not know, windows of {WINDOW:g} s')
    all_takes = list(takes(people))
    for fps in (FPS, 25):
        seen = [(at_rate(frames, fps), truth) for frames, truth in all_takes]
        yield f'{about}, {fps} frames a second, every window whole', on_takes(predictor, seen, fps), 'told'
        for near in (0., NEAR):
            reusing = Reusing(predictor, near)
            said = on_takes(reusing, seen, fps)
            yield f'the same, frames encoded once, near {near:.3f} s', f'{said}; {reusing.encoded} encoded', 'told'


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
        predictor.of_frames([still]*50, [number/25 for number in range(50)]) # not measured
        clock = Clock()
        found = follow(predictor, played(path, clock), clock, Events(names), WINDOW, STEP, 25., 60.)
        yield ('a file of 60 s at its own rate, TransNet on MobileNetV1 (random weights), 112 pixels, a window of '
               f'{WINDOW:g} s each {STEP:g} s, {torch.get_num_threads()} threads, {name}',
               f'{1000*found.latency():.0f} ms behind, {1000*found.latency(.95):.0f} ms for 19 of 20; '
               f'{found.dropped} of {found.frames} frames dropped, {found.skipped} of '
               f'{found.skipped + found.windows} windows too late', 'under 500 ms, none dropped')


def rows(folder):
    yield from events_and_reuse(folder)
    yield from real_time(folder)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as place:
        for row in rows(Path(place)): print(' | '.join(row), flush=True)
