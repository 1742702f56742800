"Nets written for other programs: every net, every format, and what may go wrong while a file is written or read."
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
from later import collecting, parametrize

from har_nb.learning.runs import tracked_run
from har_nb.learning.tracking import open_store
from har_nb.tools.cli import main

if not collecting:
    import torch

    from har_nb.learning import export as E
    from har_nb.learning.judged import export_judged
    from har_nb.learning.recipe import Make, Recipe, backbone_model, log_recipe, save_for_prediction
    from har_nb.models.backbones import small_resnet
    from har_nb.models.zoo import NETS, inputs

QUICK = ('LateFusion', 'TwoStacks of EarlyFusion') # two inputs and an operator that ONNX lacks; fastai's tensors
NO_TRACE = ('TransNet', 'KPSEM', 'ResNeXt3D-101, frames') # ask for the number of clips, or compute in Python


def written(net, file):
    torch.manual_seed(0)
    return E.export((net.small or net.make)(), inputs(net.small_shapes or net.shapes), file)


@parametrize('net', ['LateFusion', 'TwoStacks of EarlyFusion'], lambda: [net for net in NETS if net.name in QUICK])
def test_nets_that_need_something(net, tmp_path):
    assert written(net, tmp_path/'net.onnx') <= 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ['net.onnx']


@pytest.mark.slow
@parametrize('kind', ['.pt2', '.onnx', '.ts'], lambda: E.KINDS)
@parametrize('net',
             ['small_resnet', 'efficientnet_b0', 'densenet201', 'inception_v3', 'resnet50', 'mobilenet_v2',
              'mobilenet_v1', 'mobilenet_v1, as in Keras', 'TwoStream', 'EnsembleNet', 'EmbedClips',
              'TransNet, MobileNet', 'TransNet, MobileNetV2', 'TransNet, VGG16', 'TransNet, VGG19', 'R3D-18',
              'Autoencoder', 'EarlyFusion', 'LateFusion', 'TwoStacks of EarlyFusion', 'MFNet', 'R3D', 'small_3d',
              'MF-KPSEM', 'R3D-KPSEM', 'ResNeXt3D-101, frames', 'ResNeXt3D-101, flow', 'Student',
              'AttentionFusion'], lambda: NETS)
def test_every_net(net, kind, tmp_path):
    if kind == '.ts' and any(word in net.name for word in NO_TRACE):
        name = type((net.small or net.make)()).__name__
        cannot = rf'{name} cannot be written as .ts: |{name} as .*: 1 samples give \(2, 4\) instead of \(1, 4\)$'
        with pytest.raises(E.ExportError, match=cannot): written(net, tmp_path/'net.ts')
        assert not list(tmp_path.iterdir())
        return
    assert written(net, tmp_path/f'net{kind}') <= 1e-4
    again, says = E.read_export(tmp_path/f'net{kind}')
    shapes = net.small_shapes or net.shapes
    assert [given['shape'] for given in says['inputs']] == [['batch', *shape] for shape in shapes]
    with torch.no_grad(): assert len(again(*inputs(shapes, 7))) == 7


def test_the_file_is_enough(tmp_path):
    "Neither format needs this library: not even to be importable."
    torch.manual_seed(0)
    net, x = small_resnet(num_classes=3).eval(), torch.randn(4, 3, 32, 32)
    for kind in ('.pt2', '.onnx'): E.export(net, x, tmp_path/f'net{kind}', dict(classes=['a', 'b', 'c']))
    np.save(tmp_path/'x.npy', x.numpy())
    code = '''
import json, sys
sys.modules['har_nb'] = None
import numpy as np, torch, onnxruntime
x, notes = np.load('x.npy'), {'har_nb.json': ''}
net = torch.export.load('net.pt2', extra_files=notes).module()
session = onnxruntime.InferenceSession('net.onnx', providers=['CPUExecutionProvider'])
assert json.loads(notes['har_nb.json']) == json.loads(session.get_modelmeta().custom_metadata_map['har_nb.json'])
np.save('scores.npy', [net(torch.from_numpy(x)).detach().numpy(), session.run(None, {'input': x})[0]])
'''
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad(): np.testing.assert_allclose(np.load(tmp_path/'scores.npy'), [net(x).numpy()]*2, atol=1e-5)


def test_nothing_half_written(tmp_path, monkeypatch):
    "A disk that is full while writing, or while renaming: the old file stays, nothing else does."
    net, x, file = torch.nn.Linear(4, 2), torch.randn(1, 4), tmp_path/'net.ts'
    file.write_bytes(b'old')

    def full(model, samples, file, note):
        file.write_bytes(b'half')
        raise OSError(28, 'No space left on device')
    for broken in (lambda m: m.setitem(E.KINDS, '.ts', (full, E.KINDS['.ts'][1])),
                   lambda m: m.setattr(os, 'replace', lambda *_: full(None, None, tmp_path/'net.part.ts', None))):
        with monkeypatch.context() as m:
            broken(m)
            with pytest.raises(E.ExportError, match='Linear as .*net.ts: .*No space left'): E.export(net, x, file)
        assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [('net.ts', b'old')]
    E.export(net, x, file)
    assert len(file.read_bytes()) > 100


