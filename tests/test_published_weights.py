"""Weights as they are published: checkpoints in the form of the authors' are tested as they came, by command, on a
small set in the form of UCF101."""
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from later import collecting

from har_nb.data.video import write_video
from har_nb.learning.runs import load_table, runs_table

if not collecting:
    import torch

    from har_nb.experiments.tables import as_they_are, run, settings_of
    from har_nb.learning.learner import fused_sgd
    from har_nb.learning.recipe import Make
    from har_nb.models.mfnet import mfnet
    from har_nb.models.resnext3d import resnext3d
    from har_nb.papers.dual_action import tables as dual_action
    from har_nb.papers.dual_action.tables import DEMO
    from har_nb.papers.dual_action.training import AnyClip
    from har_nb.papers.kpsem import tables as kpsem
    from har_nb.papers.kpsem.tables import NARROW
    from har_nb.samples.loaders import SampleLoader, SampleSet

# in the order of the list; sorted, both pairs change places
PAIRS = ('Hammering', 'HammerThrow', 'JumpingJack', 'JumpRope')
CLASSES = [f'Action{number:03d}' for number in range(101)]
CLASSES[34:36], CLASSES[46:48] = PAIRS[:2], PAIRS[2:]


@pytest.fixture(scope='session')
def like_ucf101(once):
    "Four of 101 classes, two videos each, one of them for the test; grey levels tell the classes apart."
    def make(folder):
        random = np.random.default_rng(0)
        for level, name in enumerate(PAIRS):
            for video in (1, 8):
                path = folder/name/f'v_{name}_g{video:02d}_c01.avi'
                path.parent.mkdir(exist_ok=True)
                write_video(path, random.integers(60*level, 60*level + 20, (20, 64, 72, 3)).astype(np.uint8), 25)
        (folder/'classInd.txt').write_text(''.join(f'{number} {name}\n' for number, name in enumerate(CLASSES, 1)))
        (folder/'trainlist01.txt').write_text(''.join(f'{name}/v_{name}_g08_c01.avi {CLASSES.index(name) + 1}\n'
                                                      for name in PAIRS))
        (folder/'testlist01.txt').write_text(''.join(f'{name}/v_{name}_g01_c01.avi\n' for name in PAIRS))
        (folder/'trainlist02.txt').write_text(''.join(f'{name}/v_{name}_g01_c01.avi {CLASSES.index(name) + 1}\n'
                                                      for name in PAIRS))
        (folder/'testlist02.txt').write_text(''.join(f'{name}/v_{name}_g08_c01.avi\n' for name in PAIRS[:2]))
    return once('like_ucf101', make)


def says(net, head, name):
    "A net that gives one answer to everything."
    with torch.no_grad():
        net.get_submodule(head).weight.zero_(); net.get_submodule(head).bias.zero_()
        net.get_submodule(head).bias[CLASSES.index(name)] = 5.
    return net


def like_mars(file, name, **settings):
    "A checkpoint as craston/MARS saves them: a net on several devices, its optimiser beside it."
    net = says(resnext3d(**{**DEMO['net'].arguments, 'num_classes': 101} | settings), 'fc', name)
    torch.save(dict(epoch=1, arch='resnext-101',
                    state_dict={f'module.{key}': value for key, value in net.state_dict().items()},
                    optimizer=dict(state={}, param_groups=[])), file)
    return file


def their_name(name):
    "What cypw/PyTorch-MFNet calls a number of ours."
    name = re.sub(r'^(conv\d)\.(\d+)\.', lambda found: f'{found[1]}.B{int(found[2]) + 1:02d}.', name)
    for ours, theirs in (
        ('bridge.0', 'conv_i1'),
        ('bridge.1', 'conv_i2'),
        ('fibers.0', 'conv_m1'),
        ('fibers.1', 'conv_m2'),
        ('shortcut', 'conv_w1'),
    ):
        name = name.replace(ours, theirs)
    return re.sub(r'^head', 'classifier', re.sub(r'\bnorm\b', 'bn', name))


def like_mfnet(file, name, n_classes=101):
    net = says(mfnet(**NARROW['mfnet'].arguments, num_classes=n_classes), 'head', name)
    torch.save(dict(epoch=1,
                    state_dict={f'module.{their_name(key)}': value for key, value in net.state_dict().items()}), file)
    return file


