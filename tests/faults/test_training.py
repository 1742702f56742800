"""Fits that cannot go on: a loss that is lost, memory that runs out, states that are damaged or another net's. One
clear error, and nothing is believed that should not be."""
import gc
import os
import random
import warnings
import weakref
from types import SimpleNamespace

import pytest
from later import collecting, parametrize

from har_nb.learning.runs import runs_table, tracked_run
from har_nb.learning.tracking import open_store
from har_nb.samples.archive import StoreError
from har_nb.samples.store import Frame, decode_samples

if not collecting:
    import torch
    from tiny import fit, learner, net
    from torch import nn

    from har_nb.experiments.tables import RowsFailed, run
    from har_nb.learning import learner as L
    from har_nb.learning import predictor as P
    from har_nb.learning.callbacks import EpochCallback, KeepBest
    from har_nb.learning.recipe import (
        PredictError,
        Recipe,
        backbone_model,
        describe,
        make,
        recipe_of,
        save_for_prediction,
    )
    from har_nb.papers.mei.tables import table2


@pytest.fixture
def sports(small_set): return small_set


def test_a_row_whose_loss_is_lost(sports, tmp_path, tracking):
    with pytest.raises(RowsFailed, match='LossError: the loss is nan in epoch .*, batch .*Use a lower learning rate'):
        run(table2, sports,
            rows=['normal'], preset='demo', size=32, epochs=2, lr=1e30, cache=tmp_path/'cache', progress=False)
    row, = runs_table(table2.name, "tags.kind = 'row'").itertuples()
    assert row.status == 'FAILED' and 'the loss is nan in epoch' in open_store().get_run(row.run_id).data.tags['error']
    assert not {file.path for file in open_store().list_artifacts(row.run_id)} & {'model.pth', 'predictions.parquet'}
    with pytest.raises(PredictError, match='is FAILED, by LossError'): P.load_predictor(row.run_id)


def test_a_row_that_does_not_fit_into_memory(sports, tmp_path, tracking, monkeypatch):
    "It fails with advice; the next row has its memory back."
    forward = nn.Conv2d.forward
    def narrow(self, x):
        if len(x) > 4 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. '
                                         'GPU 0 has a total capacity of 3.00 GiB.')
        return forward(self, x)
    monkeypatch.setattr(nn.Conv2d, 'forward', narrow)
    options = dict(preset='demo', size=32, epochs=1, cache=tmp_path/'cache', progress=False)
    with pytest.raises(RowsFailed,
                       match='NoMemory: no memory for batch 0 of epoch 0: .* x 3 x 32 x 32.*smaller '
                             'batch_size.*smaller size'):
        run(table2, sports, rows=['normal'], **options)
    assert runs_table(table2.name, "tags.kind = 'row'").status.tolist() == ['FAILED']
    assert run(table2, sports, rows=['normal'], batch_size=4, **options).runs.tolist() == [1]


if not collecting:
    class Greedy(nn.Module):
        "Takes what it gets, and then wants more."
        def __init__(self): super().__init__(); self.layer, self.held = nn.Conv2d(1, 4, 3), []
        def forward(self, x):
            out = self.layer(x)
            self.held.append(weakref.ref(out))
            raise torch.OutOfMemoryError('CUDA out of memory.')


def test_a_batch_that_does_not_fit_is_let_go():
    """A table keeps the errors of its rows, and with them the frames they came from; the activations must not hang on
    these."""
    model = Greedy()
    with pytest.raises(L.NoMemory) as told: fit(learner(model=model))
    gc.collect()
    assert model.held[0]() is None and isinstance(told.value.__cause__, torch.OutOfMemoryError)


@parametrize(
    'error',
    ['error0', 'error1', 'error2'],
    lambda: [RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
                          "you tried to allocate 9 bytes."), MemoryError(),
             torch.OutOfMemoryError('CUDA out of memory.')],
)
def test_every_way_of_saying_it(error):
    with (
        pytest.raises(L.NoMemory, match='no memory for 3 clips. Use a smaller batch_size'),
        L.memory_told(lambda: '3 clips'),
    ):
        raise error
    with pytest.raises(RuntimeError, match='shapes'), L.memory_told(lambda: '3 clips'):
        raise RuntimeError('shapes do not match')


