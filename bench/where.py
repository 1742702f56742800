"""Where the time of `before` goes: what each part of a training step and of a build takes, and how much faster either
could be at most by what is not arithmetic of torch, OpenCV or FFmpeg.

python bench/where.py           # prints the rows of bench/results.md
"""
import mmap
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

from measure import CORES, exhaust, seconds

KINDS = {'convolution': 'convolutions', 'batch_norm': 'batch norm', 'hardtanh': 'ReLU6', 'clamp': 'ReLU6'}


def pages(megabytes=512):
    "Microseconds that the first write to a page of memory takes over the second."
    size = os.sysconf('SC_PAGE_SIZE')
    def touch(memory):
        for at in range(0, len(memory), size): memory[at] = 1
    with mmap.mmap(-1, megabytes*2**20) as memory:
        first, again = [seconds(lambda: touch(memory)) for _ in range(2)]
    yield ('a page of memory that this process has not had before, over one that it has kept',
           f'{(first - again)/(megabytes*2**20/size)*1e6:.1f} µs a page', 'told')


def shares(spent):
    "What takes how many percent, as words, the most first."
    whole = sum(spent.values())
    return ', '.join(f'{name} {100*part/whole:.0f}%' for name, part in Counter(spent).most_common())


def step(size=224, batch=16):
    "Seconds of a training step of MobileNetV2 by what computes them."
    import torch
    from measure import training_step
    from torch.profiler import ProfilerActivity, profile
    from torchvision.models import mobilenet_v2

    from har_nb.core import keep_memory
    keep_memory()
    net = mobilenet_v2(num_classes=4).to(memory_format=torch.channels_last)
    pictures = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    work = training_step(net, (pictures,), torch.arange(batch) % 4)
    for _ in range(2): work()
    with profile(activities=[ProfilerActivity.CPU]) as profiled: work()
    spent = Counter()
    for event in profiled.key_averages():
        kind = next((kind for word, kind in KINDS.items() if word in event.key), 'the rest')
        spent[kind] += event.self_cpu_time_total/1e6
    return spent


def training(**settings):
    size = settings.get('size', 224)
    yield (f'a training step of MobileNetV2 at {size} pixels, batch {settings.get("batch", 16)}, memory kept: '
           'kernels of torch and oneDNN', shares(step(**settings)), 'told')


def build(dataset, size):
    "Seconds of frames and motion images of every clip, in one thread, by what computes them."
    import cv2

    from har_nb.data.video import iter_pictures
    from har_nb.samples.store import Frame, MotionEmbedding, stream_video
    resize, spent = cv2.resize, Counter()
    def timed(*args, **options):
        start = time.perf_counter()
        try: return resize(*args, **options)
        finally: spent['resizing'] += time.perf_counter() - start
    def take(place, sample): pass
    for path in dataset.paths:
        spent['decoding'] += seconds(lambda path=path: exhaust(iter_pictures(path)))
        with mock.patch.object(cv2, 'resize', timed):
            spent['whole'] += seconds(lambda path=path: stream_video(
                path, [Frame(10, 10), MotionEmbedding(10, 10)], size, take))
    whole = spent.pop('whole')
    return spent | {'weighted sums and the rest': whole - sum(spent.values())}


def storing(folder, dataset=None, sizes=(224, 64), times=3):
    "The same clips as in `before`, or others."
    from har_nb.data.synthetic import build as draw
    from har_nb.samples.store import Frame, MotionEmbedding, decode_samples
    dataset = dataset or draw(folder/'sports', people=3, takes=1, size=(240, 320), progress=False)
    for size in sizes:
        build(dataset, size)
        spent = min((build(dataset, size) for _ in range(times)), key=lambda spent: sum(spent.values()))
        wall = statistics.median(seconds(lambda number=number, size=size: decode_samples(
            dataset, [Frame(10, 10), MotionEmbedding(10, 10)], size, folder/f'store{size}.{number}', workers=CORES,
            progress=False)) for number in range(times))
        bound = (spent['decoding'] + spent['resizing'])/CORES
        yield (f'frames and motion images of drawn clips at {size} pixels, one thread', shares(spent), 'told')
        yield (f'the same into a store, {CORES} workers, against decoding and resizing alone shared out evenly: what '
               'can be gained while pixels stay as they are', f'{wall/bound:.2f} times at most', 'told')


def rows(folder=None, **toy):
    yield from pages()
    yield from training(**toy.get('step', {}))
    with tempfile.TemporaryDirectory() as own: yield from storing(Path(folder or own), **toy.get('store', {}))


if __name__ == '__main__':
    for row in rows(): print(' | '.join(row), flush=True)
