"""Against what a user would do instead: our store and learner; a plain PyTorch loop that decodes in every epoch; the
same over JPEG files extracted once.

python bench/instead.py          # prints the rows of bench/results.md
Each is a process of its own, in turns. Same net, same samples (the last frame of each batch of ten), same batch size,
training and validation in every epoch; the plain loops take nothing of ours but the net.
"""
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measure import CORES, HERE, folder_bytes, megabytes

INDOOR = HERE.parent.parent/'shared'/'data'/'indoor_actions' # real videos, used where they are
WAYS = {'ours': 'our store and learner', 'decoding': 'plain PyTorch, PyAV in every epoch, 2 workers',
        'jpegs': 'plain PyTorch over JPEG files extracted once, 2 workers'}
N = 10 # frames of a batch
DEMO = dict(workers=2, net='small_resnet', size=64, interval=5, batch=64, lr=1e-2, epochs=4)
REAL = dict(workers=2, net='mobilenet_v2', size=224, interval=10, batch=32, lr=1e-3, epochs=2)


def demo_set(folder, **settings):
    from har_nb.data.synthetic import build
    return build(folder, progress=False, **settings).carve_validation(.3, seed=0)


def real_set(folder):
    from har_nb.data.lists import open_dataset
    return open_dataset(folder, group='recording').holdout(.3, seed=0).carve_validation(.3, seed=0)


def net_of(about):
    import torch

    from har_nb.models import backbones
    torch.manual_seed(0)
    return getattr(backbones, about['net'])(num_classes=len(about['classes']))


def ours(about, cache, mark):
    import pandas as pd
    from fastai.callback.core import Callback

    from har_nb.data.dataset import ActionDataset
    from har_nb.learning.learner import fit, make_learner
    from har_nb.samples.loaders import make_loaders
    from har_nb.samples.store import Frame, decode_samples

    class Mark(Callback):
        def after_epoch(self): mark()
    net = net_of(about)
    mark()
    dataset = ActionDataset(Path('/'), about['classes'], pd.DataFrame(about['clips']))
    (samples,), _ = decode_samples(dataset, [Frame(N, about['interval'])], about['size'], cache, progress=False)
    loaders = make_loaders(samples, dataset, batch_size=about['batch'])
    fit(make_learner(loaders, net, callbacks=[Mark()]), about['epochs'], about['lr'], progress=False)
    return len(loaders.train.dataset)


def last_frames(path, interval):
    "As a user would: decode the video, keep the last frame of each batch of ten."
    import av
    with av.open(str(path)) as container: frames = list(container.decode(video=0))
    picked = range(N - 1, len(frames), interval) if len(frames) >= N else [len(frames) - 1]
    return [frames[number].to_ndarray(format='rgb24') for number in picked]


def seen(size, train):
    import torch
    from torchvision.transforms import v2
    flip = [v2.RandomHorizontalFlip()] if train else []
    return v2.Compose([v2.ToImage(), v2.Resize((size, size), antialias=True), *flip,
                       v2.ToDtype(torch.float32, scale=True), v2.Normalize((.485, .456, .406), (.229, .224, .225))])


def decoding(about, cache, mark):
    "Every worker decodes its share of the clips, in another order in each epoch."
    import av  # noqa: F401 (workers use it)
    from torch.utils.data import IterableDataset, get_worker_info
    parts = {train: seen(about['size'], train) for train in (True, False)}
    net = net_of(about)
    mark()

    class Videos(IterableDataset):
        def __init__(self, clips, train): self.clips, self.train, self.epoch = clips, train, 0
        def __iter__(self):
            order, self.epoch, worker = list(self.clips), self.epoch + 1, get_worker_info()
            if self.train: random.Random(self.epoch).shuffle(order)
            for path, label in order[worker.id::worker.num_workers] if worker else order:
                for frame in last_frames(path, about['interval']): yield parts[self.train](frame), label
    return plain_loop(about, net,
                      [loader(about, Videos(of_split(about, split), split == 'train')) for split in ('train', 'valid')],
                      mark)


def loader(about, dataset, shuffle=None):
    from torch.utils.data import DataLoader
    return DataLoader(dataset, batch_size=about['batch'], shuffle=shuffle,
                      num_workers=about['workers'], persistent_workers=about['workers'] > 0)


def jpegs(about, cache, mark):
    "Pictures in folders, as they come out of the video, read by PIL."
    import av  # noqa: F401 (threads use it)
    from PIL import Image
    from torch.utils.data import Dataset
    parts = {split: seen(about['size'], split == 'train') for split in ('train', 'valid')}
    net = net_of(about)
    mark()

    def extract(numbered):
        number, (path, label, split) = numbered
        for place, frame in enumerate(last_frames(path, about['interval'])):
            file = Path(cache)/split/str(label)/f'{number}_{place}.jpg'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(file, quality=95)
    clips = [(path, label, split) for split in ('train', 'valid') for path, label in of_split(about, split)]
    with ThreadPoolExecutor(CORES) as pool: list(pool.map(extract, enumerate(clips)))

    class Pictures(Dataset):
        def __init__(self, split): self.files, self.transform = sorted((Path(cache)/split).rglob('*.jpg')), parts[split]
        def __len__(self): return len(self.files)
        def __getitem__(self, place):
            with Image.open(self.files[place]) as image:
                return self.transform(image.convert('RGB')), int(self.files[place].parent.name)
    return plain_loop(about, net,
                      [loader(about, Pictures(split), split == 'train') for split in ('train', 'valid')], mark)


def of_split(about, split):
    clips = about['clips']
    return [(f'/{path}', about['classes'].index(label))
            for path, label, its in zip(clips['path'], clips['label'], clips['split'], strict=True)
            if its == split]


