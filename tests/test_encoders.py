"""Encoders that others have trained: what they are shown is what their own libraries would show them, number for
number, and their weights come from a folder."""
import json
from importlib import import_module

import numpy as np
import pytest
from later import collecting

if not collecting:
    import torch

    from har_nb.models.weights import (
        KINETICS,
        about_hub,
        about_kinetics,
        about_timm,
        described,
        frame_encoder,
        hub_encoder,
        kinetics,
        with_head,
    )

SIZES = ((90, 121), (121, 90), (64, 64), (240, 427))


def frames(size, n=3):
    "Edges, slopes and noise."
    random, (height, width) = np.random.default_rng(0), size
    slope = np.linspace(0, 255, width)[None, None, :, None]*np.ones((n, height, 1, 3))
    made = slope.astype(np.uint8)
    made[:, ::7] = random.integers(0, 256, made[:, ::7].shape, dtype=np.uint8)
    made[:, :, 20:40] = 255
    return made


def apart(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize('size', SIZES)
def test_preparation_of_torchvision(size):
    "Its own transform, which has antialias off."
    video, clip = import_module('torchvision.models.video'), frames(size)
    for name, record in KINETICS.items():
        theirs = getattr(video, f'{record}_Weights').DEFAULT.transforms()(torch.from_numpy(clip).permute(0, 3, 1, 2))
        assert apart(about_kinetics(name).prepare(clip), theirs) < 1e-5, name


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    "Published folders of both kinds, small, written by the library itself: kind -> folder, processor."
    library = pytest.importorskip('transformers',
                                  reason="the library transformers is not here: pip install 'har_nb[transformers]'")
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    mae = library.VideoMAEConfig(image_size=32, num_frames=4, intermediate_size=64, **small)
    jepa = library.VJEPA2Config(crop_size=32, frames_per_clip=4, pred_hidden_size=32,
                                pred_num_attention_heads=2, pred_num_hidden_layers=1, **small)
    seen = dict(crop_size=dict(height=32, width=32), image_mean=[.485, .456, .406], image_std=[.229, .224, .225])
    of_mae = library.VideoMAEImageProcessor(size=dict(shortest_edge=36), **seen)
    of_jepa = library.VJEPA2VideoProcessor(**seen)
    made = {}
    torch.manual_seed(0)
    for name, net, processor in (
        ('videomae', library.VideoMAEModel(mae), of_mae),
        ('vjepa2', library.VJEPA2Model(jepa), of_jepa),
    ):
        folder = tmp_path_factory.mktemp(name)
        net.eval().save_pretrained(folder); processor.save_pretrained(folder)
        (folder/'README.md').write_text('---\nlicense: mit\n---\n')
        made[name] = folder, processor, net
    return made


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kind', ['videomae', 'vjepa2'])
def test_preparation_of_transformers(hub, kind, size):
    folder, processor, _ = hub[kind]
    clip = frames(size)
    given = [list(clip)] if kind == 'videomae' else torch.from_numpy(clip).permute(0, 3, 1, 2)
    theirs = next(iter(processor(given, return_tensors='pt').values()))
    assert apart(about_hub(folder).prepare(clip), theirs[0].transpose(0, 1)) < 1e-5


def test_what_the_folder_says_counts_and_not_what_the_class_takes(hub):
    "The mean of VideoMAE is ImageNet's, that of the class by now 0.5."
    folder, processor, _ = hub['videomae']
    assert about_hub(folder).prepare.mean == (.485, .456, .406) and list(type(processor)().image_mean) == [.5, .5, .5]


@pytest.mark.parametrize('kind', ['videomae', 'vjepa2'])
def test_an_encoder_of_the_hub_is_the_net_in_the_folder(hub, kind):
    "The same numbers as the library's own net, and made again without the folder from what a recipe holds."
    folder, _, net = hub[kind]
    about, clip = about_hub(folder), torch.randn(2, 3, 4, 32, 32)
    encoder = hub_encoder(**described(folder), weights=folder).eval()
    with torch.no_grad():
        x = clip.transpose(1, 2)
        theirs = net(x).last_hidden_state if kind == 'videomae' else net.get_vision_features(x)
        assert apart(encoder(clip), theirs.mean(1)) < 1e-5
    assert (about.licence, about.frames, about.overlap, len(about.digest)) == ('mit', 4, 'unknown', 64)
    assert encoder.weights.mean == about.prepare.mean and with_head(encoder, 5)(clip).shape == (2, 5)
    again = hub_encoder(**json.loads(json.dumps(described(folder))))
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in encoder.state_dict().items()
    }


@pytest.mark.parametrize('name', ['mobilenetv1_100.ra4_e3600_r224_in1k',
                                  'resnet18.tv_in1k', 'vit_tiny_patch16_224.augreg_in21k'])
def test_preparation_of_timm(name):
    from PIL import Image
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg
    theirs = create_transform(**resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict()))
    for size in SIZES:
        clip = frames(size)
        assert apart(about_timm(name).prepare(clip),
                     torch.stack([theirs(Image.fromarray(frame)) for frame in clip], 1)) < 1e-5


def test_files_of_torchvision_and_timm_are_read(tmp_path):
    from timm import create_model
    torch.manual_seed(0)
    theirs = import_module('torchvision.models.video').s3d(num_classes=400).eval()
    torch.save(theirs.state_dict(), tmp_path/'s3d.pth')
    clip = torch.randn(1, 3, 16, 224, 224)[..., ::3, ::3]
    encoder = kinetics('s3d', tmp_path/'s3d.pth').eval()
    with torch.no_grad(): assert apart(encoder.body.features(clip), theirs.features(clip)) == 0
    net = create_model('mobilenetv1_100').eval()
    torch.save(net.state_dict(), tmp_path/'mobilenet.pth')
    encoder = frame_encoder('mobilenetv1_100.ra4_e3600_r224_in1k', tmp_path/'mobilenet.pth').eval()
    small = torch.randn(1, 3, 2, 64, 64)
    with torch.no_grad():
        features = net.forward_features(small[0].transpose(0, 1))
        assert apart(encoder(small)[0], net.forward_head(features, pre_logits=True).mean(0)) < 1e-5
