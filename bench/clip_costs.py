"""Milliseconds of processor for one clip of the comparison's set, from its decoded frames to an answer, flow's own
time and the crop's counted, on one thread: the column `ms` of `papers.comparison`.

python bench/clip_costs.py [FILE] # writes results/costs/comparison.csv, which the comparison's pages read
"""
import sys
import time
from pathlib import Path

ROUNDS = 30 # all rows take turns; the fastest round of a row counts, which another process cannot make faster


def one_clip():
    from har_nb.data.sports import MEASUREMENT, draw_clip, factors_of
    return draw_clip('ClimbUp', 1, 0, factors_of(1, 0, 'hard', MEASUREMENT), MEASUREMENT).frames


def samples_of(modality, frames, size):
    import numpy as np
    found = modality.as_shown(aspect='crop').seen(iter(frames), size, len(frames))
    return np.stack([sample for sample in found if sample is not None])


def runner(row, frames, settings, which=slice(None)):
    "A function that answers one clip as the row does, with untrained weights: the time is the same."
    import torch

    from har_nb.papers.comparison import tables
    from har_nb.samples.samplers import Batches
    size, own = (settings['size'],)*2, row.settings
    look = own.get('look', tables.LOOK)
    windows = Batches(look, own.get('between', 4))(16)[which]
    net, modality = own['net'](8, size, None).build().eval(), row.modality(settings)
    if look == 1:
        def prepare(pictures): return torch.from_numpy(pictures)[windows[:, 0]].permute(0, 3, 1, 2).float()/255
    else:
        def prepare(pictures):
            clip = torch.from_numpy(pictures)[windows].permute(0, 4, 1, 2, 3).float()/255
            return clip[:, 3:] if own.get('motion') else clip
    def answer():
        with torch.inference_mode(): return net(prepare(samples_of(modality, frames, size))).softmax(1).mean(0)
    return answer


def students(row):
    "A student is timed without its teacher: only the net of frames is left of it."
    from dataclasses import replace

    from har_nb.papers.comparison import tables
    return replace(row, modality=tables.frames) if row.settings.get('mimic') else row


def measured():
    import torch

    from har_nb.papers.comparison import tables
    torch.set_num_threads(1)
    frames, settings = one_clip(), tables.SETTINGS
    trained = {row.name: students(row) for row in tables.ROWS if row.settings.get('net')}
    answers = {name: runner(row, frames, settings) for name, row in trained.items()}
    image = trained['mean over frames']
    for name, which in (('single frame', [7]), ('normal', [3, 7, 11, 15])):
        answers[name] = runner(image, frames, settings, which)
    best = dict.fromkeys(answers, float('inf'))
    for _ in range(ROUNDS):
        for name, answer in answers.items():
            began = time.process_time()
            answer()
            best[name] = min(best[name], 1000*(time.process_time() - began))
    return best | {'two-stream': best['normal'] + best['MEI']}


def main(file=None):
    import pandas as pd

    from har_nb.experiments.results import results_folder
    file = Path(file or results_folder()/'costs'/'comparison.csv')
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = pd.DataFrame([dict(row=name, ms=round(ms, 2)) for name, ms in measured().items()])
    lines.to_csv(file, index=False)
    print(lines.to_string(index=False))


if __name__ == '__main__': main(*sys.argv[1:])
