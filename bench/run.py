"""Measure what the library promises about speed and write bench/results.md. Ratios are taken in one run, alternating,
as medians."""
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

from measure import CORES, HERE, alternate, exhaust, half, part_of, python, settled, training_step, write_part

CLIPS = HERE.parent.parent/'shared'/'data'/'clips' # real videos, used where they are


def of_speed(one, other): return f'{one/other:.2f} of its speed'


def importing():
    bare, package = alternate(lambda: python('pass'), lambda: python('import har_nb'), times=9)
    yield 'import har_nb, over a bare interpreter', f'{1000*(package - bare):.0f} ms', 'under 300 ms'


def drawn_clip():
    from har_nb.data.synthetic import render_clip
    return render_clip('TennisSwing', 1, size=(240, 320), camera_motion=True, truth=False).frames


def write_h264(path, frames):
    import av
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], 'yuv420p'
        for frame in frames: container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    return path


def videos(folder):
    "Codec -> (file, what it is): real ones where they are, drawn ones otherwise."
    from har_nb.data.video import write_video
    real = dict(XviD=CLIPS/'v_ApplyEyeMakeup_g01_c01.avi', H264=CLIPS/'basketball.mp4')
    if all(path.exists() for path in real.values()):
        return {'XviD': (real['XviD'], 'UCF101, 320x240'), 'H.264': (real['H264'], 'real, 426x240')}
    clip = [*drawn_clip()]*3
    return {
        'XviD': (write_video(folder/'xvid.avi', clip, codec='XVID').path, 'drawn, 320x240'),
        'H.264': (write_h264(folder/'h264.mp4', clip), 'drawn, 320x240'),
    }


def bare_loop(path, threads):
    import cv2
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    while capture.read()[0]: pass


def decoding(path, what, codec):
    from har_nb.data.video import frames, iter_frames, iter_pictures
    readers = {
        'iter_pictures (B G R, nothing kept)': lambda **k: exhaust(iter_pictures(path, **k)),
        'iter_frames (R G B, one at a time)': lambda **k: exhaust(iter_frames(path, **k)),
        'iter_frames, decoding ahead': lambda **k: exhaust(iter_frames(path, ahead=8, **k)),
        'frames (R G B, the whole clip kept)': lambda **k: frames(path, **k),
        'frames, decoding ahead': lambda **k: frames(path, ahead=8, **k),
    }
    for threads, name in ((1, "one FFmpeg thread each"), (0, "FFmpeg's own number of threads each")):
        base, *ours = alternate(
            lambda threads=threads: bare_loop(path, threads),
            *[lambda read=read, threads=threads: read(threads=threads) for read in readers.values()], times=15,
        )
        for reader, spent in zip(readers, ours, strict=True):
            yield f'{reader} against a bare read loop; {codec} ({what}), {name}', of_speed(base, spent), '0.95'