def answers(row):
    "The run of a row, and what it said of each video."
    runs = runs_table(where="tags.kind = 'row'")
    run = runs[runs['tags.row'] == row].iloc[0]
    return run, load_table('predictions.parquet', run.run_id)


ROWS = dict(mars=('dual_action.table1', 'MARS', like_mars), mfnet=('kpsem.table1_ucf101', 'MFNet', like_mfnet))


@pytest.mark.parametrize('form, name', [('mars', 'HammerThrow'), ('mfnet', 'JumpingJack')])
def test_a_checkpoint_is_tested_as_it_came_its_classes_numbered_by_the_list(har, like_ucf101, tmp_path, form, name):
    "Sorted, either would be another one; no flow is computed, no teacher trained, no training clip decoded."
    table, row, make = ROWS[form]
    file = make(tmp_path/'published.pth', name)
    said = har('run', table, '--data', like_ucf101, '--preset', 'demo', '--weights', file, '--epochs', 0, '--rows', row)
    assert said.code == 0, said.err
    assert 'classes are numbered as in' in said.err
    assert 'classInd.txt' in said.err
    assert 'weights as they came' in said.out
    run, videos = answers(row)
    assert set(videos.predicted) == {name}
    assert run['metrics.test_acc_video'] == .25 and run['metrics.epochs'] == 0
    (kept,) = (tmp_path/'data'/'cache').glob('*/index.*')
    assert kept.parent.name.startswith('Frames-') and len(set(re.findall(rb'[0-9a-f]{64}', kept.read_bytes()))) == 4
    if form == 'mfnet': return
    again = har('rerun', run.run_id)
    assert again.code == 0 and 'The same' in again.out, again.err


def test_a_folder_without_lists_is_told_whose_order_it_has(har, like_ucf101, tmp_path):
    folder, file = tmp_path/'folders', like_mars(tmp_path/'published.pth', 'JumpRope')
    for name in PAIRS: shutil.copytree(like_ucf101/name, folder/name)
    call = ('run', 'dual_action.table1', '--data', folder, '--preset', 'demo', '--weights', file, '--epochs', 0,
            '--rows', 'MARS')
    said = har(*call)
    assert said.code == 1
    assert 'sorted' in said.err
    assert '--class-index FILE' in said.err
    assert 'not all of this net' in said.err
    assert har(*call, '--class-index', like_ucf101/'classInd.txt').code == 0
    assert answers('MARS')[0]['metrics.test_acc_video'] == .25


def test_weights_that_leave_something_to_chance_are_sent_back(har, like_ucf101, tmp_path):
    file = like_mfnet(tmp_path/'kinetics.pth', 'Hammering', 400)
    def told(*words): return har('run', *words, '--data', like_ucf101, '--preset', 'demo', '--epochs', 0)
    assert 'not all of this net comes from a file' in told('kpsem.table1_ucf101', '--weights', file).err
    assert 'this has none' in told('kpsem.table1_ucf101', '--weights', file, '--rows', 'MF-KPSEM').err
    assert 'none are named' in told('kpsem.table1_ucf101').err
    said = told('dual_action.table1', '--weights', like_mars(tmp_path/'mars.pth', 'JumpRope'))
    assert "Say which of them it is: --rows 'Dual-action Stream'" in said.err
    assert 'epochs is at least 1' in told('mei.table2', '--freeze-epochs', 0).err


def test_the_mean_of_published_splits_is_one_command(har, like_ucf101, tmp_path):
    file = like_mfnet(tmp_path/'published.pth', 'Hammering')
    said = har('run', 'kpsem.table1_ucf101', '--data', like_ucf101, '--preset', 'demo', '--weights', file,
               '--epochs', 0, '--split', 'all')
    assert said.code == 0, said.err
    title, _, means = said.out.partition('mean of splits 1, 2:')
    assert title and re.search(r'MFNet +96\.0 +37\.5 +25\.0 +50\.0 +2 +25\.0 +50\.0', means), means
    assert 'needs several' in har('run', 'mei.table2', '--data', like_ucf101/'Hammering', '--split', 'all').err