def test_predictions_that_do_not_fit(tmp_path, tracking, sports, monkeypatch):
    (samples,), _ = decode_samples(sports, [Frame()], 32, tmp_path/'cache', progress=False)
    recipe = recipe_of(samples, sports.classes, backbone_model('small_resnet', len(sports.classes)))
    predictor = P.Predictor(recipe, make(recipe.model).eval(), samples.modality)
    forward = nn.Conv2d.forward
    def narrow(self, x):
        if len(x) > 2: raise torch.OutOfMemoryError('CUDA out of memory.')
        return forward(self, x)
    monkeypatch.setattr(nn.Conv2d, 'forward', narrow)
    with pytest.raises(PredictError, match='64 samples at a time.*batch_size = 8'): predictor.predict(sports.paths[0])
    predictor.batch_size = 2
    assert abs(predictor.predict(sports.paths[0]).video.sum() - 1) < 1e-5


def test_a_best_epoch_is_a_number():
    best = KeepBest('valid_loss')
    best.learn = type('Learn', (), dict(model=net(), epoch=0))()
    best.best = -float('inf')
    for best.learn.epoch, value in enumerate((.7, float('nan'), .9, .6, float('nan'))):
        best.trained_epoch(dict(valid_loss=value))
    assert best.best_epoch == 3


@pytest.fixture(scope='module')
def state(tmp_path_factory):
    "A state after two of five epochs."
    class Stop(EpochCallback):
        order = 65
        def trained_epoch(self, measured):
            if self.epoch == 1: raise KeyboardInterrupt
    file = tmp_path_factory.mktemp('state')/'state.pth'
    with pytest.raises(KeyboardInterrupt): fit(learner(Stop()), file)
    return file.read_bytes()


def damaged(content, how):
    chance, data = random.Random(2), bytearray(content)
    if how == 'cut': return bytes(data[:len(data)//2])
    if how == 'cut at the end': return bytes(data[:-20])
    if how == 'empty': return b''
    if how == 'text': return b'this is text, not a state\n'*100
    if how == 'zeros': data[1000:9000] = bytes(8000)
    if how == 'bits':
        for _ in range(200): data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


@pytest.mark.parametrize('how', ['cut', 'cut at the end', 'empty', 'text', 'zeros', 'bits', 'something else'])
def test_a_damaged_state_is_named_and_the_fit_begins_anew(state, tmp_path, how):
    file = tmp_path/'state.pth'
    if how == 'something else': torch.save(net().state_dict(), file)
    else: file.write_bytes(damaged(state, how))
    with pytest.warns(UserWarning, match='state.pth: damaged .*; the fit begins anew'): learn = fit(learner(), file)
    assert len([values for values in learn.recorder.values if len(values)]) == 5 and not file.exists()


def test_a_whole_state_is_gone_on_with(state, tmp_path):
    (tmp_path/'state.pth').write_bytes(state)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        resumed, whole = fit(learner(), tmp_path/'state.pth'), fit(learner(), tmp_path/'other.pth')
    assert all(torch.equal(a, b)
               for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True))


def test_the_state_of_another_net_is_left_alone(state, tmp_path):
    (tmp_path/'state.pth').write_bytes(state)
    with pytest.raises(StoreError,
                       match='state.pth: holds the state of another net or optimiser .*Name another file for '
                             'this fit, or delete it'):
        fit(learner(model=net(9)), tmp_path/'state.pth')
    assert (tmp_path/'state.pth').read_bytes() == state


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_state_that_may_not_be_read(state, tmp_path):
    (tmp_path/'state.pth').write_bytes(state)
    (tmp_path/'state.pth').chmod(0)
    with pytest.raises(StoreError, match='cannot be read'): fit(learner(), tmp_path/'state.pth')


@pytest.mark.parametrize('how', ['cut', 'empty', 'bits', 'text'])
def test_damaged_weights_of_a_run(tracking, tmp_path, how):
    recipe = Recipe(('a', 'b'), backbone_model('small_resnet', 2), describe(Frame()), 32)
    with tracked_run('kept', 'faults') as run_id:
        file = save_for_prediction(SimpleNamespace(model=make(recipe.model)), tmp_path, recipe)
        file.write_bytes(damaged(file.read_bytes(), how))
        open_store().log_artifact(run_id, file)
    with pytest.raises(PredictError, match='model.pth does not fit its recipe, or is damaged'): P.load_predictor(run_id)
