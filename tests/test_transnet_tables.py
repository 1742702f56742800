"""TransNet's tables: every printed number, rows that are stopped and go on, nets that predict from their run, streams,
and what is said of wrong settings."""
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from children import dying, in_child
from later import collecting, no_grad, parametrize

from har_nb.data.masks import MaskError, drawn_people, people_from
from har_nb.data.synthetic import build
from har_nb.experiments.results import load_predictions
from har_nb.learning.runs import runs_table
from har_nb.learning.tracking import open_store

if not collecting:
    import torch

    from har_nb.experiments.tables import RowsFailed, SettingsError, run, settings_of
    from har_nb.learning.callbacks import Checkpoint
    from har_nb.learning.predictor import load_predictor
    from har_nb.models.backbones import mobilenet_v1, mobilenet_v2, small_resnet
    from har_nb.models.transnet import (
        FrameStream,
        GRUHead,
        MeanHead,
        Table1Head,
        TextHead,
        TransNet,
        dense,
        mean,
        narrow,
        r3d_18,
        scaled_mean,
        vgg16,
        vgg19,
    )
    from har_nb.papers.transnet.ablations import body, frames, heads, leak
    from har_nb.papers.transnet.person_encoder import person_encoder
    from har_nb.papers.transnet.tables import table2, table3, table4, table5

TINY = dict(preset='demo', size=32, n=6, freeze_epochs=2, epochs=1, hss_epochs=1, hss_pictures=36, progress=False)
TEXT = '''94.35 0.33 100.00 0.00 100.00 0.00 88.31 0.54 95.86 0.41 96.40 0.34
          90.12 0.38 96.25 0.43 98.01 0.48 80.06 0.72 88.26 0.51 94.39 0.26'''
LITERATURE = {3: '90.70 92.30 92.49 93.96 95.00 94.90 87.52 96.30 91.93 97.67 91.40 89.40 96.53 90.83 90.90',
              4: '65.40 88.00 82.30 82.30 92.50 94.00 95.60 88.60 94.50 92.97 86.10 96.90 93.40 97.40 '
                 '94.82 96.80 92.80 95.68',
              5: '56.80 44.60 35.70 48.80 54.50 54.60 69.74 77.40 73.30 76.30 71.57 73.40 68.60 72.60'}


@pytest.fixture(scope='module')
def sports(tmp_path_factory):
    return build(tmp_path_factory.mktemp('sets')/'sports', people=4, takes=2, size=(48, 64), progress=False)


def rows(table='transnet.table2'):
    runs = runs_table(table)
    return runs[runs['tags.kind'] == 'row'] if len(runs) else runs


def test_every_printed_number_of_table_2():
    numbers = np.array(TEXT.split(), float).reshape(12, 2)
    assert [line.printed for line in table2.rows] == numbers[:, 0].tolist()
    assert [(line['Acc.'], line['±']) for line in table2.context] == [tuple(pair) for pair in numbers.tolist()]
    assert {(line.settings['backbone'].rpartition(':')[2], line.settings['pretraining']) for line in table2.rows} == {
        (net, start)
        for net in ('mobilenet_v1', 'mobilenet_v2', 'vgg16', 'vgg19')
        for start in (None, 'imagenet', 'people')
    }


def test_every_printed_number_of_tables_3_to_5():
    for number, (table, printed) in {3: (table3, 100.), 4: (table4, 98.32), 5: (table5, 97.93)}.items():
        assert table.rows[0].printed == printed
        assert [line['Acc.'] for line in table.context] == np.array(LITERATURE[number].split(), float).tolist()


@parametrize(
    'table',
    ['transnet.table2', 'transnet.table3', 'transnet.table4', 'transnet.table5', 'transnet_ablations.heads',
     'transnet_ablations.frames', 'transnet_ablations.body', 'transnet_ablations.leak'],
    lambda: [table2, table3, table4, table5, heads, frames, body, leak],
)
def test_tables_are_whole(table):
    assert table.sample == 'clip'
    assert list(table.protocols) == ['paper', 'official']
    assert set(table.presets) == {'demo', 'small'}
    assert len({line.name for line in table.rows}) == len(table.rows)
    for preset in (None, *table.presets): settings_of(table, preset)
    assert (table.settings['size'], table.settings['n'],
            table.settings['hss_epochs'], table.settings['hss_batch_size']) == (224, 12, 200, 24)


@pytest.mark.parametrize('wrong,word', [
    (dict(head='nothing'), 'GRUHead'),
    (dict(vector='nothing'), 'scaled_mean'),
    (dict(n=1), '2 or more'),
    (dict(n=5, head='Table1Head'), 'even'),
    (dict(size=31), '32'),
    (dict(weights='lost'), 'lost'),
    (dict(weights=None), 'folder'),
    (dict(masks='lost'), 'lost'),
    (dict(width=1.5), 'at most 1'),
    (dict(freeze_epochs=0), 'freeze'),
])
def test_wrong_settings_are_told_before_anything_is_decoded(sports, wrong, word, tmp_path, tracking):
    with pytest.raises(SettingsError, match=word):
        run(table2, sports, preset='demo', cache=tmp_path/'cache', progress=False, **wrong)
    assert not (tmp_path/'cache').exists()


