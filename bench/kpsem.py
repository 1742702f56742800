"What key point shifts cost in time and memory: MFNet with and without them, and AReSE beside plain loops."
import torch
from measure import CORES, HERE, alternate, half, laid_out, peak_of, python, settled, training_step

from har_nb.models.kpsem import AReSE, with_kpsem
from har_nb.models.mfnet import mfnet

AIM = '1.10 times the step on a GPU, at most'


def published(n_classes=400):
    "MFNet and MF-KPSEM, of the published size."
    return dict(MFNet=mfnet(num_classes=n_classes), **{'MF-KPSEM': with_kpsem(mfnet(num_classes=n_classes))})


def forward(net, clips):
    net.eval()

    def work():
        with torch.inference_mode(): net(clips)
    return work


def speed(batch, size, times):
    "Clips a second of both nets, in training and in inference."
    clips, labels = torch.randn(batch, 3, 16, size, size), torch.randint(400, (batch,))
    for what, make in (
        ('training', lambda net: training_step(net, (clips,), labels)),
        ('inference', lambda net: forward(net, clips)),
    ):
        spent = alternate(*[make(net) for net in published().values()], times=times)
        yield (f'{what}, 16 x {size} x {size}, batch {batch}, {torch.get_num_threads()} threads: MFNet | MF-KPSEM',
               f'{batch/spent[0]:.2f} | {batch/spent[1]:.2f} clips/s: {spent[1]/spent[0]:.3f} times the step', AIM)


PEAK = '''
import sys, torch
sys.path.append(sys.argv[4])
from measure import megabytes
torch.set_num_threads(2)
from har_nb.models.kpsem import with_kpsem
from har_nb.models.mfnet import mfnet
net = mfnet() if sys.argv[1] == 'MFNet' else with_kpsem(mfnet())
batch, size = int(sys.argv[2]), int(sys.argv[3])
for _ in range(2):
    logits = net(torch.randn(batch, 3, 16, size, size))
    torch.nn.functional.cross_entropy(logits, torch.zeros(batch, dtype=int)).backward()
print(megabytes())
'''


def memory(batch, size):
    peaks = [float(python(PEAK, name, batch, size, HERE)) for name in ('MFNet', 'MF-KPSEM')]
    yield (f'peak memory of a process that trains, 16 x {size} x {size}, batch {batch}: MFNet | MF-KPSEM',
           f'{peaks[0]:.0f} | {peaks[1]:.0f} MB', 'told')


@torch.no_grad()
def plain(module, x):
    "AReSE with a loop over clips, frames, sets and channels, and slices for regions (K = 4)."
    centres, height, width = module.centres(x), *x.shape[-2:]
    n_clips, n_channels, n_frames = x.shape[:3]
    out = torch.zeros(n_clips, n_channels, n_frames - 1, module.sets, 4, 2)
    for b in range(n_clips):
        for g in range(module.sets):
            values = torch.zeros(n_frames, n_channels, 4)
            places = torch.zeros(n_frames, n_channels, 4, 2)
            means = torch.zeros(n_frames, n_channels, 4)
            for t in range(n_frames):
                left, top = (int(edge.ceil().clamp(min=0)) for edge in centres[b, t, g])
                for c in range(n_channels):
                    frame = x[b, c, t]
                    for k, (rows, columns) in enumerate(
                        (rows, columns) for rows in ((0, top), (top, height)) for columns in ((0, left), (left, width))
                    ):
                        region = frame[rows[0]:rows[1], columns[0]:columns[1]]
                        values[t, c, k], at = region.flatten().max(0)
                        places[t, c, k] = torch.tensor([columns[0] + at % region.shape[1],
                                                        rows[0] + at//region.shape[1]])
                        means[t, c, k] = region.mean()
            for t in range(n_frames - 1):
                match = (1/((values[t][:, :, None] - values[t + 1][:, None]).abs() + .1)).softmax(-1)
                shifts = match @ places[t + 1] - places[t]
                out[b, :, t, g] = ((means[t] + means[t + 1])/2).softmax(-1)[..., None]*shifts
    return out


def loops():
    torch.manual_seed(0)
    module, x = AReSE(384).eval(), torch.randn(1, 384, 8, 14, 14)
    with torch.no_grad(): torch.testing.assert_close(plain(module, x), module(x), atol=1e-4, rtol=1e-4)

    def ours():
        with torch.no_grad(): module(x)
    looped, = alternate(lambda: plain(module, x), times=1)
    vectorised, = alternate(ours, times=15)
    yield ('AReSE, 384 x 8 x 14 x 14, 8 sets of 4 regions, forward: tensors | loops over frames, sets and channels',
           f'{1000*vectorised:.0f} ms | {looped:.1f} s: {looped/vectorised:.0f} x', 'told')


def ratio(device, nets=None, batch=16, size=(16, 224, 224), times=9):
    "A training step of MF-KPSEM over that of MFNet, on a GPU."
    clips, labels = laid_out(torch.randn(batch, 3, *size, device=device)), torch.randint(4, (batch,), device=device)
    steps, peaks = [], []
    for net in (nets or published()).values():
        steps.append(settled(training_step(laid_out(net.to(device)), (clips,), labels, half(device)), device))
        peaks.append(peak_of(steps[-1], device))
    spent = alternate(*steps, times=times)
    yield (f'training, {" x ".join(map(str, size))}, batch {batch}, mixed precision, channels_last_3d: MFNet; MF-KPSEM',
           f'{batch/spent[0]:.1f}; {batch/spent[1]:.1f} clips/s: {spent[1]/spent[0]:.3f} times the step; '
           f'{peaks[0]:,.0f}; {peaks[1]:,.0f} MB', AIM)


def measured():
    torch.set_num_threads(CORES)
    yield from speed(4, 112, 5)
    yield from speed(1, 224, 3)
    yield from memory(4, 112)
    yield from loops()


def rows(folder=None):
    "Rows as those of run.py: what, measured, aim."
    return list(measured())


if __name__ == '__main__':
    for row in measured(): print(' | '.join(row), flush=True)
