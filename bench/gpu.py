"""What needs a GPU, in under eight minutes: speed of training of every net, waiting for data, optical flow, what KPSEM
costs. Writes the part `gpu` of bench/results.md.

make bench-gpu                       # with the environment of this checkout
make bench-gpu WHEELS=folder PYTHON=python3.12
                                     # where that Python has torch (2.11 or newer, for the GPU) and nothing can be
                                     # fetched: what the folder holds and this Python lacks goes into .venv-gpu first
                                     # (pip install --no-index --no-deps --find-links folder --target .venv-gpu)
python bench/gpu.py kpsem flow       # some parts only
python bench/gpu.py --toy            # every part on the CPU, a moment of each, nothing written: nothing is new on
                                     # the day

Every part is a process of its own with a limit of its own. What it measured before it failed, or before its time was
up, is kept, and the failure is named beside it.
A folder of wheels is made where there is a network, for the Python of the other machine; torch and what it brings may
be deleted from it, torchvision stays:
    python -m pip download --dest wheels --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64
        torchvision timm fastai opencv-python-headless av lmdb filelock pandas psutil tqdm
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from measure import HERE, RESULTS, Stopwatch, half, laid_out, peak_of, settled, training_step, until, write_part

ROOT = HERE.parent
WHOLE = 465 # seconds that all parts may take together, with what is installed before them


def kpsem(device, folder, small=False, **settings):
    from kpsem import ratio
    if small: settings |= dict(nets=small_nets())
    yield from ratio(device, **settings)


def small_nets():
    from har_nb.models.zoo import NETS
    return {net.name: net.small() for net in NETS if net.name in ('MFNet', 'MF-KPSEM')}


def flow(device, folder, batch=32, batches=(1, 8, 32, 128), **settings):
    from flow import fused, tv_l1
    shared = {name: value for name, value in settings.items() if name not in ('compiled', 'values')}
    yield from fused(device, batch=batch, **shared)
    yield from tv_l1(device, batches=batches, **settings)


def brox(device, folder, **settings):
    from flow import brox
    yield from brox(device, **settings)


def waiting(device, folder, small=False, **settings):
    from run import waiting

    from har_nb.models.backbones import small_resnet
    yield from waiting(folder, device, small_resnet if small else None, **settings)


def trained(model, shapes, device, batch, limit, precision=None, last=False):
    "Samples a second of training, and megabytes at the peak. Raises `torch.OutOfMemoryError`."
    from har_nb.models.zoo import inputs
    given, model = inputs(shapes, batch, device), model.train()
    if last: given, model = tuple(laid_out(x) for x in given), laid_out(model)
    step = settled(training_step(model, given, precision=precision), device)
    peak = peak_of(step, device)
    return batch/until(step, limit, 8), peak


def row_of(net, device, batch, limit):
    "One net: training in three ways at the largest batch that fits all of them, and its latency."
    import torch
    from latency import both, cost_of
    torch.manual_seed(0)
    model = net.make()
    what, model = cost_of(net, model), model.to(device)
    while True:
        try:
            found = [trained(model, net.shapes, device, batch, limit, *way)
                     for way in ((None, False), (half(device), False), (half(device), True))]
        except torch.OutOfMemoryError:
            if batch == 1: raise
            batch //= 2
        else: break
        torch.cuda.empty_cache()
    speeds, peaks = zip(*found, strict=True)
    return (what,
            f'training, batch {batch}: {", ".join(f"{x:,.0f}" for x in speeds)} samples/s; '
            f'{", ".join(f"{x:,.0f}" for x in peaks)} MB; inference: '
            f'{both(net.shapes, model.eval(), device, limit)} ms', 'told')


def every_net(device, folder, clips, batch, limit=.4, small=False):
    "The nets of the zoo that see clips, or those that see none."
    from dataclasses import replace

    import torch
    from latency import BATCH

    from har_nb.models.zoo import NETS
    # as training does; fewer tries, as seconds count
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 4
    yield (f'how, nets of {"clips" if clips else "images"}: training in 32 bits, in mixed precision, '
           'and that with channels last, samples/s and megabytes at the peak; inference in 32 bits, '
           f'milliseconds for 1 and for {BATCH}',
           f'median of at most 8 steps in {limit} seconds, after two; the largest batch of at most {batch} that fits, '
           'random data on the device', 'told')
    for net in NETS:
        if clips != any(len(shape) == 4 for shape in net.shapes) or small and net.name in LARGE: continue
        if small: net = replace(net, make=net.small or net.make, shapes=net.small_shapes or net.shapes)
        try: yield row_of(net, device, batch, limit)
        except Exception as error: yield net.name, failure(error), 'told'
        if device == 'cuda': torch.cuda.empty_cache()


def images(device, folder, **settings): yield from every_net(device, folder, clips=False, **settings)
def clips(device, folder, **settings): yield from every_net(device, folder, clips=True, **settings)


@dataclass(frozen=True)
class Part:
    "Some rows, and how long they may take."
    work:object # (device, folder, **settings) -> rows
    limit:float # seconds
    settings:dict # on a GPU
    toy:dict # on a CPU, in a moment


LARGE, TINY = ('efficientnet_b0', 'densenet201', 'inception_v3', 'resnet50'), dict(size=(16, 20), compiled=False)
PARTS = dict( # what matters most first: what is left of the time is for the later ones
    kpsem=Part(kpsem, 45, {}, dict(small=True, batch=2, size=(8, 48, 48), times=1)),
    flow=Part(flow, 105, {}, TINY | dict(batch=1, batches=(1,), values=2**10, warps=1, inner=2)),
    images=Part(images, 90, dict(batch=128), dict(batch=2, limit=0, small=True)),
    clips=Part(clips, 120, dict(batch=16), dict(batch=2, limit=0, small=True)),
    waiting=Part(waiting, 75, {}, dict(small=True, files=2, size=32, batch=16, times=1)),
    brox=Part(brox, 45, {}, TINY | dict(batches=(1,))))


def failure(error):
    return f'failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ""}'


def write_rows(name, device, toy, file):
    "One part, in this process: every row is a line of JSON in a file as soon as it is there."
    part = PARTS[name]
    with open(file, 'a') as out, tempfile.TemporaryDirectory() as folder:
        try:
            for row in part.work(device, Path(folder), **(part.toy if toy else part.settings)):
                print(json.dumps(row), file=out, flush=True)
        except Exception as error:
            traceback.print_exc()
            print(json.dumps((f'part {name}', failure(error), 'told')), file=out, flush=True)


def in_time(name, device, toy, limit, environment):
    "One part, in a process of its own that ends when its time is up: its rows."
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/'rows'
        file.touch()
        process = subprocess.Popen([sys.executable, __file__, '--rows', str(file), name, *['--toy']*toy],
                                   env=environment, start_new_session=True)
        try: status = process.wait(max(0, limit))
        except subprocess.TimeoutExpired: status = None
        finally:
            if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        rows = [tuple(json.loads(line)) for line in file.read_text().splitlines() if line.endswith(']')]
    if status is None:
        rows.append((f'part {name}',
                     f'failed: ended after its {limit:.0f} seconds; the rows above were measured before', 'told'))
    elif status: rows.append((f'part {name}', f'failed: its process ended with status {status}', 'told'))
    return rows


def lacking(wheels):
    "Of a folder of wheels, those whose package this Python has not got."
    def there(wheel):
        try: return bool(version(wheel.name.split('-')[0]))
        except PackageNotFoundError: return False
    return [wheel for wheel in sorted(Path(wheels).glob('*.whl')) if not there(wheel)]


def install(wheels, target=ROOT/'.venv-gpu'):
    "Put what is lacking into a folder of its own, without a network; the folder."
    if missing := lacking(wheels):
        names = [f'{name}=={number}' for name, number in (wheel.name.split('-')[:2] for wheel in missing)]
        subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps',
                        '--find-links', str(wheels), '--upgrade', '--target', str(target), *names], check=True)
    return target


def device_here():
    "Name of the GPU. Ends where there is none."
    import torch
    if not torch.cuda.is_available():
        sys.exit('no GPU that torch can use. python bench/gpu.py --toy tries every part on the CPU')
    return torch.cuda.get_device_name()


def run_parts(names, toy=False, results=None, limits=None, started=None, packages=None):
    "Run parts one after the other and write what is there after each; names of the parts that failed."
    watch, rows, failed = Stopwatch(), [], []
    if packages: sys.path.append(str(packages))
    device, name_of_it = ('cpu', 'CPU') if toy else ('cuda', device_here())
    path = os.pathsep.join(map(str, filter(None, [ROOT, os.environ.get('PYTHONPATH'), packages])))
    environment = os.environ | dict(PYTHONPATH=path) | (dict(TRITON_INTERPRET='1') if toy else {})
    before = started or time.monotonic()
    for name in names:
        limit = min((limits or {}).get(name, PARTS[name].limit), WHOLE - (time.monotonic() - before))
        found = in_time(name, device, toy, limit, environment)
        if any(measured.startswith('failed') for _, measured, _ in found): failed.append(name)
        for row in found: print(' | '.join(row), flush=True)
        rows += found
        if results: write_part('gpu', watch.headed(rows, f'{name_of_it}, '), results)
    return failed


def main(arguments):
    started = time.monotonic()
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', metavar='PART', help=', '.join(PARTS))
    parser.add_argument('--wheels', help='folder of wheels to make do with')
    parser.add_argument('--toy', action='store_true', help='on the CPU, a moment of each; nothing is written')
    parser.add_argument('--rows', help='used inside: write the rows of one part here')
    asked = parser.parse_args(arguments)
    if unknown := set(asked.parts) - set(PARTS):
        sys.exit(f'no such part: {", ".join(sorted(unknown))}. There are {", ".join(PARTS)}')
    if asked.rows: return write_rows(asked.parts[0], 'cpu' if asked.toy else 'cuda', asked.toy, asked.rows)
    failed = run_parts(asked.parts or list(PARTS), asked.toy, None if asked.toy else RESULTS,
                       started=started, packages=install(asked.wheels) if asked.wheels else None)
    if failed:
        sys.exit(f'failed, in whole or in part: {", ".join(failed)}; the rest is '
                 f'measured{"" if asked.toy else " and written"}')


if __name__ == '__main__': main(sys.argv[1:])