@pytest.mark.slow
def test_missing_weights_are_named_and_the_others_measured(sports, tmp_path, tracking):
    (tmp_path/'weights').mkdir()
    with pytest.raises(RowsFailed, match=r'vgg16_imagenet.pth: no such file') as failed:
        run(table2, sports, rows=['VGG16, none', 'VGG16, ImageNet', 'VGG16, HSS'],
            protocols=['official'], weights=str(tmp_path/'weights'), cache=tmp_path/'cache', **TINY)
    assert len(failed.value.failures) == 1 and '--rows' in str(failed.value)
    assert dict(rows().set_index('tags.row').status) == {'VGG16, none': 'FINISHED',
                                                         'VGG16, ImageNet': 'FAILED', 'VGG16, HSS': 'FINISHED'}


def test_a_folder_without_masks_fails_the_row_that_wants_them(sports, tmp_path, tracking):
    (tmp_path/'masks').mkdir()
    with pytest.raises(RowsFailed, match='neither DATASET/img'):
        run(table2, sports, rows=['MobileNet, HSS'], protocols=['official'],
            masks=str(tmp_path/'masks'), cache=tmp_path/'cache', **TINY)


@pytest.mark.slow
def test_demo_rows_under_both_protocols_and_from_their_runs(sports, tmp_path, tracking):
    table = run(table2, sports, rows=['MobileNetV2, none', 'MobileNetV2, HSS'], cache=tmp_path/'cache', **TINY)
    assert len(table) == 4 and set(table.protocol) == {'paper', 'official'}
    assert (table.set_index('protocol').leaked['paper'] > .5).all()
    assert (table.set_index('protocol').leaked['official'] == 0).all()
    assert len(list((tmp_path/'cache'/'encoders').glob('*.pth'))) == 1, 'one encoder serves both protocols'
    for line in table[table.protocol == 'official'].itertuples():
        run_id = line.run_ids[0]
        predictor, said = load_predictor(run_id, device='cpu'), load_predictions(run_id)
        for row in np.unique(said.clip)[:4]:
            np.testing.assert_allclose(predictor.predict(sports.paths[row]).samples,
                                       said.probabilities[said.clip == row], atol=2e-3)
    about = json.loads(Path(open_store().download_artifacts(run_id, 'person_encoder.json', str(tmp_path))).read_text())
    assert about['masks'] == 'drawn people'
    assert rows().set_index('run_id')['metrics.hss_iou'][run_id] == pytest.approx(about['iou'])


@pytest.mark.slow
def test_questions_to_a_trained_net(sports, tmp_path, tracking):
    names = ['TransNet', 'TransNet, test frames shuffled', 'TransNet, test frames backwards',
             'mean over time', 'logistic, first + middle + last']
    table = run(heads, sports, rows=names, protocols=['official'], cache=tmp_path/'cache', **TINY).set_index('row')
    assert set(table.index) == set(names)
    said = {name: load_predictions(table.run_ids[name][0]).probabilities for name in names}
    assert not np.array_equal(said['TransNet'], said['TransNet, test frames shuffled'])
    assert not np.array_equal(said['TransNet'], said['TransNet, test frames backwards'])


@pytest.mark.slow
def test_a_tuned_body_and_a_3d_net(sports, tmp_path, tracking):
    names = ['frozen', 'frozen, then all', 'R3D-18 from random numbers']
    table = run(body, sports,
                rows=names, protocols=['official'], cache=tmp_path/'cache', **TINY | dict(width=.125)).set_index('row')
    nets = {name: load_predictor(table.run_ids[name][0], device='cpu').model for name in names}
    frozen, tuned = (nets[name].net.state_dict() for name in names[:2])
    assert any(not torch.equal(value, tuned[name]) for name, value in frozen.items() if value.is_floating_point())
    assert table.gflops[names[2]] > table.gflops[names[0]]


@pytest.mark.slow
def test_killed_in_its_second_phase_it_goes_on_and_ends_where_an_undisturbed_one_does(sports, tmp_path, tracking):
    asked = TINY | dict(protocols=['official'], rows=['MobileNet, HSS'], epochs=12, freeze=False)
    def killed():
        # the encoder's only epoch, then the third one of the second phase; the first keeps no state
        Checkpoint.write = dying(Checkpoint.write, after=3)
        run(table2, sports, cache=tmp_path/'cache', **asked)
    assert in_child(killed) == -signal.SIGKILL # this process has not opened the store yet
    def steps(run_id): return [metric.step for metric in open_store().get_metric_history(run_id, 'train_loss')]
    assert list(rows().status) == ['RUNNING'] and sorted(steps(rows().run_id.iloc[0])) == list(range(5))
    run(table2, sports, cache=tmp_path/'cache', **asked)
    assert list(rows().status) == ['FINISHED']
    assert sorted(steps(rows().run_id.iloc[0])) == list(range(14)), 'one run, no gap, no repeat'
    first = load_predictions(rows().run_id.iloc[0]).probabilities
    run(table2, sports, cache=tmp_path/'other', again=True, **asked)
    np.testing.assert_allclose(load_predictions(rows().run_id.iloc[0]).probabilities, first, atol=1e-5)


