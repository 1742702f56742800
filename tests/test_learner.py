"Training: repeatable, stopped when it should be, and never silently wrong."
import copy
import random
import sys

import numpy as np
import pytest
from later import collecting

from har_nb.learning.runs import tracked_run
from har_nb.learning.tracking import open_store

if not collecting:
    import torch
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders, TfmdDL
    from fastai.learner import load_learner
    from torch import nn

    from har_nb.learning import learner as L
    from har_nb.learning.callbacks import (
        FiniteLoss,
        KeepBest,
        LossError,
        StopAbove,
        TrackingCallback,
        VideoAccuracy,
        acc_image,
        export_learner,
        save_weights,
    )


pytestmark = pytest.mark.usefixtures('one_thread')


class Stripes(list):
    "Images with horizontal or vertical stripes, three to a clip."
    def __init__(self, count=96, seed=0):
        rng, labels = np.random.default_rng(seed), np.arange(count)//3 % 2
        images = rng.normal(0, .5, (count, 1, 8, 8)).astype(np.float32)
        images[labels == 0, :, ::2] += 1; images[labels == 1, :, :, ::2] += 1
        super().__init__(zip(torch.tensor(images), torch.tensor(labels), strict=True))
        self.clip = np.arange(count)//3
    def new_empty(self): return []


def net():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def learner(seed=0, train=None, **kwargs):
    L.set_seed(seed)
    loaders = DataLoaders.from_dsets(train or Stripes(), Stripes(48, 1), bs=16, num_workers=0, device='cpu')
    return L.make_learner(loaders, net(), **kwargs)


def same(first, second): return all(torch.equal(a, b) for a,b in zip(first.values(), second.values(), strict=True))


def state(learn): return copy.deepcopy(learn.model.state_dict())


def epochs(learn): return len(learn.recorder.values)


def test_same_seed_gives_identical_weights():
    trained = [learner(seed) for seed in (0, 0, 1)]
    for learn in trained: L.fit(learn, 2, 1e-2, progress=False)
    first, second, other = map(state, trained)
    assert same(first, second) and not same(first, other)


