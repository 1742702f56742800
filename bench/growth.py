"""How time and memory grow with clips and with runs: audit, store, an epoch, the run list, `compare`. Draws
bench/growth.svg.

python bench/growth.py          # prints the rows of bench/results.md, and draws
Tiny drawn clips, every one another; runs are copies of one that MLflow logged, written straight into its SQLite store.
Every step is a process of its own.
"""
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from measure import CORES, HERE, megabytes

CLIPS, RUNS = (100, 1_000, 10_000), (100, 1_000, 5_000)
SIDE, FRAMES, EVERY = 32, 12, 4 # pixels and frames of a clip; frames from one stored one to the next
AIM = 'exponents of 1.1 at most'


def draw(folder, n):
    "Clips that differ: noise of their own that moves; ten classes, groups of four."
    import cv2
    import numpy as np

    from har_nb.data.video import write_video

    def one(number):
        rng = np.random.default_rng(number)
        picture = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (SIDE, SIDE),
                             interpolation=cv2.INTER_CUBIC)
        name, group, clip = f'class{number % 10}', number//40 + 1, number//10 % 4 + 1
        write_video(folder/name/f'v_{name}_g{group:04}_c{clip:02}.avi',
                    [np.roll(picture, frame, 1) for frame in range(FRAMES)], codec='MJPG')
    for label in range(10): (folder/f'class{label}').mkdir(parents=True)
    with ThreadPoolExecutor(CORES) as pool: list(pool.map(one, range(n)))


def some_of(folder, n, place):
    "The first n clips of a folder, by links."
    for file in sorted(folder.rglob('*.avi'), key=lambda file: (file.stem.rsplit('_g', 1)[1], file.parent.name))[:n]:
        (place/file.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(file, place/file.parent.name/file.name)
    return place


def one_run():
    "A run of `mei.table2` and one of a row in a new store, as MLflow logs them; id of the row."
    import numpy as np
    import pandas as pd

    from har_nb.learning.runs import log_metrics, log_params, log_table
    from har_nb.learning.tracking import experiment_id, open_store
    client, experiment = open_store(), experiment_id('mei.table2')
    of_table = dict(kind='table', table='mei.table2', key='0', dataset='drawn', git_sha='0', preset='demo')
    whole = client.create_run(experiment, tags=of_table, run_name='mei.table2 on drawn').info.run_id
    tags = dict(kind='row', table='mei.table2', row='normal', dataset='drawn', protocol='folds', split='fold 1/5',
                seed='0', unit='video', preset='demo', git_sha='0', key='0', leaky='False', leaked='0.0',
                decided_by='us', data_digest='0')
    row = client.create_run(experiment,
                            tags=tags | {'mlflow.parentRunId': whole}, run_name='normal, seed 0').info.run_id
    log_params({f'setting{number}': number for number in range(16)}, run_id=row)
    for epoch in range(3):
        log_metrics({f'{name}_{part}': .5 for name in ('loss', 'acc') for part in ('train', 'valid')}, epoch, row)
    log_metrics(dict(test_acc_image=.5, test_acc_video=.5, test_acc_video_balanced=.5,
                     parameters=1, gflops=1, latency_ms=1), run_id=row)
    labels = np.arange(40) % 4
    log_table(pd.DataFrame(dict(path=[f'{number}.avi' for number in range(40)],
                                group=[f'g{number//4}' for number in range(40)], label=labels,
                                predicted=np.roll(labels, 1))), 'predictions.parquet', row)
    for run in (row, whole): client.set_terminated(run, 'FINISHED')
    return row


def fill(file, row, n,
         rows=('normal', 'MEI, Gradient Division', 'two-stream', 'MEI, Equal Division', 'two-stream, Equal Division')):
    "n - 1 more runs like one that is there, each with seed, split and row of its own; all share its artifacts."
    with closing(sqlite3.connect(file)) as store, store:
        for table in ('runs', 'tags', 'params', 'metrics', 'latest_metrics'):
            columns = [about[1] for about in store.execute(f'pragma table_info({table})')]
            place = columns.index('run_uuid')
            template = store.execute(f'select * from {table} where run_uuid = ?', (row,)).fetchall()
            changed = [(*line[:place], f'{number:032x}', *line[place + 1:])
                       for number in range(1, n)
                       for line in template]
            store.executemany(f'insert into {table} values ({", ".join("?"*len(columns))})', changed)
        for number in range(1, n):
            for key, value in (
                ('row', rows[number % 5]),
                ('split', f'fold {number//5 % 5 + 1}/5'),
                ('seed', str(number//25)),
                ('key', str(number)),
            ):
                store.execute('update tags set value = ? where run_uuid = ? and key = ?',
                              (value, f'{number:032x}', key))


def opened(folder):
    from har_nb.data.lists import from_folders
    return from_folders(folder).carve_validation(.2, seed=0)


def stored(folder, cache):
    from har_nb.samples.samplers import EveryKth
    from har_nb.samples.store import Frames, decode_samples
    dataset = opened(folder)
    return dataset, decode_samples(dataset, [Frames(EveryKth(EVERY))], SIDE, cache, progress=False)[0][0]


def epoch(folder, cache, net, **choice):
    from har_nb.learning.learner import fit, make_learner
    from har_nb.samples.loaders import make_loaders
    dataset, samples = stored(folder, cache)
    def work(): fit(make_learner(make_loaders(samples, dataset, batch_size=64, **choice), net), 1, 1e-3, progress=False)
    return work


def auditing(folder, cache):
    from har_nb.data.audit import audit
    dataset = opened(folder)
    return lambda: audit(dataset, progress=False)


def alike(folder, cache):
    from har_nb.data.audit import MOMENTS, audit, survey
    dataset = opened(folder)
    seen = survey(dataset, MOMENTS, progress=False)
    return lambda: audit(dataset, seen, near_duplicates=True, progress=False)


def storing(folder, cache):
    from har_nb.samples import store  # noqa: F401 (importing is not part of what is measured)
    opened(folder)
    return lambda: stored(folder, f'{cache}.{time.monotonic_ns()}')


def an_epoch(folder, cache):
    from har_nb.models.backbones import small_resnet
    return epoch(folder, cache, small_resnet(num_classes=10))


def chosen_clips(folder, cache):
    from har_nb.models.backbones import small_resnet
    from har_nb.models.two_stream import EmbedClips
    from har_nb.samples.samplers import OneClip
    return epoch(folder, cache, EmbedClips(small_resnet(num_classes=10), [1, 2]), choice=OneClip(2))


def run_list(folder, cache):
    from har_nb.learning.runs import runs_table
    from har_nb.learning.tracking import open_store
    open_store()
    return lambda: runs_table('mei.table2')


def comparing(folder, cache):
    from har_nb.experiments.results import compare
    from har_nb.learning.tracking import open_store
    from har_nb.papers.mei.tables import table2
    open_store()
    return lambda: compare(table2)


OF_CLIPS = {'audit': auditing, 'audit, near duplicates alone': alike, 'store': storing,
            'epoch': an_epoch, 'epoch, clips chosen of stored frames': chosen_clips}
OF_RUNS = {'run list': run_list, 'compare': comparing}


def work(name, folder, cache):
    "One step in this process: its seconds, and the megabytes that it takes above what was there before."
    step = (OF_CLIPS | OF_RUNS)[name](folder, cache)
    try: Path('/proc/self/clear_refs').write_text('5') # the peak begins anew
    except OSError: pass
    before, spent = megabytes('VmRSS'), []
    while not spent or len(spent) < 3 and sum(spent) < 1:
        start = time.perf_counter()
        step()
        spent.append(time.perf_counter() - start)
    print(json.dumps((sorted(spent)[len(spent)//2], max(megabytes() - before, .1))))


def alone(*arguments, **environment):
    "This file in a process of its own: its last line."
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get('PYTHONPATH')]))
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)],
                          capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=path) | environment)
    if done.returncode: raise RuntimeError(f'{" ".join(map(str, arguments))}: {done.stderr.strip()[-2000:]}')
    return done.stdout.splitlines()[-1]


