"A fit that takes a tenth of a second, and processes that are killed in it."
import numpy as np
import torch
from children import die
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import nn

from har_nb.learning import learner as L
from har_nb.learning.callbacks import EpochCallback, TrackingCallback, save_weights
from har_nb.learning.tracking import open_store


class Stripes(list):
    "Images with horizontal or vertical stripes."
    def __init__(self, count=64, seed=0):
        rng, labels = np.random.default_rng(seed), np.arange(count) % 2
        images = rng.normal(0, 1.2, (count, 1, 8, 8)).astype(np.float32)
        images[labels == 0, :, ::2] += 1; images[labels == 1, :, :, ::2] += 1
        super().__init__(zip(torch.tensor(images), torch.tensor(labels), strict=True))
    def new_empty(self): return []


def net(width=8):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


def learner(*callbacks, model=None):
    L.set_seed(0)
    loaders = DataLoaders.from_dsets(Stripes(), Stripes(48, 1), bs=16, num_workers=0, device='cpu')
    return L.make_learner(loaders, model or net(), callbacks=callbacks)


def fit(learn, checkpoint=None):
    L.fit(learn, 5, 1e-2, keep_best='valid_loss', progress=False, checkpoint=checkpoint)
    return learn


def fitted(checkpoint=None, *callbacks):
    "A learner after its fit, which is logged to the open run."
    return fit(learner(TrackingCallback(save=save_weights), *callbacks), checkpoint)


class DieAfter(EpochCallback):
    "Kill the process behind an epoch, before or after its state is saved."
    def __init__(self, epoch, order): self.last, self.order = epoch, order
    def trained_epoch(self, measured):
        if self.epoch == self.last: die()


class DieIn(Callback):
    "Kill the process in the middle of an epoch."
    def __init__(self, epoch): self.last = epoch
    def after_batch(self):
        if self.training and self.epoch == self.last and self.iter == 2: die()


class NoBatch(Callback):
    "What is trained already is not trained again."
    def before_batch(self): assert not self.training, f'a batch of epoch {self.epoch} is trained'


def curve(run_id, name='valid_loss'): return [(m.step, m.value) for m in open_store().get_metric_history(run_id, name)]
