"""How long every net of the library takes for one sample and for 32 at once, at its paper's size, on this CPU; gpu.py
asks the same of a GPU.

python bench/latency.py [WORD...] # prints the rows of bench/results.md, for the nets whose names hold one of the words
"""
import sys

import torch
from measure import settled, until

# samples at once; measured passes at most; seconds for them, and for a single pass of many samples
BATCH, TIMES, SECONDS = 32, 5, 2.
RULE = (f'Median of {TIMES} forward passes after one that is not measured, fewer where they take more than '
        f'{SECONDS:.0f} seconds in all; random weights, evaluation mode, 32 bits, inputs of the size the paper gives. '
        f'On a CPU, where {BATCH} samples would take more than {SECONDS:.0f} seconds (by the time of one), '
        'so many as do not, a power of two; on a GPU, half as many as long as memory runs out: '
        'the number of samples stands beside the time.')


def timed(model, samples, limit):
    "Median milliseconds of a pass."
    with torch.inference_mode():
        return 1000*until(settled(lambda: model(*samples), samples[0].device.type), limit, TIMES)


def both(shapes, model, device, limit=SECONDS):
    "Time of one sample, and of many, as text."
    from har_nb.models.zoo import inputs
    one, batch = timed(model, inputs(shapes, 1, device), limit), BATCH
    while device == 'cpu' and batch > 1 and batch*one > 1000*limit: batch //= 2
    while True:
        try: many = timed(model, inputs(shapes, batch, device), limit)
        except torch.OutOfMemoryError:
            if batch == 1: raise
            batch //= 2
            torch.cuda.empty_cache()
        else: return f'{one:,.1f}, {many:,.1f}' + f' ({batch} instead)'*(batch != BATCH)


def cost_of(net, model):
    "What a net of the zoo is, as text."
    from har_nb.models.cost import count_operations, count_parameters
    from har_nb.models.zoo import inputs
    shapes = ' and '.join(' x '.join(map(str, shape)) for shape in net.shapes)
    return (
        f'{net.name}; {shapes}; {count_parameters(model)/1e6:,.2f} M parameters, '
        f'{count_operations(model, inputs(net.shapes))/1e9:,.2f} G multiply-adds a sample'
    )


def rows(folder=None, words=()):
    from har_nb.models.zoo import NETS
    yield f'how: {RULE}', f'{torch.get_num_threads()} threads', 'told'
    for net in NETS:
        if words and not any(word in net.name for word in words): continue
        torch.manual_seed(0)
        model = net.make().eval()
        yield f'{cost_of(net, model)}; milliseconds for 1 and for {BATCH}', both(net.shapes, model, 'cpu'), 'told'


if __name__ == '__main__':
    for row in rows(words=sys.argv[1:]): print(' | '.join(row), flush=True)