def measured(name, folder, cache):
    return json.loads(alone('--work', name, folder, cache, MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db'))
def template(uri): return alone('--store', MLFLOW_TRACKING_URI=uri)


def exponent(sizes, values):
    "Slope between the last two on logarithmic axes: 1 is linear."
    return math.log(values[-1]/values[-2])/math.log(sizes[-1]/sizes[-2])


def grown(folder, clips, runs):
    "Step -> (sizes, (seconds, megabytes) of each); as they come."
    (folder/'all').mkdir()
    draw(folder/'all', max(clips))
    sets = {n: some_of(folder/'all', n, folder/f'{n} clips') for n in clips}
    for name in OF_CLIPS:
        yield name, clips, [measured(name, sets[n], folder/f'cache {n} {name}') for n in clips]
    (folder/'runs').mkdir()
    row = template(f'sqlite:///{folder}/runs/mlflow.db')
    for n in runs:
        (folder/f'{n} runs').mkdir()
        shutil.copy(folder/'runs'/'mlflow.db', folder/f'{n} runs')
        fill(folder/f'{n} runs'/'mlflow.db', row, n)
    for name in OF_RUNS: yield name, runs, [measured(name, folder/f'{n} runs', folder) for n in runs]


def picture(found, file):
    "Seconds and megabytes over sizes, on logarithmic axes, with a linear one to compare with."
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    matplotlib.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'growth', 'font.size': 8})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    for ax, column, title in zip(axes, (0, 1), ('seconds', 'megabytes above the start'), strict=True):
        for name, sizes, values in found:
            ax.plot(sizes, [one[column] for one in values],
                    marker='o', markersize=3, linewidth=1.2, linestyle='--' if name in OF_RUNS else '-', label=name)
        ends = min(sizes[0] for _, sizes, _ in found), max(sizes[-1] for _, sizes, _ in found)
        base = min(one[column] for _, _, values in found for one in values)
        ax.plot(ends, [base, base*ends[1]/ends[0]], color='.7', linewidth=3, zorder=0, label='linear')
        ax.set(xscale='log', yscale='log', xlabel='clips, or runs (dashed)', title=title)
        ax.grid(which='major', color='.9')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right upper', frameon=False)
    figure.savefig(file, metadata=dict(Date=None) if str(file).endswith('.svg') else None)
    plt.close(figure)


def rows(folder, clips=CLIPS, runs=RUNS, file=HERE/'growth.svg'):
    found = []
    for name, sizes, values in grown(folder, clips, runs):
        found.append((name, sizes, values))
        took, took_up = zip(*values, strict=True)
        what = 'runs' if name in OF_RUNS else f'clips of {FRAMES} frames'
        yield (f'{name}; {", ".join(f"{n:,}" for n in sizes)} {what}',
               f'{", ".join(f"{x:.2f}" for x in took)} s: exponent {exponent(sizes, took):.2f}; '
               f'{", ".join(f"{x:,.0f}" for x in took_up)} MB above the start: exponent {exponent(sizes, took_up):.2f}',
               AIM)
    picture(found, file)
    yield ('the same as a picture; exponents are slopes between the last two sizes',
           f'![growth]({Path(file).name})', 'told')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--work']: work(*sys.argv[2:])
    elif sys.argv[1:2] == ['--store']: print(one_run())
    else:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(Path(folder)): print(' | '.join(row), flush=True)