def naive_embed(path, n=10, interval=10):
    "As the paper's code would: a float sum for each batch, over frames that are kept."
    from har_nb.data.video import frames
    clip, shares = frames(path), [i/(n*(n + 1)//2) for i in range(1, n + 1)]
    return [sum(frame*share for frame, share in zip(clip[first:first + n], shares, strict=True)).round().astype('uint8')
            for first in range(0, len(clip) - n + 1, interval)]


def embedding(path, what, codec):
    import cv2

    from har_nb.data.video import iter_pictures
    from har_nb.motion.mei import stream_embed

    def embed(interval, ahead):
        for image in stream_embed(iter_pictures(path, ahead=ahead), 10, interval):
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    for interval, aim in ((5, '0.55'), (10, '0.65')):
        aim = aim if codec == 'XviD' else '0.8'
        works = [lambda: bare_loop(path, 1), lambda i=interval: embed(i, 0),
                 lambda i=interval: embed(i, 3), lambda i=interval: naive_embed(path, interval=i)]
        decode, plain, overlapped, naive = alternate(*works, times=9)
        about = f'{codec} ({what}), n 10, interval {interval}'
        yield f'file to motion images against decoding alone, in one thread; {about}', of_speed(decode, plain), aim
        yield f'the same, decoded ahead in a second thread; {about}', of_speed(decode, overlapped), f'{aim}, better 0.9'
        if codec == 'XviD':
            yield (f'file to motion images against a float sum for each batch; {about}',
                   f'{naive/plain:.1f} x in one thread, {naive/overlapped:.1f} x decoded ahead (bare decoding: '
                   f'{naive/decode:.1f} x)', '3 x')


def small_set(folder, files=16):
    "Different XviD clips 320x240, two classes."
    import numpy as np

    from har_nb.data.lists import from_folders
    from har_nb.data.video import write_video
    clip = drawn_clip()
    for i in range(files):
        place = folder/f'class{i % 2}'/f'{i:03}.avi'
        place.parent.mkdir(parents=True, exist_ok=True)
        write_video(place, np.roll(np.concatenate([clip, clip[::-1]]), 7*i, axis=(0, 2)), codec='XVID')
    return from_folders(folder)


def decode_all(dataset):
    from har_nb.data.video import iter_pictures
    with ThreadPoolExecutor(CORES) as pool: list(pool.map(lambda path: exhaust(iter_pictures(path)), dataset.paths))


def mixed_set(folder, files=24):
    "Different clips 320x240 of three kinds."
    import numpy as np

    from har_nb.data.lists import from_folders
    from har_nb.data.video import write_video
    clip = drawn_clip()
    for i in range(files):
        kind = ('XVID', 'MJPG', 'H264')[i % 3]
        (folder/kind).mkdir(parents=True, exist_ok=True)
        moved = np.roll(np.concatenate([clip, clip[::-1]]), 7*i, axis=(0, 2))
        if kind == 'H264': write_h264(folder/kind/f'{i:03}.mp4', moved)
        else: write_video(folder/kind/f'{i:03}.avi', moved, codec=kind)
    return from_folders(folder)


def storing(folder):
    from har_nb.samples.store import Frame, MotionEmbedding, decode_samples
    dataset, caches = mixed_set(folder/'set'), iter(range(1000))

    def build(size):
        decode_samples(dataset, [Frame(), MotionEmbedding()], size, folder/f'cache{next(caches)}', progress=False)
    decode, large, small = alternate(lambda: decode_all(dataset), lambda: build(224), lambda: build(64), times=3)
    for size, built in ((224, large), (64, small)):
        yield (f'building the store (frames and motion images, {size} pixels) against decoding every file; XviD, '
               f'MJPEG and H.264, {CORES} cores', of_speed(decode, built), '0.6')


def loading(folder, dataset, batch=64):
    import numpy as np

    from har_nb.samples.loaders import SampleSet
    from har_nb.samples.store import Frame, decode_samples, sample_video
    sets = []
    for name, limit in (('raw', float('inf')), ('jpeg', 0)):
        (samples,), _ = decode_samples(dataset, [Frame(10, 2)], 224, folder/name, progress=False, limit=limit)
        sets.append(SampleSet(samples, dataset, np.arange(len(dataset))))
    order = np.random.default_rng(0).permutation(len(sets[0]))

    def epoch(data):
        for first in range(0, len(order), batch): data.batch(order[first:first + batch])
    raw, jpeg, decoded = alternate(
        lambda: epoch(sets[0]),
        lambda: epoch(sets[1]),
        lambda: [sample_video(path, [Frame(10, 2)], 224) for path in dataset.paths],
        times=5,
    )
    n = len(order)
    yield ('shuffled uint8 batches from the memory-mapped store, 224 pixels, one core',
           f'{n/raw:,.0f} images/s, {decoded/raw:.0f} x decoding each epoch', '10,000 images/s')
    yield ('shuffled uint8 batches from JPEG in LMDB, 224 pixels, one core',
           f'{n/jpeg:,.0f} images/s, {decoded/jpeg:.1f} x decoding each epoch', 'told')


PEAK = '''
import sys
sys.path.append(sys.argv[3])
from measure import megabytes
from har_nb.data.lists import from_folders
from har_nb.samples.store import Frame, MotionEmbedding, decode_samples
decode_samples(from_folders(sys.argv[1]), [Frame(), MotionEmbedding()], 224, sys.argv[2], workers=1, progress=False)
print(megabytes())
'''


def memory(folder):
    from itertools import cycle, islice

    from har_nb.data.video import write_video
    clip, peaks = drawn_clip(), []
    for name, n_frames in (('10 s', 250), ('10 min', 15_000)):
        place = folder/name/'class'
        place.mkdir(parents=True)
        write_video(place/'clip.avi', islice(cycle(clip), n_frames), codec='XVID')
        peaks.append(float(python(PEAK, folder/name, folder/f'{name} cache', HERE)))
    yield ('peak memory of a build, one video of 10 minutes against one of 10 seconds',
           f'{peaks[1]:.0f} MB against {peaks[0]:.0f} MB', 'the same')


def listing(folder, n=13_320):
    from har_nb.data.lists import from_lists
    classes = [f'Action{i:03}' for i in range(101)]
    names = [f'{label}/v_{label}_g{group:02}_c{clip:02}.avi'
             for clip in range(1, 8)
             for group in range(1, 26)
             for label in classes][:n]
    (folder/'classInd.txt').write_text(''.join(f'{i} {label}\n' for i, label in enumerate(classes, 1)))
    number = {label: i for i, label in enumerate(classes, 1)}
    parts = dict(train=[], test=[])
    for name in names: parts['test' if int(name.split('_g')[1][:2]) <= 7 else 'train'].append(name)
    (folder/'trainlist.txt').write_text(''.join(f'{name} {number[name.split("/")[0]]}\n' for name in parts['train']))
    (folder/'testlist.txt').write_text(''.join(f'{name}\n' for name in parts['test']))

    def work(): assert len(from_lists(folder, must_exist=False).holdout(0.3, seed=0).carve_validation(0.3, seed=0)) == n
    spent, = alternate(work, times=5)
    yield f'{n:,} listed names parsed, grouped and split', f'{spent:.2f} s', 'under 2 s'


def checking(folder, dataset, copies=20):
    from har_nb.data.audit import audit
    from har_nb.data.lists import from_folders
    for i in range(copies):
        for path in dataset.paths:
            place = folder/Path(path).parent.name/f'{i}_{Path(path).name}'
            place.parent.mkdir(exist_ok=True)
            os.link(path, place)
    dataset = from_folders(folder)
    decode, check, whole = alternate(
        lambda: decode_all(dataset),
        lambda: dataset.check_files(progress=False),
        lambda: audit(dataset, progress=False),
        times=3,
    )
    yield (f'check_files on {len(dataset)} files against decoding every one once, {CORES} cores',
           of_speed(decode, check), '1.00')
    yield f'audit of the same against decoding every file once, {CORES} cores', of_speed(decode, whole), 'told'


def training():
    import torch

    from har_nb.models.backbones import small_resnet
    images, labels = torch.randn(64, 64, 64, 3).permute(0, 3, 1, 2), torch.randint(0, 8, (64,))
    net = small_resnet(num_classes=8).to(memory_format=torch.channels_last)
    step = training_step(net, (images,), labels, optimizer=torch.optim.Adam(net.parameters()))
    spent, = alternate(lambda: [step() for _ in range(10)])
    yield 'small_resnet, training, 64 pixels, batch 64, cpu', f'{640/spent:,.0f} images/s', '1,500 on two cores'


def waiting(folder, device='cuda', make=None, files=48, size=224, batch=256, times=3):
    "Steps fed by the loader against steps on a batch that is on the device already; gpu.py asks for it."
    import torch

    from har_nb.models.backbones import efficientnet_b0
    from har_nb.samples.loaders import RandomColour, sample_loader
    from har_nb.samples.samplers import EveryKth
    from har_nb.samples.store import Frames, decode_samples
    net = (make or efficientnet_b0)(num_classes=2).to(device, memory_format=torch.channels_last)
    dataset = small_set(folder/'set', files=files)

    def plain(batch):
        x, y = (part.as_subclass(torch.Tensor) for part in batch)
        return (x.contiguous(memory_format=torch.channels_last),), y
    for coding, limit, workers in (('memory-mapped', float('inf'), 2), ('JPEG in LMDB', 0, max(2, CORES - 1))):
        (samples,), _ = decode_samples(dataset, [Frames(EveryKth(1))], size, folder/coding, progress=False, limit=limit)
        loader = sample_loader(samples, dataset, 'train',
                               batch_size=batch, device=device, num_workers=workers, augment=[RandomColour()])
        loader.drop_last, held = True, plain(loader.one_batch())
        step = training_step(net, *held, half(device), torch.optim.AdamW(net.parameters()))

        def fed(loader=loader, step=step):
            for one in loader: step(*plain(one))

        def resident(loader=loader, step=step):
            for _ in range(len(loader)): step()
        ready, loaded = alternate(settled(resident, device), settled(fed, device), times=times)
        yield ('share of a training step spent waiting for data; '
               f'{"EfficientNetB0" if make is None else make.__name__}, {size} pixels, batch {batch}, '
               f'mixed precision, channels_last, {coding}',
               f'{max(0, 1 - ready/loaded):.1%} ({batch*len(loader)/loaded:,.0f} images/s)', 'under 5%')


def samples(folder):
    "Reading, embedding, storing, loading, training."
    def place(name): (folder/name).mkdir(); return folder/name
    yield from importing()
    for codec, (path, what) in videos(place('videos')).items():
        yield from decoding(path, what, codec)
        yield from embedding(path, what, codec)
    dataset = small_set(place('set'))
    yield from storing(place('stores'))
    yield from loading(place('loads'), dataset)
    yield from memory(place('memory'))
    yield from listing(place('lists'))
    yield from checking(place('many'), dataset)
    yield from training()


def beside(name):
    "Rows of another file here."
    def rows(folder): yield from import_module(name).rows(folder)
    return rows


# headings of results.md; gpu.py writes one more
PARTS = {'samples': samples} | {name: beside(name)
                                for name in ('before', 'where', 'instead', 'growth', 'flow', 'kpsem', 'latency',
                                             'reading', 'watch')}


def main(names):
    if unknown := set(names) - set(PARTS):
        sys.exit(f'no such part: {", ".join(sorted(unknown))}. There are {", ".join(PARTS)}')
    for name in names or PARTS: write_part(name, part_of(PARTS[name]))


if __name__ == '__main__': main(sys.argv[1:])