@parametrize(
    'head',
    ['TextHead', 'Table1Head', 'GRUHead', 'MeanHead'],
    lambda: [TextHead, Table1Head, GRUHead, MeanHead],
)
@parametrize('vector', ['mean', 'scaled_mean', 'dense'], lambda: [mean, scaled_mean, dense])
def test_a_stream_says_what_the_net_says(head, vector):
    torch.manual_seed(0)
    model = TransNet(narrow(mobilenet_v1, .25), 5, n=6, head=head, vector=vector, size=32).eval()
    video = torch.randn(17, 3, 32, 32)
    for interval in (1, 4, 30):
        answers = dict(FrameStream(model, interval)(video))
        assert [*answers] == [*range(5, 17, interval)]
        with torch.inference_mode():
            expected = torch.cat([model(video[last - 5:last + 1].transpose(0, 1)[None]).softmax(1) for last in answers])
        torch.testing.assert_close(torch.stack([*answers.values()]), expected, atol=1e-5, rtol=1e-5)


def test_a_stream_of_real_frames_says_what_predict_says(features_file, footage):
    model = TransNet(mobilenet_v1, 4, n=12, vector=scaled_mean, size=96, weights=features_file).eval()
    from har_nb.data.video import frames as read
    from har_nb.samples.loaders import View, as_batch
    from har_nb.samples.modalities import resize
    video = resize(read(next(iter(footage.values())))[:20], 96)
    pictures = View(model.weights.mean, model.weights.std).encodes(as_batch(video)).as_subclass(torch.Tensor)
    answers = dict(FrameStream(model, 3)(pictures))
    with torch.inference_mode():
        for last, answer in answers.items():
            torch.testing.assert_close(answer, model(pictures[last - 11:last + 1].transpose(0, 1)[None]).softmax(1)[0],
                                       atol=1e-5, rtol=1e-4)


@parametrize(
    'backbone',
    ['mobilenet_v1', 'mobilenet_v2', 'vgg16', 'vgg19', 'small_resnet', 'r3d_18'],
    lambda: [mobilenet_v1, mobilenet_v2, vgg16, vgg19, small_resnet, r3d_18],
)
@no_grad
def test_narrow_nets_of_full_width_have_the_layers_of_the_whole(backbone):
    with torch.device('meta'): whole, same = backbone(weights=None), narrow(backbone, 1.)() # hundreds of MB of weights
    half = narrow(backbone, .5)()
    assert {name: value.shape for name, value in same.state_dict().items()} == {
        name: value.shape for name, value in whole.state_dict().items()
    }
    clips = torch.randn(2, 3, 4, 32, 32) if backbone is r3d_18 else torch.randn(2, 3, 32, 32)
    assert half.eval()(clips).shape == whole.eval()(clips.to('meta')).shape and half(clips).isfinite().all()
    with pytest.raises(ValueError, match='no published weights'): narrow(backbone, .5)(weights='DEFAULT')


def test_encoders_of_several_settings_are_several(tmp_path):
    asked = dict(backbone='small_resnet', cache=tmp_path, size=32, pictures=36, epochs=1)
    files = [person_encoder(**asked | other)[0]
             for other in ({}, dict(seed=1), dict(epochs=2), dict(pictures=54), dict(lr=1e-3), dict(width=.5))]
    assert len(set(files)) == 6 and person_encoder(**asked)[0] == files[0]
    assert not list((tmp_path/'encoders').glob('*.checkpoint*')) and not list((tmp_path/'encoders').glob('*.part'))


def test_people_come_from_a_folder_as_from_the_pen(tmp_path):
    import cv2
    people = drawn_people(2, 32)
    for place in ('images', 'masks'): (tmp_path/place).mkdir()
    for number, (picture, mask) in enumerate(zip(people.pictures, people.masks, strict=True)):
        cv2.imwrite(str(tmp_path/'images'/f'{number:03d}.png'), picture[..., ::-1])
        cv2.imwrite(str(tmp_path/'masks'/f'{number:03d}.png'), mask.astype(np.uint8))
    found = people_from(tmp_path, 32)
    assert np.array_equal(found.pictures, people.pictures) and np.array_equal(found.masks, people.masks)
    file, about = person_encoder('small_resnet', tmp_path/'cache', masks=tmp_path, size=32, epochs=1)
    assert about['pictures'] == len(people) and file.exists()
    (tmp_path/'masks'/'000.png').unlink()
    with pytest.raises(MaskError, match='000.png'):
        person_encoder('small_resnet', tmp_path/'cache', masks=tmp_path, size=32, epochs=1)