@pytest.mark.parametrize('more', [dict(), dict(dampening=.9), dict(nesterov=True)])
def test_momentum_is_that_of_torch(more):
    "Authors fine-tune with torch's SGD: dampened from its second step on, or Nesterov's."
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.full((2, 3), .5))] for _ in range(2))
    mine = fused_sgd(ours, lr=.1, mom=.9, wd=.01, decouple_wd=False, **more)
    reference = torch.optim.SGD(theirs, lr=.1, momentum=.9, weight_decay=.01, **more)
    for step in range(4):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.full_like(own, .3*step - .2)
            other.grad = own.grad.clone()
        mine.step(); reference.step()
        for own, other in zip(ours, theirs, strict=True): assert torch.allclose(own, other, atol=1e-6)


# The authors' own fine-tuning, by name: a step of each that really is taken

@pytest.mark.parametrize('preset, row', [('mars', 'MARS'), ('mars_leaky', 'RGB stream')])
def test_the_fine_tuning_of_mars_is_run(tracking, small_set, tmp_path, preset, row):
    net = Make('har_nb.models.resnext3d:resnext3d', dict(width=4, layers=[1, 1, 1, 1], cardinality=2))
    clips = small_set.subset(['ClimbUp', 'Running'])
    result = run(dual_action.table1, clips, rows=[row], preset=preset, net=net, size=32, crop=24, n=8, epochs=1,
                 flow='har_nb.motion.flow_pictures:DIS', bound=5., cache=tmp_path, progress=False)
    trained, videos = answers(row)
    assert result.set_index('row').runs[row] == 1 and len(videos) == len(clips.test)
    assert trained['params.plateau_on'] == ('test' if preset == 'mars_leaky' else 'valid')
    assert trained['params.dampening'] == '0.9' and trained['metrics.epochs'] == 1
    assert trained['tags.leaky'] == str(preset == 'mars_leaky'), 'the test decides, though no clip has siblings'
    assert result.attrs['leaky'] == (preset == 'mars_leaky')


def test_what_is_fused_of_rows_that_leak_leaks():
    table, rows = dual_action.table1, {row.name: row for row in dual_action.table1.rows}
    for preset, leaks in (('mars', False), ('mars_leaky', True)):
        shared = settings_of(table, preset)
        assert {name: table.leaks_in(row, shared) for name, row in rows.items()} == dict.fromkeys(rows, leaks)
    still = as_they_are(table, shared | dict(weights='a', flow_weights='b'))
    assert still.rows and not any(still.leaks_in(row, shared) for row in still.rows), 'nothing is trained'


def test_the_clip_that_validates_is_drawn_once():
    "Authors draw another one in each epoch (craston/MARS, dataset/dataset.py, lines 92 to 98)."
    class Stored:
        clip, modality = np.repeat(np.arange(6), [40, 8, 55, 40, 90, 17]), None
        def of(self, rows): return np.flatnonzero(np.isin(self.clip, rows))
    named = SimpleNamespace(classes=('a',), labels=np.zeros(6, int))
    def epochs(split_idx, seed):
        clips = SampleSet(Stored(), named, np.arange(6), split_idx, AnyClip(8, seed))
        loader, seen = SampleLoader(clips, bs=3, num_workers=0), []
        for _ in range(4):
            loader.randomize()
            loader.before_iter()
            seen.append(clips.rows.copy())
        assert seen[0].shape == (6, 8)
        return [(one == seen[0]).all() for one in seen[1:]], seen[0]
    (same, first), (again, second) = epochs(1, 0), epochs(1, 1)
    assert all(same) and all(again) and (first != second).any(), 'each seed has its own, and keeps it'
    assert not any(epochs(0, 0)[0]), 'training sees another one each time'


def test_the_fine_tuning_of_multifiber_is_run(tracking, small_set, tmp_path):
    clips = small_set.subset(['ClimbUp', 'Running'])
    result = run(kpsem.table1_ucf101, clips, rows=['MFNet'], preset='multifiber', mfnet=NARROW['mfnet'], size=32,
                 side=24, n=6, clips=2, epochs=1, cache=tmp_path, progress=False)
    trained, videos = answers('MFNet')
    assert result.runs.tolist() == [1] and len(videos) == len(clips.test)
    assert trained['params.nesterov'] == 'True' and trained['params.body_rate'] == '0.2'
