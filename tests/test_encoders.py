"""Encoders that others have trained: what they are shown is what their own libraries would show them, number for
number, and their weights come from a folder."""
import json
from importlib import import_module

import numpy as np
import pytest
from later import collecting

if not collecting:
    import torch

    from har_nb.data.video import frames as frames_of
    from har_nb.experiments import encoders
    from har_nb.experiments.tables import SettingsError, run
    from har_nb.learning.features import frame_features
    from har_nb.learning.predictor import load_predictor
    from har_nb.learning.recipe import Make, describe
    from har_nb.models.weights import (
        KINETICS,
        Preparation,
        about_hub,
        about_kinetics,
        about_timm,
        described,
        frame_encoder,
        hub_encoder,
        kinetics,
        with_head,
    )
    from har_nb.samples.loaders import sample_loader
    from har_nb.samples.modalities import Frames, sample_video
    from har_nb.samples.samplers import AllClips, EveryKth, Segments
    from har_nb.samples.store import decode_samples

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


# From a video file to what the net is handed

SMALL = dict(resize=(28, 36), crop=(24, 24), mean=(.45, .4, .35), std=(.225, .2, .25))


def tiny(width=8, **preparation):
    "The description of an encoder that is quick."
    body = Make('har_nb.models.r3d:small_3d', dict(num_classes=width))
    prepare = describe(Preparation(**SMALL | preparation))
    return Make('har_nb.models.weights:Encoder', dict(body=body, width=width, prepare=prepare))


@pytest.mark.parametrize('name', ['r3d_18', 'mvit_v2_s'])
def test_a_store_of_prepared_frames_gives_what_torchvision_gives(name, small_set, tmp_path):
    "Decoded, stored, loaded and normalised by us; decoded by us, and all the rest by torchvision."
    prepare, clips = about_kinetics(name).prepare, small_set.subset(['ClimbUp'])
    (samples,), report = decode_samples(clips, [Frames(AllClips(3), prepare=prepare)], 7, tmp_path, workers=1,
                                        progress=False, only=np.flatnonzero(clips.clips.split == 'test')[:1])
    assert not len(report) and samples.shape == (3, *prepare.crop, 3)
    loader = sample_loader(samples, clips, 'test', prepare.mean, prepare.std, batch_size=2, device='cpu')
    batch = next(iter(loader))[0].as_subclass(torch.Tensor)
    weights = getattr(import_module('torchvision.models.video'), f'{KINETICS[name]}_Weights').DEFAULT
    shown = torch.from_numpy(frames_of(clips.paths[samples.clip[0]])).permute(0, 3, 1, 2)
    for place, clip in enumerate(batch): assert apart(clip, weights.transforms()(shown[3*place:3*place + 3])) < 1e-5


def test_prepared_frames_are_those_of_every_other_library(made):
    "Scaling by Pillow, by averages and by neighbours: what is stored is what the preparation makes of the same frames."
    video = made('h264')
    shown = frames_of(video)
    for scaling in ('bilinear', 'bilinear, antialias', 'pillow bilinear', 'pillow bicubic'):
        prepare = Preparation(48, (40, 44), (.5,)*3, (.5,)*3, scaling, 'floor')
        for sampler in (EveryKth(9), Segments(4), AllClips(8)):
            (samples,), _ = sample_video(video, [Frames(sampler, prepare=prepare)], 224)
            picked = shown[sampler(len(shown))]
            expected = np.stack([prepare.pictures(clip) for clip in picked])
            np.testing.assert_array_equal(samples, expected if sampler.length > 1 else expected[:, 0])


def test_two_preparations_and_plain_frames_lie_apart():
    plain, one = Frames(AllClips(8)), Frames(AllClips(8), prepare=Preparation(**SMALL))
    assert len({repr(plain), repr(one), repr(Frames(AllClips(8), prepare=Preparation(**SMALL | dict(resize=30))))}) == 3
    assert repr(plain) == 'Frames(sampler=AllClips(length=8))' and plain.shape(32) == (8, 32, 32, 3)
    assert one.shape(32) == (8, 24, 24, 3) and describe(one).build() == one
    with pytest.raises(ValueError, match='keep the shape that their encoder expects'): one.as_shown(None, 'crop')


@pytest.mark.parametrize('row', ['frozen', 'fine-tuned'])
def test_a_row_that_stands_on_an_encoder_is_run_and_used_again(tracking, small_set, tmp_path, row):
    clips = small_set.subset(['ClimbUp', 'Running'])
    result = run(encoders.kinetics, clips, rows=[row], encoder=tiny(), n=8, head_epochs=2, epochs=1,
                 cache=tmp_path, progress=False)
    assert result.note.tolist() == ['from random numbers']
    again = load_predictor(result.run_ids[0][0])
    assert again.modality == Frames(AllClips(8), prepare=Preparation(**SMALL)) and again.recipe.size == 24
    assert again.recipe.mean == SMALL['mean']
    video = clips.paths[np.flatnonzero(clips.clips.split == 'test')[0]]
    prepare, shown = Preparation(**SMALL), frames_of(video)[:8]
    with torch.no_grad(): expected = again.model.cpu()(prepare(shown)[None]).softmax(1)[0].numpy()
    np.testing.assert_allclose(again.predict(video).samples[0], expected, atol=1e-5)


def test_features_of_whole_clips_are_what_the_net_says_of_them(small_set, tmp_path):
    clips, net = small_set.subset(['ClimbUp']), tiny().build().eval()
    (samples,), _ = decode_samples(clips, [Frames(AllClips(8), prepare=net.prepare)], 24, tmp_path, workers=1,
                                   progress=False, only=[0, 1])
    found = frame_features(net, samples, tmp_path, *(SMALL['mean'], SMALL['std']), whole=True, progress=False)
    assert found.shape == (8,)
    shown = frames_of(clips.paths[0])[:8]
    with torch.no_grad(): expected = net(net.prepare(shown)[None])[0].numpy()
    np.testing.assert_allclose(found.read([0])[0], expected, rtol=1e-3, atol=1e-5)


def test_what_is_no_encoder_is_named():
    with pytest.raises(SettingsError, match='small_3d is no encoder'):
        encoders.preparation_of(Make('har_nb.models.r3d:small_3d', dict(num_classes=2)))
    with pytest.raises(SettingsError, match='There are r3d_18'): encoders.preparation_of('r3d_50')
    assert encoders.preparation_of(tiny()) == Preparation(**SMALL)
    assert encoders.preparation_of('mvit_v2_s') == about_kinetics('mvit_v2_s').prepare


def test_the_table_of_encoders_is_a_command(har, small_set):
    "Without weights there is nothing to begin with but random numbers, which the row says; a wrong name is told."
    said = har('run', 'encoders.kinetics', '--data', small_set.root, '--set', 'encoder=r3d_50')
    assert said.code == 1 and 'There are r3d_18' in said.err
    assert encoders.kinetics.rows[0].sees(dict(encoder='r3d_18', n=4)).shape(9) == (4, 112, 112, 3)