def test_search_changes_nothing_and_logs_nothing(tracking):
    learn = learner(callbacks=[TrackingCallback(), StopAbove(-1.), KeepBest()])
    before, generators = state(learn), (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    with tracked_run('search', 'lessons') as run_id: found = L.find_lr(learn, batches=40)
    assert same(before, learn.model.state_dict()) and learn.opt is None
    assert (random.getstate(), np.random.get_state()[1].tolist()) == generators[:2]
    assert torch.equal(torch.get_rng_state(), generators[2])
    assert open_store().get_run(run_id).data.metrics == {} and 1e-5 <= found.value <= 1e-1


def test_fit_with_search_equals_fit_with_its_result():
    searched, told = learner(), learner()
    L.fit(told, 1, L.fit(searched, 1, progress=False), progress=False)
    assert same(state(searched), state(told))


def test_fit_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    L.fit(learner(), 1, keep_best='acc_image', progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kwargs, why',
                         [(dict(low=1e-9, high=1e-8), 'is not within'), (dict(batches=8), 'the loss is lost after')])
def test_unusable_advice_falls_back(kwargs, why):
    found = L.find_lr(learner(), fallback=3e-4, **kwargs)
    assert found.value == 3e-4 and found.rule.startswith('fallback') and why in found.rule


def test_search_on_broken_images_falls_back_and_fit_says_why():
    broken = Stripes()
    for image,_ in broken: image.fill_(float('nan'))
    learn = learner(train=broken)
    before = state(learn)
    assert L.find_lr(learn).rule.startswith('fallback')
    with pytest.raises(LossError, match='the loss is nan in epoch 0, batch 0, at learning rate'):
        L.fit(learn, 1, progress=False)
    assert same({k: v for k,v in before.items() if 'weight' in k},
                {k: v for k,v in learn.model.state_dict().items() if 'weight' in k})
    assert str(LossError(float('nan'), 1, 2, .1)).count('\n') == 0


def test_validation_loss_is_not_the_business_of_finite_loss():
    learn = learner()
    learn.dls.valid.dataset[0][0].fill_(float('inf'))
    L.fit(learn, 1, 1e-2, progress=False)
    assert any(isinstance(cb, FiniteLoss) for cb in learn.cbs)


def test_stop_above_is_strict_and_logged(tracking):
    def half(predictions, labels): return torch.tensor(.5)
    level = learner(metrics=[half], callbacks=[StopAbove(.5, 'half')])
    L.fit(level, 3, 1e-2, progress=False)
    assert epochs(level) == 3, 'equal is not above'
    learn = learner(callbacks=[StopAbove(.9), TrackingCallback()])
    with tracked_run('stops', 'lessons') as run_id: L.fit(learn, 30, 2e-2, progress=False)
    logged = [m.value for m in open_store().get_metric_history(run_id, 'acc_image')]
    assert logged[-1] > .9 and all(a <= .9 for a in logged[:-1]) and len(logged) == epochs(learn) < 30


def test_stop_in_the_first_phase_ends_the_fit_before_the_second():
    learn = learner(callbacks=[StopAbove(-1.)])
    L.fit(learn, 5, 1e-2, freeze_epochs=3, progress=False)
    assert epochs(learn) == 1


def test_stop_above_and_keep_best_ignore_validation_and_prediction():
    learn = learner(callbacks=[StopAbove(-1.), KeepBest('acc_image')])
    learn.validate(); learn.get_preds()
    assert not learn.stop_above.stopped and learn.keep_best.best_epoch is None


def test_frozen_epochs_train_the_head_only():
    seen = []
    class Look(Callback):
        def after_fit(self): seen.append(state(self.learn))
    learn = learner(callbacks=[Look()])
    start = state(learn)
    L.fit(learn, 1, 1e-2, freeze_epochs=1, progress=False)
    head, whole = seen
    assert torch.equal(head['0.weight'], start['0.weight']) and not torch.equal(head['5.weight'], start['5.weight'])
    assert not torch.equal(whole['0.weight'], head['0.weight'])


def test_keep_best_puts_back_the_best_epoch():
    learn = learner()
    L.fit(learn, 6, .3, keep_best='valid_loss', progress=False)
    losses = [values[1] for values in learn.recorder.values]
    with learn.no_bar(): assert learn.validate()[0] == pytest.approx(min(losses), abs=1e-4)


def test_video_accuracy_in_a_fit_and_its_predictions(tracking):
    learn = learner(metrics=[acc_image, VideoAccuracy()], callbacks=[TrackingCallback()])
    with tracked_run('video', 'lessons') as run_id: L.fit(learn, 2, 2e-2, progress=False)
    probabilities = L.predict_probabilities(learn, learn.dls.valid)
    labels = np.array([y for _,y in learn.dls.valid.dataset])
    by_clip = probabilities.reshape(16, 3, 2).mean(1).argmax(1)
    assert open_store().get_run(run_id).data.metrics['acc_video'] == pytest.approx((by_clip == labels[::3]).mean())
    with learn.no_bar():
        assert len(learn.get_preds(dl=TfmdDL(Stripes(30, 2), bs=16))[0]) == 30, 'another loader is no error'


@pytest.mark.parametrize('batches', [lambda x: [x], lambda x: [(x,)],
                                     lambda x: [(x, torch.zeros(4))], lambda x: iter([x[:2], x[2:]])])
def test_predictions_for_every_kind_of_batch(batches):
    model = net().train()
    images = torch.randn(4, 1, 8, 8)
    probabilities = L.predict_probabilities(model, batches(images))
    assert probabilities.shape == (4, 2) and probabilities.dtype == np.float32 and model.training
    np.testing.assert_allclose(probabilities, model.eval()(images).softmax(1).detach(), rtol=1e-5)


def test_head_is_found_in_torchvision_networks():
    from torchvision import models
    for build, head in (
        (models.mobilenet_v2, 'classifier.1'),
        (models.resnet18, 'fc'),
        (models.densenet121, 'classifier'),
        (models.efficientnet_b0, 'classifier.1'),
    ):
        model = build(num_classes=7)
        body, found = L.head_and_body(model)
        assert {id(p) for p in found} == {id(p) for p in model.get_submodule(head).parameters()}
        assert len(body) + len(found) == len(list(model.parameters()))


def test_learner_and_weights_can_be_kept_and_read(tmp_path, tracking):
    learn = learner(callbacks=[TrackingCallback(save=export_learner)])
    with tracked_run('kept', 'lessons') as run_id: L.fit(learn, 1, 1e-2, progress=False)
    expected = L.predict_probabilities(learn, learn.dls.valid)
    assert any(isinstance(cb, TrackingCallback) for cb in learn.cbs) and len(learn.dls.train.dataset) == 96
    loaded = load_learner(open_store().download_artifacts(run_id, 'learner.pkl', str(tmp_path)))
    assert not any(isinstance(cb, TrackingCallback) for cb in loaded.cbs)
    # memory layouts differ, sums round differently
    np.testing.assert_allclose(L.predict_probabilities(loaded, learn.dls.valid), expected, atol=1e-6)
    again = net()
    again.load_state_dict(torch.load(save_weights(learn, tmp_path), weights_only=True))
    np.testing.assert_allclose(L.predict_probabilities(again, learn.dls.valid), expected, atol=1e-6)


def test_no_bars_off_a_terminal(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, 'ipykernel', raising=False)
    L.fit(learner(), 1, 1e-2)
    assert capsys.readouterr() == ('', '')