def plain_loop(about, net, loaders, mark):
    "What every tutorial has: Adam, one-cycle, cross-entropy, then validation; samples of an epoch."
    import torch
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    net, samples = net.to(device), 0
    optimizer = torch.optim.Adam(net.parameters(), about['lr'])
    for _ in range(about['epochs']):
        samples = 0
        net.train()
        for x, y in loaders[0]:
            torch.nn.functional.cross_entropy(net(x.to(device)), y.to(device)).backward()
            optimizer.step(), optimizer.zero_grad()
            samples += len(x)
        net.eval()
        with torch.inference_mode():
            for x, y in loaders[1]: torch.nn.functional.cross_entropy(net(x.to(device)), y.to(device)).item()
        mark()
    return samples


def work(way, file, cache):
    """One way, in this process: when it had imported all it uses, when each epoch ended, and how many samples an epoch
    had."""
    about, ends = json.loads(Path(file).read_text()), []
    samples = dict(ours=ours, decoding=decoding, jpegs=jpegs)[way](about, cache, lambda: ends.append(time.time()))
    return dict(ends=ends, samples=samples)


def memory_of(process):
    """Megabytes of a process and all it started: with what they share counted once; and the sum of their own peaks so
    far."""
    import psutil
    once, peaks = 0., {}
    try: family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess: return 0., {}
    for one in family:
        try:
            once += next(int(line.split()[1])/1024
                         for line in open(f'/proc/{one.pid}/smaps_rollup')
                         if line.startswith('Pss:'))
            peaks[one.pid] = megabytes('VmHWM', one.pid)
        except (OSError, StopIteration): pass
    return once, peaks


def measured(way, file, folder):
    """A way in a process of its own, watched: seconds to the first epoch's end, seconds an epoch after it, megabytes,
    samples."""
    import psutil
    start, most, peaks = time.time(), 0., {}
    with tempfile.TemporaryFile('w+') as out:
        process = subprocess.Popen(
            [sys.executable, __file__, '--work', way, str(file), str(folder/'cache')],
            stdout=out,
            env=os.environ
            | dict(PYTHONPATH=os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get('PYTHONPATH')]))),
        )
        family = psutil.Process(process.pid)
        while True:
            try: status = process.wait(.25)
            except subprocess.TimeoutExpired:
                once, own = memory_of(family)
                most, peaks = max(most, once), peaks | own
            else: break
        if status: raise RuntimeError(f'{way} ended with status {status}')
        out.seek(0)
        found = json.loads(out.read().splitlines()[-1])
    return summary(found, start, folder) | dict(memory=most, peaks=sum(peaks.values()))


def summary(found, start, folder):
    ready, first, *_, last = found['ends']
    return dict(imports=ready - start, first=first - start, later=(last - first)/(len(found['ends']) - 2),
                samples=found['samples'], disk=folder_bytes(folder)/2**20, memory=0., peaks=0.)


def compared(name, dataset, about, rounds=1, ways=WAYS):
    "Rows of one set: each way, and what ours saves."
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/'about.json'
        clips = dataset.clips[['label', 'group', 'split']].assign(
            path=[str(Path(path).resolve()).removeprefix('/') for path in dataset.paths]
        )
        clips = clips[clips.split != 'test'] # which none of them needs
        file.write_text(json.dumps(about | dict(classes=list(dataset.classes),
                                                clips=clips[['path', 'label', 'group', 'split']].to_dict('list'))))
        found = {way: [] for way in ways}
        for number in range(rounds):
            for way in ways:
                with tempfile.TemporaryDirectory(dir=folder, prefix=f'{number}_{way}_') as place:
                    found[way].append(measured(way, file, Path(place)))
    middle = {way: {key: statistics.median(one[key] for one in its) for key in its[0]} for way, its in found.items()}
    if len({its['samples'] for its in middle.values()}) > 1: raise RuntimeError(f'not the same samples: {middle}')
    about_it = (
        f'{name}; {about["net"]}, {about["size"]} pixels, batch {about["batch"]}, '
        f'{next(iter(middle.values()))["samples"]:,.0f} training images'
    )
    for way, its in middle.items():
        yield (f'{about_it}: {WAYS[way]}',
               f'{its["first"]:.1f} s to the first trained epoch ({its["imports"]:.1f} s of them imports), '
               f'{its["later"]:.2f} s an epoch after that; {its["memory"]:,.0f} MB at the peak ({its["peaks"]:,.0f} MB '
               'as the sum of VmHWM of its processes); '
               f'{its["disk"]:,.1f} MB on disk', 'told')
    for way in [way for way in middle if way != 'ours' and 'ours' in middle]:
        mine, its = middle['ours'], middle[way]
        yield (f'{about_it}: {WAYS[way]}, against ours',
               f'{its["first"]/mine["first"]:.2f} x the time to the first trained epoch '
               f'({(its["first"] - its["imports"])/(mine["first"] - mine["imports"]):.2f} x without imports), '
               f'{its["later"]/mine["later"]:.1f} x the time of an epoch after that', 'told')


def rows(folder, demo=None, people=30, takes=2, about=None, indoor=INDOOR):
    about = DEMO | (about or {})
    yield from compared(f"the demo's set, {people} people",
                        demo_set(folder/'sports', people=people, takes=takes, seed=11), about,
                        rounds=2 if demo is None else demo)
    if indoor and indoor.is_dir(): yield from compared(f'real clips ({indoor.name})', real_set(indoor), REAL)
    elif indoor:
        yield (f'real clips ({indoor.name}), {REAL["size"]} pixels, {REAL["net"]}',
               f'skipped: {indoor.name} is not beside this checkout', 'told')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--work']: print(json.dumps(work(*sys.argv[2:])))
    else:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(Path(folder)): print(' | '.join(row), flush=True)
