"""Weights as they are published: fp16, batch norm folded into the convolutions, padded like TensorFlow. A drawn net
that saw real pictures stands in for them."""
import json

import torch
from torch import nn
from torchvision import models

from har_nb.data.video import iter_frames
from har_nb.models.backbones import same_padding
from har_nb.samples.modalities import fitted, resize


def seen_and_folded(net, pictures):
    """The state of a net in fp16 whose batch norms, after they saw the pictures, have given their work to the
    convolutions before them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, .5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    with torch.no_grad():
        net.train()(pictures)
        conv = None
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                share = module.weight/(module.running_var + module.eps).sqrt()
                conv.weight *= share[:, None, None, None]
                module.bias -= module.running_mean*share
                module.weight.fill_((1 + module.eps)**.5); module.running_mean.zero_(); module.running_var.fill_(1)
            if isinstance(module, nn.Conv2d): conv = module
    return {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}


def write_weights(file, state):
    torch.save(state, file)
    file.with_suffix('.json').write_text(json.dumps(dict(mean=[.5]*3, std=[.5]*3, padding='same', batch_norm='folded')))
    return file


def squares(path, *numbers):
    "Frames of a video, 3 224 224 in -1..1, the middle square."
    for number, frame in enumerate(iter_frames(path, 0, numbers[-1] + 1)):
        if number not in numbers: continue
        yield torch.from_numpy(resize(fitted(frame, 224, 'crop'), 224)).permute(2, 0, 1).float()/127.5 - 1


def pictures_of(footage):
    "Two frames of each camera clip, B 3 224 224 in -1..1."
    return torch.stack([square for path in footage.values() for square in squares(path, 5, 60)])


def mobilenet_v2_file(file, pictures):
    torch.manual_seed(0)
    return write_weights(file, seen_and_folded(same_padding(models.mobilenet_v2()), pictures))


def mobilenet_v1_file(file, pictures):
    "As timm has MobileNetV1, without its head."
    import timm
    torch.manual_seed(0)
    state = seen_and_folded(timm.create_model('mobilenetv1_100', pad_type='same'), pictures)
    return write_weights(file, {name: value for name, value in state.items() if not name.startswith('classifier')})
