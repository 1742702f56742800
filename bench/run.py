"Measure what the library promises about speed and write bench/results.md. Ratios are taken in one run, alternating, as medians."
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(*works, times=5):
    "Median seconds of each, measured in turn so that a busy moment touches all of them; one unmeasured round first."
    rounds = [[seconds(work) for work in works] for _ in range(times + 1)][1:]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def python(code): subprocess.run([sys.executable, '-c', code], check=True)


def importing():
    bare, package = alternate(lambda: python('pass'), lambda: python('import har_nb'), times=9)
    yield 'import har_nb, over a bare interpreter', f'{1000*(package - bare):.0f} ms', 'under 300 ms'


def decoding(folder):
    import cv2

    from har_nb.data.synthetic import render_clip
    from har_nb.data.video import frames, write_video
    from har_nb.motion.mei import motion_embed
    clip = render_clip('TennisSwing', 1, size=(240, 320), truth=False).frames
    for codec, suffix in (('XVID', '.avi'), ('MJPG', '.avi')):
        path = write_video(folder/f'{codec}{suffix}', [*clip]*5, codec=codec).path

        def bare(path=path):
            capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
            while capture.read()[0]: pass
        base, ours, embedded = alternate(bare, lambda path=path: frames(path), lambda path=path: motion_embed(frames(path), 10, 10))
        yield f'frames() against a bare read loop, {codec} 320x240', f'{base/ours:.2f} of its speed', '0.95'
        yield f'decode + motion_embed (n 10, interval 10) against decode, {codec} 320x240', f'{ours/embedded:.2f} of its speed', '0.65'


def training():
    import torch

    from har_nb.models.backbones import small_resnet
    images, labels = torch.randn(64, 64, 64, 3).permute(0, 3, 1, 2), torch.randint(0, 8, (64,))
    devices = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
    for device in devices:
        net = small_resnet(num_classes=8).to(device, memory_format=torch.channels_last)
        optimizer, x, y = torch.optim.Adam(net.parameters()), images.to(device), labels.to(device)

        def steps(net=net, optimizer=optimizer, x=x, y=y, device=device):
            for _ in range(10):
                torch.nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step(), optimizer.zero_grad()
            if device == 'cuda': torch.cuda.synchronize()
        yield f'small_resnet, training, 64 pixels, batch 64, {device}', f'{640/alternate(steps)[0]:,.0f} images/s', '1,500 on two cores'
    if len(devices) == 1: yield 'the same on a GPU', 'waits for a GPU: make bench', ''


def main():
    with tempfile.TemporaryDirectory() as folder: rows = [*importing(), *decoding(Path(folder)), *training()]
    packages = ', '.join(f'{name} {version(name)}' for name in ('torch', 'torchvision', 'fastai', 'opencv-python', 'numpy'))
    lines = ['# Speed', '', f'{date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}.',
             'Written by `make bench`; medians of alternating measurements.', '', '| what | measured | aim |', '|---|---|---|',
             *(f'| {" | ".join(row)} |' for row in rows)]
    (HERE/'results.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


if __name__ == '__main__': main()