def test_what_cannot_be_done_is_said(tmp_path, monkeypatch):
    net, x = torch.nn.Linear(4, 2), torch.randn(1, 4)
    with pytest.raises(E.ExportError, match='one of .pt2, .onnx, .ts'): E.export(net, x, tmp_path/'net.h5')
    with pytest.raises(E.ExportError, match='nowhere'): E.export(net, x, tmp_path/'nowhere'/'net.ts')
    torch.nn.init.constant_(net.weight, float('nan'))
    with pytest.raises(E.ExportError, match='differ .* by nan'): E.export(net, x, tmp_path/'net.ts')
    (tmp_path/'cut.pt2').write_bytes(b'PK\x03\x04 not all of it')
    for name in ('cut.pt2', 'absent.ts'):
        with pytest.raises(E.ExportError, match=f'{name} cannot be read'): E.read_export(tmp_path/name)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'onnxruntime' else find(name, *a))
    with pytest.raises(E.ExportError, match=r"needs onnxruntime: pip install 'har_nb\[export\]'"):
        E.export(net, x, tmp_path/'net.onnx')
    assert [file.name for file in tmp_path.iterdir()] == ['cut.pt2']


@pytest.fixture
def runs(tmp_path, tracking):
    "A run that keeps a net, and one that fuses it with itself video by video."
    net = SimpleNamespace(model=small_resnet(num_classes=2))
    recipe = Recipe(['a', 'b'], backbone_model('small_resnet', 2),
                    Make('har_nb.samples.modalities:Frame', dict(n=10, interval=5)), 32)
    with tracked_run('one', 'tests') as one: open_store().log_artifact(one, save_for_prediction(net, tmp_path, recipe))
    with tracked_run('both', 'tests') as both:
        log_recipe(Recipe(['a', 'b'],
                          members=[one, one], sample='video', fuse=Make('har_nb.models.two_stream:fuse', {})))
    return SimpleNamespace(one=one, both=both, net=net.model)


def test_the_command(runs, tmp_path, capsys):
    file = tmp_path/'net.pt2'
    main(['export', runs.one, str(file)])
    assert 'har_nb.json' in capsys.readouterr().out
    again, says = E.read_export(file)
    assert (says['run'], says['classes'], says['inputs'][0]['size']) == (runs.one, ['a', 'b'], 32)
    assert json.loads(json.dumps(says['inputs'][0]['modality'])) == {
        'import': 'har_nb.samples.modalities:Frame', 'with': dict(n=10, interval=5)
    }
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad(): torch.testing.assert_close(again(x), runs.net.eval()(x))
    for words, told in (
        ([runs.both, str(file)], 'one by one'),
        (['0'*32, str(file)], 'there is no run'),
        ([runs.one, str(tmp_path/'net.jpg')], 'the suffix'),
    ):
        with pytest.raises(SystemExit) as ended: main(['export', *words])
        assert str(ended.value).startswith('har: ') and told in str(ended.value)


@pytest.fixture
def placed(runs, small_set):
    "The run, with its split and where its videos are; it was never trained, and knows eight classes."
    from har_nb.learning.runs import log_table, log_text
    net = SimpleNamespace(model=small_resnet(num_classes=8))
    frame = Make('har_nb.samples.modalities:Frame', dict(n=10, interval=5))
    recipe = Recipe(small_set.classes, backbone_model('small_resnet', 8), frame, 32)
    with TemporaryDirectory() as folder, tracked_run('placed', 'tests') as run_id:
        open_store().log_artifact(run_id, save_for_prediction(net, Path(folder), recipe))
        log_table(small_set.clips, 'split.parquet')
        log_text(json.dumps(dict(root=str(small_set.root))), 'origin.json')
    return run_id


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ('float32', 'float16')]


@pytest.mark.parametrize('precision', [*SLOW, 'int8'])
def test_a_file_is_judged_by_accuracy(placed, tmp_path, precision):
    file = tmp_path/'net.onnx'
    _, judged = export_judged(placed, file, precision, most_loss=1., most_clips=8)
    again, says = E.read_export(file)
    assert judged.clips == 8 and 0 <= judged.before <= 1 and 0 <= judged.after <= 1
    assert says['run'] == placed and len(says['classes']) == 8 and again(torch.zeros(3, 3, 32, 32)).shape == (3, 8)
    with pytest.raises(E.ExportError, match='points less, more than'):
        export_judged(placed, tmp_path/'worse.onnx', precision, most_loss=-2., most_clips=4)
    assert [one.name for one in tmp_path.glob('*.onnx')] == ['net.onnx'], 'a file that loses too much is not written'


def test_what_cannot_be_judged_is_said(runs, placed, tmp_path):
    with pytest.raises(E.ExportError, match='written as .onnx only'):
        export_judged(placed, tmp_path/'net.pt2', 'int8')
    with pytest.raises(E.ExportError, match='does not say which clips'):
        export_judged(runs.one, tmp_path/'net.onnx', 'float16')
    with pytest.raises(E.ExportError, match='--data FOLDER'):
        export_judged(placed, tmp_path/'net.onnx', 'int8', root=tmp_path)
