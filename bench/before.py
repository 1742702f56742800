"""What became faster: the same work by an earlier commit and by this one, in turn, each in a process of its own; and
two commands that train side by side.

python bench/before.py [COMMIT]     # prints the rows of bench/results.md; COMMIT as the history of this checkout has it
"""
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# before memory was kept, channels came last for features, optimisers were fused
COMMIT = os.environ.get('BEFORE', 'dfd204d')
TIMES = 5


def work(folder, size=224, people=3, frames_of=10):
    "Name -> a function that does it once; runs with the code of either commit."
    import numpy as np
    import torch
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from torchvision.models import mobilenet_v2

    from har_nb.data.synthetic import build
    from har_nb.learning.features import frame_features
    from har_nb.learning.learner import fit, make_learner
    from har_nb.samples.store import Frame, MotionEmbedding, decode_samples
    dataset = build(folder/'sports', people=people, takes=1, size=(240, 320), progress=False)
    pictures, count = torch.randn(16, 3, size, size), iter(range(10**6))
    learner = make_learner(
        DataLoaders(*[DataLoader([(x, i % 4) for i, x in enumerate(pictures)]*n, bs=16, num_workers=0) for n in (4, 1)],
                    device='cpu'),
        mobilenet_v2(num_classes=4),
    )
    (samples,), _ = decode_samples(dataset, [Frame(1, frames_of)], size, folder/'frames', progress=False)
    net = torch.nn.Sequential(mobilenet_v2().features, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()

    def features():
        with torch.no_grad(): next(net.parameters())[:] += 1e-3*next(count) # another net: nothing is cached
        frame_features(net, samples, folder/f'features{next(count)}', progress=False)

    def storing(side):
        return lambda: decode_samples(dataset, [Frame(10, 10), MotionEmbedding(10, 10)], side,
                                      folder/f'store{next(count)}', workers=2, progress=False)
    assert np.isfinite(float(pictures.sum()))
    return {f'training MobileNetV2 at {size} pixels, batch 16': lambda: fit(learner, 1, 1e-3, progress=False),
            f'frozen features of MobileNetV2 at {size} pixels': features,
            f'frames and motion images of drawn clips into a store at {size} pixels, two workers': storing(size),
            'the same at 64 pixels': storing(64)}


def serve(folder, **settings):
    "Say what there is to do, then do what is asked for, and say how long it took."
    works = work(Path(folder), **settings)
    print('\t'.join(works), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        works[line.strip()]()
        print(time.perf_counter() - start, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024, flush=True)


class Tree:
    "A process that works with the code in a folder."
    def __init__(self, code, folder, settings):
        folder.mkdir()
        environment = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'} | dict(
            PYTHONPATH=f'{code}{os.pathsep}{Path(__file__).parent}',
            MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db',
        )
        command = [sys.executable, '-c', f'import before; before.serve({str(folder)!r}, **{settings!r})']
        self.process = subprocess.Popen(command, env=environment, cwd=folder,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.names = self.read().split('\t')
    def read(self):
        while (line := self.process.stdout.readline().strip()) == '': assert self.process.poll() is None, 'it has ended'
        return line
    def seconds(self, name):
        print(name, file=self.process.stdin, flush=True)
        return float(self.read())
    def end(self):
        "Megabytes at its peak."
        self.process.stdin.close()
        peak = int(self.read())
        self.process.wait()
        return peak


def extracted(commit, folder):
    "The code of a commit, or None where the history does not reach so far."
    folder.mkdir()
    packed = subprocess.run(['git', '-C', ROOT, 'archive', commit, 'har_nb'], capture_output=True)
    if packed.returncode: return None
    subprocess.run(['tar', '-x', '-C', folder], input=packed.stdout, check=True)
    return folder


def compared(folder, commit=COMMIT, times=TIMES, settings=None):
    "Old and new in turn; one unmeasured round first."
    aims = ('1.4 times', '2.5 times', '1.4 times', '1.4 times')
    code = extracted(commit, folder/'code')
    if code is None: return
    trees = [Tree(where, folder/name, settings or {}) for name, where in (('old', code), ('new', ROOT))]
    for name, aim in zip(trees[0].names, aims, strict=True):
        rounds = [[tree.seconds(name) for tree in trees] for _ in range(times + 1)][1:]
        old, new = map(statistics.median, zip(*rounds, strict=True))
        yield f'{name}: this commit against {commit}', f'{old/new:.2f} times as fast ({new:.2f} s, {old:.2f} s)', aim
    old, new = [tree.end() for tree in trees]
    yield f'peak memory of the process that did all of this: this commit, {commit}', f'{new:,}, {old:,} MB', 'told'


HAR = 'import sys; from har_nb.tools.cli import main; main(sys.argv[1:])'
TWO = (('mei.table2', 'normal'), ('mei_ablations.embedding', 'Gradient reversed'))


def beside(folder, people=10, epochs=8, size=64):
    "Two `har run` of different tables, each alone and both at a time, samples stored before."
    environment = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'} | dict(
        PYTHONPATH=str(ROOT), MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db', HAR_NB_DATA=str(folder)
    )
    def har(*words):
        return subprocess.Popen([sys.executable, '-c', HAR, *map(str, words)],
                                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    def waited(process):
        _, said = process.communicate()
        assert process.returncode == 0, said
        return time.perf_counter()
    def train(which, epochs):
        return har('run', which[0], '--data', folder/'sports', '--preset', 'demo', '--rows', which[1],
                   '--epochs', epochs, '--size', size, '--again')
    waited(har('data', 'synthetic', folder/'sports', '--people', people, '--takes', 1))
    for which in TWO: waited(train(which, 1))
    alone, start = [], time.perf_counter()
    for which in TWO: alone.append(waited(train(which, epochs)) - start); start = time.perf_counter()
    start, both = time.perf_counter(), [train(which, epochs) for which in TWO]
    together = [waited(process) - start for process in both]
    for which, one, two in zip(TWO, alone, together, strict=True):
        yield (f'har run {which[0]} beside another har run, against alone, on {os.cpu_count()} cores',
               f'{two/one:.2f} of its time ({two:.0f} s, {one:.0f} s)', '2.3 or less')


def rows(folder=None):
    with tempfile.TemporaryDirectory() as own:
        folder = Path(folder or own)
        for name, part in (('compared', compared), ('beside', beside)):
            (folder/name).mkdir()
            yield from part(folder/name)


if __name__ == '__main__':
    if sys.argv[1:]: COMMIT = sys.argv[1]
    for row in rows(): print(' | '.join(row), flush=True)
