"Looking at results: tables that do not fit together, files that went away, nets of every make."
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from later import collecting

from har_nb.data.video import write_video
from har_nb.learning.metrics import predictions_table
from har_nb.learning.runs import load_table, log_metrics, log_table, tracked_run
from har_nb.learning.tracking import open_store

if not collecting:
    import torch
    from torch import nn

    from har_nb.learning import explain as E
    from har_nb.models import backbones

CLASSES = ['draw', 'jump', 'wave']


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close('all')


def table(seed=0, videos=12, **columns):
    rng = np.random.default_rng(seed)
    clips = pd.DataFrame(dict(path=[f'{i}.avi' for i in range(videos)],
                              label=np.resize(CLASSES, videos), group='g', split='test'))
    return predictions_table(rng.dirichlet(np.ones(3), videos), clips, CLASSES).assign(**columns)


def movie(path, n_frames):
    write_video(path, np.random.default_rng(n_frames).integers(0, 255, (n_frames, 16, 24, 3), np.uint8), codec='MJPG')


def test_differences_need_the_same_videos_labels_and_classes():
    one, other = table(0), table(1)
    found = E.class_differences(one, other)
    assert found['count'].sum() == len(one)
    assert list(found.difference) == sorted(found.difference, reverse=True)
    with pytest.raises(ValueError, match='12 and 11, 11 in both'): E.class_differences(one, other[1:])
    with pytest.raises(ValueError, match='12 and 12, 11 in both'):
        E.class_differences(one, other.assign(label=['jump', *other.label[1:]]))
    with pytest.raises(ValueError, match='different classes'):
        E.class_differences(one, other.rename(columns={'p_wave': 'p_fly'}))


def test_clips_that_are_parts_of_one_file_are_told_apart():
    spans = dict(path='long.avi', start=np.arange(12)*10, stop=np.arange(12)*10 + 10)
    one, other = table(0, **spans), table(1, **spans)
    shuffled = E.class_differences(one, other.sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(shuffled, E.class_differences(one, other))


def test_a_class_without_test_videos_is_left_out_and_an_empty_picture_says_why():
    one = table(0)[lambda t: t.label != 'wave']
    found = E.class_differences(one, one)
    assert set(found['class']) == {'draw', 'jump'} and (found.difference == 0).all() and (found.p == 1).all()
    with pytest.raises(ValueError, match='no class differs by 6% or more'): E.plot_class_differences(found, margin=.06)
    assert E.plot_class_differences(found).get_figure()


def test_top_losses_are_the_sure_and_wrong_ones(tmp_path):
    videos = table().assign(p_draw=[0.] + [.5]*11, p_jump=.25, p_wave=.25)
    worst = E.top_losses(videos, 3)
    assert worst.path[0] == '0.avi' and np.isfinite(worst.loss[0])
    assert len(E.top_losses(videos, 100)) == 12


def test_strips_of_short_long_and_missing_videos(tmp_path):
    movie(tmp_path/'0.avi', 3); movie(tmp_path/'1.avi', 40)
    assert E.video_strip(tmp_path/'0.avi', 6).shape == (16, 3*24, 3)
    assert E.video_strip(tmp_path/'1.avi', 6).shape == (16, 6*24, 3)
    assert E.video_strip(tmp_path/'1.avi', 4, start=10, stop=20).shape == (16, 4*24, 3)
    (tmp_path/'2.avi').write_bytes(b'broken')
    figure = E.plot_top_losses(table(videos=4), tmp_path, k=4)
    said = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert len(said) == 2
    assert any('cannot be opened' in text for text in said)
    assert any('not a video' in text for text in said)


@pytest.mark.parametrize('name', ['mobilenet_v2', 'efficientnet_b0', 'resnet50', 'densenet201', 'inception_v3'])
def test_grad_cam_of_every_backbone(name):
    net = backbones.build(backbones.resolve(name), 3)
    side = 96 if name == 'inception_v3' else 64
    maps = E.grad_cam(net, torch.randn(1, 3, side, side))
    assert maps.shape == (1, side, side) and np.isfinite(maps).all() and 0 <= maps.min() <= maps.max() <= 1
    layer = E.last_spatial_layer(net.eval(), torch.randn(1, 3, side, side))
    assert layer is {'mobilenet_v2': lambda: net.features, 'efficientnet_b0': lambda: net.features,
                     'resnet50': lambda: net.layer4, 'densenet201': lambda: net.features,
                     'inception_v3': lambda: net.Mixed_6e}[name]()


def test_grad_cam_leaves_the_net_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for parameter in net.parameters(): parameter.requires_grad_(False)
    images = torch.randn(2, 3, 8, 8)
    maps = E.grad_cam(net, images, target=[0, 1])
    assert maps.shape == (2, 8, 8) and net.training and not images.requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_map_with_nothing_for_the_class_is_zero():
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[0].weight.fill_(1.)
        net[0].bias.fill_(0.)
        net[4].weight.copy_(torch.tensor([[1.], [-1.]]))
    assert E.grad_cam(net, torch.ones(1, 3, 4, 4), target=0).min() == 1
    assert E.grad_cam(net, torch.ones(1, 3, 4, 4), target=1).max() == 0


def test_a_net_that_fails_leaves_no_hooks():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(RuntimeError): E.grad_cam(net, torch.randn(1, 3, 8, 8), target=0)
    assert not any(module._forward_hooks for module in net.modules())


def epochs(name, values):
    with tracked_run(name, 'explain') as run_id:
        for step, value in enumerate(values):
            log_metrics(dict(train_loss=1 - value, valid_loss=1.1 - value, acc_video=value, lr=.1), step)
        log_metrics(dict(test_acc_video=.5))
        log_table(table(len(values)), 'predictions.parquet')
    return run_id


def test_curves_of_runs_with_one_name(tracking):
    first, second = epochs('normal', [.1, .4]), epochs('normal', [.2, .3, .9])
    history = E.metric_history([first, second])
    assert set(history.run) == {f'normal {first[:6]}', f'normal {second[:6]}'}
    assert 'test_acc_video' not in set(history.metric)
    assert list(history[(history.run_id == second) & (history.metric == 'acc_video')].value) == [.2, .3, .9]
    assert set(E.metric_history(first).run) == {'normal'}
    assert set(E.metric_history(first, ['test_acc_video', 'missing']).metric) == {'test_acc_video'}
    with pytest.raises(ValueError, match='nothing to draw'): E.plot_curves(E.metric_history(epochs('short', [])))


def test_logging_frees_its_figures(tracking, tmp_path):
    first, second = epochs('normal', [.1, .4]), epochs('MEI', [.2, .3, .9])
    movie(tmp_path/'0.avi', 5)
    open_figures = plt.get_fignums()
    with tracked_run('looks', 'explain', run_id=second):
        E.log_curves(others=[first]); E.log_top_losses(tmp_path, k=2); E.log_class_differences(first, margin=.9)
    E.log_class_differences(second, first)
    assert plt.get_fignums() == open_figures
    names = {run: {file.path for file in open_store().list_artifacts(run)} for run in (first, second)}
    assert {'curves.png', 'top_losses.png', 'top_losses.csv', 'class_differences.csv'} <= names[second]
    assert {'class_differences.csv', 'class_differences.png'} <= names[first]
    assert len(load_table('top_losses.csv', second)) == 2
