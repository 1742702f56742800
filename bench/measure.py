"""What all parts of the bench share: alternating times, processes of their own, steps of training, and
bench/results.md. Imports nothing but Python's own modules."""
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORES = os.cpu_count() or 1
RESULTS = HERE/'results.md'
# of the parts in results.md; others follow
ORDER = ('samples', 'before', 'where', 'instead', 'growth', 'flow', 'kpsem', 'latency', 'reading', 'watch', 'gpu')
GPU = 'make bench-gpu' # writes what needs a GPU


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(*works, times=5):
    "Median seconds of each, measured in turn so that a busy moment touches all of them; one unmeasured round first."
    rounds = [[seconds(work) for work in works] for _ in range(times + 1)][1:]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def until(work, limit, times):
    "Median seconds, of at most so many times and at most so many seconds in all; one unmeasured time first."
    work()
    spent = [seconds(work)]
    while len(spent) < times and sum(spent) + spent[-1] < limit: spent.append(seconds(work))
    return statistics.median(spent)


def python(code, *arguments):
    return subprocess.run([sys.executable, '-c', code, *map(str, arguments)],
                          check=True, capture_output=True, text=True).stdout


def exhaust(items):
    for _ in items: pass


# VmRSS: now, VmHWM: at the peak; ru_maxrss would count the parent's memory, too
def megabytes(line='VmHWM', process='self'):
    return next(int(x.split()[1])/1024 for x in open(f'/proc/{process}/status') if x.startswith(line))


def folder_bytes(folder): return sum(file.stat().st_size for file in Path(folder).rglob('*') if file.is_file())


def settled(work, device):
    "The work, and the wait for the device to be done with it."
    if device == 'cpu': return work
    import torch

    def both():
        work()
        torch.cuda.synchronize()
    return both


def peak_of(work, device):
    "Megabytes of a GPU's memory at the peak of some work, 0 elsewhere."
    import torch
    if device == 'cpu':
        work()
        return 0.
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated()/2**20


def training_step(net, inputs, labels=None, precision=None, optimizer=None):
    """A training step over one batch, as a function that also takes another batch: cross-entropy where there are
    labels, else the mean square of all that the net gives."""
    import torch
    from torch.utils._pytree import tree_leaves
    device, mixed = inputs[0].device.type, precision is not None
    optimizer = optimizer or torch.optim.SGD(net.parameters(), 1e-4, momentum=.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=mixed)

    def step(inputs=inputs, labels=labels):
        with torch.autocast(device, precision, enabled=mixed):
            found = net(*inputs)
            loss = (
                sum(x.float().square().mean() for x in tree_leaves(found))
                if labels is None
                else torch.nn.functional.cross_entropy(found, labels)
            )
        scaler.scale(loss).backward()
        scaler.step(optimizer), scaler.update(), optimizer.zero_grad(set_to_none=True)
    return step


def laid_out(thing):
    "A net, or a tensor, with the channels last in memory, of pictures and of clips."
    import torch
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if isinstance(thing, torch.Tensor):
        return thing.contiguous(memory_format=formats[thing.ndim]) if thing.ndim in formats else thing
    for parameter in thing.parameters(): parameter.data = laid_out(parameter.data)
    return thing


def half(device):
    "What mixed precision computes in."
    import torch
    return torch.float16 if device == 'cuda' else torch.bfloat16


def packages():
    found = []
    for name in ('torch', 'torchvision', 'fastai', 'opencv-python', 'numpy'):
        try: found.append(f'{name} {version(name)}')
        except PackageNotFoundError: pass
    return ', '.join(found)


class Stopwatch:
    "What stands above a table: when, where, how long it took."
    def __init__(self): self.load, self.start = os.getloadavg()[0], time.perf_counter()
    @property
    def spent(self): return time.perf_counter() - self.start
    def headed(self, rows, about=''):
        where = (
            f'{date.today()}, {platform.machine()}, {CORES} cores, {about}Python {platform.python_version()}, '
            f'{packages()}; {self.spent/60:.0f} minutes; load average before: {self.load:.1f}.'
        )
        return '\n'.join([where, '', '| what | measured | aim |', '|---|---|---|',
                          *('| ' + ' | '.join(cell.replace('|', r'\|') for cell in row) + ' |' for row in rows)])


def part_of(rows):
    "A part of results.md. `rows`: folder -> (what, measured, aim) each."
    watch, found = Stopwatch(), []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder)):
            found.append(row)
            print(' | '.join(row), flush=True)
    return watch.headed(found)


def write_part(name, text, file=None):
    "Put a part into results.md, in its place."
    file = Path(file or RESULTS)
    held = dict(part.split('\n\n', 1) for part in file.read_text().split('\n## ')[1:]) if file.exists() else {}
    held[name] = text
    names = [name for name in ORDER if name in held] + [name for name in held if name not in ORDER]
    head = (
        '# Speed\n'
        '\n'
        'Written by `make bench`, or for one part by `make bench PARTS=flow`: medians of alternating measurements. '
        f'What needs a GPU: `{GPU}`.'
    )
    file.write_text('\n\n'.join([head, *(f'## {name}\n\n{held[name].strip()}' for name in names)]) + '\n')
