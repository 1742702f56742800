"""Optical flow: as exact and how much faster than OpenCV's and scikit-image's, at equal parameters; and for gpu.py
pairs a second on a GPU beside the bound from bytes moved.

python bench/flow.py                    # prints the rows of bench/results.md
python bench/flow.py --reference FILE   # writes OpenCV's flow of three known motions, 64 x 80, for tests/data
The others need a Python of their own, in .venv-flow or named by FLOW_PYTHON:
    make bench-flow-env
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import HERE, peak_of, settled, until

MOTIONS = dict(translation=dict(shift=(1.7, -1.2)), rotation=dict(degrees=2), zoom=dict(zoom=1.03))
SIZE, ROUNDS, FRAMES = (240, 320), 3, 2_400_000 # pixels; processes of each, in turn; frames of UCF101
CLASSES = {'TVL1': ('har_nb.motion.flow', 'TVL1'), 'Brox': ('har_nb.motion.brox', 'Brox')}


def other_python():
    "The Python with opencv-contrib-python, or None."
    found = Path(os.environ.get('FLOW_PYTHON', HERE.parent/'.venv-flow'/'bin'/'python'))
    return found if found.exists() else None


def ours(name, compiled, pairs, out, times):
    "In a process of its own, as the others: one pair at a time, one thread."
    import importlib

    import torch
    from flow_reference import timed
    torch.set_num_threads(1)
    module, kind = CLASSES[name]
    method = getattr(importlib.import_module(module), kind)(compiled=compiled == 'compiled')
    timed(lambda before, after: method(before[None], after[None])[0].numpy(), pairs, out, int(times), torch.__version__)


def run(command, pairs, out, times=3):
    done = subprocess.run([*map(str, command), str(pairs), str(out), str(times)],
                          capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    if done.returncode: raise RuntimeError(f'{" ".join(map(str, command))}: {done.stderr.strip()[-2000:]}')
    return json.loads(done.stdout.splitlines()[-1]) | dict(flow=np.load(out))


def known_pairs(path, size):
    "Three known motions as 8-bit pictures, written for other processes; the true flow."
    from har_nb.motion.flow import known_motion
    before, after, truth = zip(*(known_motion(**motion, size=size) for motion in MOTIONS.values()), strict=True)
    np.savez(path,
             **{name: np.stack(x).round().astype(np.uint8) for name, x in dict(before=before, after=after).items()})
    return np.stack(truth)


def apart(one, other, border=0):
    distances = np.hypot(*np.moveaxis(one - other, 1, 0))
    return distances[:, border:one.shape[2] - border, border:one.shape[3] - border].mean((1, 2))


def on_a_cpu():
    what = (
        f'{len(MOTIONS)} known motions, {SIZE[1]}x{SIZE[0]}, 5 scales, zoom 0.5, 5 warps, 30 iterations, '
        'one outer, no median'
    )
    mine = {f'{name}, {way}': [sys.executable, HERE/'flow.py', '--measure', name, way]
            for name in CLASSES
            for way in ('compiled', 'eager')}
    others = {}
    if other_python():
        others = {name: [other_python(), HERE/'flow_reference.py', name] for name in ('opencv', 'skimage')}
    commands = dict(reversed([*others.items(), *mine.items()]))
    with tempfile.TemporaryDirectory() as folder:
        pairs, out = Path(folder)/'pairs.npz', Path(folder)/'out.npy'
        truth = known_pairs(pairs, SIZE)
        rounds = [{name: run(command, pairs, out) for name, command in commands.items()} for _ in range(ROUNDS)]
    seconds = {name: statistics.median(s for one in rounds for s in one[name]['seconds']) for name in commands}
    first = rounds[0]
    memory = {name: f"{first[name]['peak'] - first[name]['before']:.0f} MB" for name in commands}
    for name in mine:
        yield (f'{name}, one core, {SIZE[1]}x{SIZE[0]}',
               f"{1000*seconds[name]:.0f} ms a pair; {FRAMES*seconds[name]/3600:.0f} core hours for UCF101's "
               f"{FRAMES/1e6:.1f} million frames", 'told')
    if not others:
        yield (f'TV-L1 against OpenCV and scikit-image; {what}',
               'waits for another environment: see bench/flow.py', '4 x')
        return
    for other, shown, aim in (('opencv', "OpenCV-contrib's", '4 x'), ('skimage', "scikit-image's", 'told')):
        version = first[other]['version']
        speeds = [f'{seconds[other]/seconds[f"TVL1, {way}"]:.1f} x {way}' for way in ('compiled', 'eager')]
        yield (f'TV-L1 against {shown} ({version}), one core each; {what}',
               f'{", ".join(speeds)}: {1000*seconds[other]:.0f} ms a pair there', aim)
    yield (f'memory at the peak over that before the first call, a pair of {SIZE[1]}x{SIZE[0]} at a time; '
           'a compiler counted in', ', '.join(f'{name} {memory[name]}' for name in commands), 'told')
    errors = {name: apart(first[name]['flow'], truth, 8) for name in commands}
    yield (f'end-point error away from the border; {", ".join(MOTIONS)}',
           '; '.join(f'{name} {", ".join(f"{x:.3f}" for x in found)}'
                     for name, found in errors.items()
                     if 'eager' not in name) + ' pixels', 'under 0.1')
    yield ("mean difference of TV-L1 (compiled) to OpenCV's; the same",
           ', '.join(f'{x:.5f}' for x in apart(first['TVL1, compiled']['flow'], first['opencv']['flow'])) + ' pixels',
           'under 0.05')


def bound(device, method, bytes_per_value, size=SIZE, values=2**28):
    """Pairs a second if every iteration moved its values once: six and four in, six out, at the bandwidth that a copy
    reaches here."""
    import torch

    from har_nb.motion.flow import pyramid
    big = torch.empty(values, device=device)
    other = torch.empty_like(big)
    bandwidth = 2*big.numel()*4/until(settled(lambda: other.copy_(big), device), 2, 5)
    pixels = sum(level[0].numel()
                 for level in pyramid(torch.zeros(1, *size, device=device), method.scales, method.zoom))
    return bandwidth/(16*bytes_per_value*pixels*method.warps*method.inner*method.outer), bandwidth


def moved(device, size, batch):
    "A known motion on a device, so many times: before, after."
    import torch

    from har_nb.motion.flow import known_motion
    return [torch.from_numpy(x).to(device).expand(batch, -1, -1).contiguous()
            for x in known_motion(degrees=2, size=size)[:2]]


def pairs_per_second(method, device, size, batches):
    "For each number of pairs at a time, and megabytes at the peak."
    speeds, peak = [], 0
    for batch in batches:
        pairs = moved(device, size, batch)
        work = settled(lambda pairs=pairs: method(*pairs), device)
        peak = max(peak, peak_of(work, device))
        speeds.append(batch/until(work, 3, 5))
    return speeds, peak


def tv_l1(device, size=SIZE, batches=(1, 8, 32, 128), compiled=True, values=2**28, **settings):
    "TV-L1 in all its ways; what matters most first, as a compiler takes long."
    from har_nb.motion import flow_fused
    from har_nb.motion.flow import TVL1
    ways = {
        'one kernel for an iteration': dict(iterate=flow_fused.relax),
        'one kernel, 16-bit iterations': dict(iterate=flow_fused.relax, half=True),
        'eager': {},
    }
    if compiled:
        ways |= {'compiled': dict(compiled=True), 'compiled, 16-bit iterations': dict(compiled=True, half=True)}
    for name, way in ways.items():
        method = TVL1(**settings, **way)
        speeds, peak = pairs_per_second(method, device, size, batches)
        most, bandwidth = bound(device, method, 2 if method.half else 4, size, values)
        yield (f'TV-L1, {size[1]}x{size[0]}, {method.inner} iterations, {name}; pairs/s for batches of '
               f'{", ".join(map(str, batches))}',
               f'{", ".join(f"{x:,.0f}" for x in speeds)}; at most {most:,.0f} by {bandwidth/1e12:.2f} TB/s of a copy; '
               f'{peak:,.0f} MB at the peak; '
               f"{FRAMES/max(speeds)/3600:.1f} GPU hours for UCF101's {FRAMES/1e6:.1f} million frames", '2,000 pairs/s')


def fused(device, size=SIZE, batch=32, **settings):
    "The fused kernel against the same iterations in plain torch: how fast, and how far apart."
    from har_nb.motion import flow_fused
    from har_nb.motion.flow import TVL1
    pairs = moved(device, size, batch)
    for name, half, aim in (('32 bits', False, 'under 0.01 pixels'), ('16-bit iterations', True, 'told')):
        plain, kernel = TVL1(**settings, half=half), TVL1(**settings, iterate=flow_fused.relax, half=half)
        distance = (plain(*pairs) - kernel(*pairs)).norm(dim=1)
        spent = [until(settled(lambda method=method: method(*pairs), device), 3, 5) for method in (plain, kernel)]
        yield (f'TV-L1, fused kernel against eager, {size[1]}x{size[0]}, {batch} pairs, {name}: '
               'distance of their flows, mean and largest',
               f'{distance.mean():.6f}, {distance.max():.5f} pixels; {spent[0]/spent[1]:.1f} x as fast', aim)


def brox(device, size=SIZE, batches=(1, 32), compiled=True):
    from har_nb.motion.brox import Brox
    for name, method in {'eager': Brox(), 'compiled': Brox(compiled=True)}.items():
        if method.compiled and not compiled: continue
        speeds, peak = pairs_per_second(method, device, size, batches)
        yield (f'Brox, {size[1]}x{size[0]}, {name}; pairs/s for batches of {", ".join(map(str, batches))}',
               f'{", ".join(f"{x:,.1f}" for x in speeds)}; {peak:,.0f} MB at the peak', 'told')


def rows(folder=None): return [*on_a_cpu()]


def write_reference(path, size=(64, 80)):
    "What OpenCV says to three known motions, small enough to keep."
    if not other_python(): sys.exit('no Python with opencv-contrib-python: see the top of bench/flow.py')
    with tempfile.TemporaryDirectory() as folder:
        pairs, out = Path(folder)/'pairs.npz', Path(folder)/'out.npy'
        known_pairs(pairs, size)
        found = run([other_python(), HERE/'flow_reference.py', 'opencv'], pairs, out, 1)
    np.savez_compressed(path,
                        **{name: flow.astype(np.float16) for name, flow in zip(MOTIONS, found['flow'], strict=True)},
                        version=found['version'])
    print(path, Path(path).stat().st_size, 'bytes')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--measure']: ours(*sys.argv[2:])
    elif sys.argv[1:2] == ['--reference']: write_reference(sys.argv[2])
    else:
        for row in rows(): print(' | '.join(row), flush=True)
