"""What a network uses: nets whose answer is known, a run end to end by the command, and that nobody takes a diagnosis
for a result."""
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from later import collecting

from har_nb.data.synthetic import ORDER_PAIRS
from har_nb.data.video import frames
from har_nb.learning.runs import load_table, runs_table
from har_nb.learning.tracking import open_store

if not collecting:
    import torch
    from torch import nn

    import har_nb.experiments.diagnose as D
    from har_nb.experiments.rerun import recorded
    from har_nb.learning.metrics import table_probabilities
    from har_nb.models.attention_fusion import EarlyFusion, LateFusion, TwoStacks
    from har_nb.models.backbones import small_resnet
    from har_nb.models.kpsem import with_kpsem
    from har_nb.models.mfnet import mfnet
    from har_nb.models.transnet import TransNet
    from har_nb.models.two_stream import TwoStream
    from har_nb.motion.mei import motion_embed
    from har_nb.samples.modalities import Frames
    from har_nb.samples.samplers import OneClip

TIME = ('reversed', 'shuffled', 'one frame', 'half the frames', 'twice as fast', 'half as fast')


def small(picture):
    shrunk = cv2.resize(np.asarray(picture, np.float32), (6, 5), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(shrunk.ravel()[None]/128 - 1)


def layer(classes):
    torch.manual_seed(0)
    return nn.Linear(90, len(classes), bias=False)


def asked(dataset, preprocess, **options):
    return D.diagnose(layer(dataset.classes), dataset, preprocess, progress=False, **options)


def test_a_single_frame_has_no_time(small_set):
    "The one that the library's own samplers take for the middle."
    found = asked(small_set, lambda pictures: small(Frames(OneClip(1))(pictures)[0]), probes=D.PROBES)
    assert [found.changed(name) for name in TIME] == [0]*len(TIME)
    assert (found.table.set_index('probe').moved[list(TIME)] == 0).all()
    assert found.changed('mirrored') > 0 and found.changed('colours gone') > 0


@pytest.mark.parametrize('name', ['mean', 'Equal Division'])
def test_a_sum_over_frames_has_no_order(small_set, name):
    how = {
        'mean': lambda pictures: small(pictures.sum(0, dtype=np.int64)/len(pictures)),
        'Equal Division': lambda pictures: small(motion_embed(pictures, len(pictures), len(pictures), 'equal')[0]),
    }[name]
    found = asked(small_set, how, probes=D.PROBES)
    assert found.changed('reversed') == found.changed('shuffled') == 0 < found.changed('one frame')
    assert (found.table.set_index('probe').moved[['reversed', 'shuffled']] == 0).all()


def end_less_beginning(pictures):
    third = len(pictures)//3
    return small(pictures[-third:].mean(0)) - small(pictures[:third].mean(0))


def test_backwards_an_action_is_its_twin(small_set):
    "Clips of an order pair are each other's reversal, so what is said of one backwards is said of the other."
    found = asked(small_set, end_less_beginning, probes=D.PROBES[:1])
    assert found.changed('reversed') == 1, 'the sign of every score is another one'
    before, after = found.of('as it is'), found.of('reversed')
    for up, down in ORDER_PAIRS:
        np.testing.assert_allclose(table_probabilities(after[after.label == up]),
                                   table_probabilities(before[before.label == down]), atol=1e-6)


def test_a_person_who_is_erased_leaves_the_same_clip_for_all_actions(built_set):
    clips = built_set.clips[built_set.clips.path.str.contains('_g02_')].assign(group='g02')
    one = replace(built_set, clips=clips.reset_index(drop=True))
    again, names = D.redrawing(one)
    for path in one.clips.path[:3]: assert np.array_equal(again(path), frames(one.root/path))
    empty = [again(path, erased=True) for path in one.clips.path]
    assert all(np.array_equal(empty[0], other) for other in empty[1:])
    found = asked(one, lambda pictures: small(pictures[0]), probes=D.drawing_probes(names))
    erased = found.of('person erased')
    assert erased.eval('predicted == label').sum() == 1
    assert erased.predicted.nunique() == 1
    assert np.isnan(found.table.low).all(), 'one person gives no interval over people'


def test_a_set_of_files_has_no_drawings(small_set, tmp_path):
    assert D.redrawing(replace(small_set, root=tmp_path)) == (None, ())


def nets():
    torch.manual_seed(0)
    body = mfnet(num_classes=4, width=12, groups=2, blocks=(1, 1, 1, 1))
    yield ('KPSEM', with_kpsem(body, 'conv3', size=(8, 32, 32)),
           torch.randn(2, 3, 8, 32, 32), ('frames', 'key point shifts'))
    yield 'early', TwoStacks(EarlyFusion(4, 5, 10, width=.1)), torch.randn(2, 5, 5, 32, 32), ('frames', 'motion')
    yield ('late', TwoStacks(LateFusion(4, 5, 10, width=.1, places=4, norm=True)),
           torch.randn(2, 5, 5, 64, 64), ('frames', 'motion'))
    yield 'TransNet', TransNet(small_resnet, 4, 5, size=32), torch.randn(2, 3, 5, 32, 32), ('encoder',)


def test_parts_that_nets_name_are_there_and_can_be_silent():
    for _, net, x, names in nets():
        parts = D.branches_of(net.eval())
        assert tuple(parts) == names
        with torch.no_grad():
            before = net(x)
            for module in parts.values():
                with D.silent([module]): assert not torch.equal(net(x), before)
                with D.remembered([module]) as kept: net(x.flip(0))
                with D.replayed([module], kept): assert not torch.equal(net(x), before)
                with D.remembered([module]) as kept: net(x)
                with D.replayed([module], kept): assert torch.equal(net(x), before)
            assert torch.equal(net(x), before), 'no hook stays'


def test_the_streams_of_two_nets():
    net = TwoStream(nn.Linear(3, 2), nn.Linear(3, 2)).eval()
    parts, x = D.branches_of(net), torch.randn(4, 3)
    with D.silent([parts['normal']]), D.silent([parts['motion']]):
        assert torch.allclose(net(x).exp(), torch.full((4, 2), .5))


def test_a_branch_without_weight_is_not_missed(small_set):
    torch.manual_seed(0)
    net = with_kpsem(mfnet(num_classes=8, width=12, groups=2, blocks=(1, 1, 1, 1)), 'conv3', size=(8, 32, 32))
    with torch.no_grad(): net.head.weight[:, -net.kpsem.features:] = 0
    def clip(pictures):
        taken = np.stack([cv2.resize(picture, (32, 32)) for picture in pictures[::10][:7]])
        return torch.from_numpy(taken).permute(3, 0, 1, 2)[None]/255
    answers = D.Preprocessed(net, clip, small_set.classes)
    found = D.diagnose(net, D.thinned(small_set, 6), clip, D.part_probes(D.parts_of_net(answers)), progress=False)
    moved = found.table.set_index('probe').moved
    assert moved['key point shifts silent'] == moved['key point shifts of another clip'] == 0
    assert moved['frames silent'] > 0 and moved['frames of another clip'] > 0


def test_what_cannot_be_diagnosed_is_told(small_set):
    with pytest.raises(D.DiagnoseError, match='preprocess='): D.diagnose(layer('ab'), small_set)
    known = D.Preprocessed(layer('ab'), lambda pictures: small(pictures[0]), ('ClimbUp', 'Running'))
    with pytest.raises(D.DiagnoseError, match='does not know BaseballSwing'): D.diagnose(known, small_set)


def test_a_run_end_to_end(trained, har, tmp_path, monkeypatch):
    "Two streams that are fused; the run keeps what came out, and a repeat does not look at it."
    monkeypatch.setenv('MLFLOW_TRACKING_URI', trained.uri)
    fused = runs_table('mei.table2', "tags.row = 'two-stream'").run_id[0]
    before = recorded(fused).metrics
    done = har('diagnose', fused, '--clips', 8, '--json', '--picture', tmp_path/'strips.png')
    assert done.code == 0, done.err
    said = json.loads(done.out)
    probes = {probe['probe']: probe for probe in said['probes']}
    assert said['clips'] == 8 and probes['as it is']['changed'] == 0 and probes['as it is']['low'] is None
    assert {
        'reversed', 'background swapped', 'person erased', 'normal silent', 'MEI, Gradient Division silent'
    } <= set(probes)
    assert probes['person erased']['accuracy'] == pytest.approx(12.5)
    tested = load_table('predictions.parquet', fused).set_index('path')
    same = load_table('diagnosis/said.parquet', fused).query('probe == "as it is"').set_index('path')
    shares = [name for name in same if name.startswith('p_')]
    np.testing.assert_allclose(same[shares], tested.loc[same.index, shares], atol=1e-5)
    files = {file.path for file in open_store().list_artifacts(fused, 'diagnosis')}
    assert files == {f'diagnosis/{name}' for name in ('table.csv', 'said.parquet', 'strips.png')}
    logged = open_store().get_run(fused).data.metrics
    assert logged['diagnose/person_erased/accuracy'] == pytest.approx(.125)
    assert (tmp_path/'strips.png').stat().st_size > 10000
    assert recorded(fused).metrics == before
    text = har('diagnose', fused, '--clips', 1)
    assert text.code == 0 and '1 clips of 1 groups' in text.out and 'normal of another clip' in text.out
    away = har('diagnose', fused, '--data', tmp_path/'nowhere')
    assert away.code == 1 and 'the videos of the run are not there' in away.err
