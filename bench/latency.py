"""How long every net of the library takes for one sample and for 32 at once, at its paper's size, on this CPU and on a GPU where there is one.

python bench/latency.py [WORD...]      # prints the rows of bench/results.md, for the nets whose names hold one of the words
"""
import statistics
import sys
import time

import torch

BATCH, TIMES, SECONDS = 32, 5, 2. # samples at once; measured passes at most; seconds for them, and for a single pass of many samples
RULE = (f'Median of {TIMES} forward passes after one that is not measured, fewer where they take more than {SECONDS:.0f} seconds in all; random weights, evaluation mode, 32 bits, inputs of the size the paper gives. '
        f'On a CPU, where {BATCH} samples would take more than {SECONDS:.0f} seconds (by the shortest time of one), so many as do not, a power of two; on a GPU, half as many as long as memory runs out: the number of samples stands beside the time.')


def timed(model, samples):
    "Median and shortest milliseconds of a pass."
    wait = torch.cuda.synchronize if samples[0].is_cuda else lambda: None

    def once():
        wait()
        start = time.perf_counter()
        model(*samples)
        wait()
        return time.perf_counter() - start
    with torch.inference_mode():
        once()
        spent = [once()]
        while len(spent) < TIMES and sum(spent) + spent[-1] < SECONDS: spent.append(once())
    return 1000*statistics.median(spent), 1000*min(spent)


def both(net, model, device):
    "Time of one sample, and of many, as text."
    from har_nb.models.zoo import inputs
    (one, least), batch = timed(model, inputs(net.shapes, 1, device)), BATCH
    while device == 'cpu' and batch > 1 and batch*least > 1000*SECONDS: batch //= 2
    while True:
        try: many, _ = timed(model, inputs(net.shapes, batch, device))
        except torch.OutOfMemoryError:
            if batch == 1: raise
            batch //= 2
            torch.cuda.empty_cache()
        else: return f'{one:,.1f}, {many:,.1f}' + f' ({batch} instead)'*(batch != BATCH)


def rows(words=()):
    from har_nb.models.cost import count_operations, count_parameters
    from har_nb.models.zoo import NETS, inputs
    yield f'how: {RULE}', f'CPU: {torch.get_num_threads()} threads', 'told'
    for net in NETS:
        if words and not any(word in net.name for word in words): continue
        torch.manual_seed(0)
        model, shapes = net.make().eval(), ' and '.join(' x '.join(map(str, shape)) for shape in net.shapes)
        what = f'{net.name}; {shapes}; {count_parameters(model)/1e6:,.2f} M parameters, {count_operations(model, inputs(net.shapes))/1e9:,.2f} G multiply-adds a sample; milliseconds for 1 and for {BATCH}'
        gpu = f'{torch.cuda.get_device_name()}: {both(net, model.cuda(), "cuda")}' if torch.cuda.is_available() else 'GPU: waits for a GPU: make bench'
        yield what, f'CPU: {both(net, model.cpu(), "cpu")}; {gpu}', 'told'


if __name__ == '__main__':
    for row in rows(sys.argv[1:]): print(' | '.join(row), flush=True)
