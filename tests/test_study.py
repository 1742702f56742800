"`har study`: one decoding for all candidates, resumed where it was stopped, an honest choice, a run that is used."
import shutil

import numpy as np
import pandas as pd
import pytest
from later import collecting

from har_nb.learning.runs import load_table, load_text

if not collecting:
    import torch

    from har_nb.data.lists import open_dataset
    from har_nb.data.video import frames
    from har_nb.experiments import frozen
    from har_nb.experiments import study as module
    from har_nb.experiments.choice import Block, Candidate, choose, outer_fold, similarity
    from har_nb.experiments.tables import BadClips
    from har_nb.learning.predictor import load_predictor
    from har_nb.learning.tracking import open_store
    from har_nb.models.backbones import small_resnet
    from har_nb.samples import store
    from har_nb.samples.samplers import Segments


@pytest.fixture
def folder(small_set, tmp_path):
    "A clip of each of the drawn people in three classes, as a stranger keeps them, with a column for who it is."
    root, rows, there = tmp_path/'mine', [], set()
    for label, path, group in zip(small_set.clips.label, small_set.paths, small_set.clips.group, strict=True):
        if label not in small_set.classes[:3] or (label, group) in there: continue
        there.add((label, group))
        (root/label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root/label/path.name)
        rows.append((f'{label}/{path.name}', label, group.rpartition('/')[2]))
    pd.DataFrame(rows, columns=['file', 'label', 'person']).to_csv(root/'index.csv', index=False)
    return root


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(small_resnet().state_dict(), tmp_path/'small.pth')
    return tmp_path/'small.pth'


def test_a_folder_becomes_a_run_that_is_used(har, folder, weights, tmp_path, monkeypatch):
    read, stopped = [], []
    ours, encoded = store.stream_video, frozen.encoded
    def counted(path, *args, **kwargs):
        read.append(path)
        return ours(path, *args, **kwargs)
    monkeypatch.setattr(store, 'stream_video', counted)
    def once(*args, **kwargs):
        if len(stopped) == 2: raise KeyboardInterrupt
        stopped.append(args)
        return encoded(*args, **kwargs)
    every = module.candidates_of
    monkeypatch.setattr(module, 'candidates_of', lambda seen, heads: every(seen, heads)[1:4])
    monkeypatch.setattr(frozen, 'planned_heads', lambda *args: ([], ['heads: no time'], 1e6))
    words = ['study', folder, '--group', 'person', '--encoders', 'small_resnet', '--weights', weights, '--size', 48,
             '--unknown']
    monkeypatch.setattr(frozen, 'encoded', once)
    assert har(*words).code == 130 # stopped while the encoder looks
    clips = len(read)
    assert clips == len(set(map(str, read))) == len(open_dataset(folder, 'person'))
    monkeypatch.setattr(frozen, 'encoded', lambda *args, **kwargs: stopped.append(args) or encoded(*args, **kwargs))
    done = har(*words)
    assert done.code == 0, done.err
    assert len(read) == clips, 'decoded again' # all candidates share one decoding, and the second call reads none
    assert len(stopped) == len(module.PARTS) # one file of features a part: those of the first call are used
    assert 'left out: heads: no time' in done.err
    assert 'plan for' in done.err and 'Accuracy' in done.out and 'largest class' in done.out and 'chance' in done.out
    run = done.out.partition('--run ')[2].split(';')[0]
    table, board = load_table('predictions.parquet', run), load_table('candidates.csv', run)
    assert len(table) == clips and board.candidate.iloc[0] == 'chosen'
    assert set(board.candidate) >= {'small_resnet: mean of frames', 'chance'}
    assert 'Fine-tuned, beside' in load_text('report.md', run)
    assert not any('tuned' in name for name in board.candidate)
    assert 'data:image/png;base64' in load_text('report.html', run)
    path = open_dataset(folder, 'person').paths[0]
    said = load_predictor(run).predict(path)
    assert said.video.sum() == pytest.approx(1, abs=1e-5)
    tags = open_store().get_run(run).data.tags
    assert 0 < float(tags['set_above']) <= float(tags['none_below']) <= 1
    predicted = har('predict', path, '--run', run)
    assert predicted.code == 0 and ('likely' in predicted.out) != ('none of these' in predicted.out)
    assert len(load_table('left_out_classes.csv', run)) == 3 and '## How sure' in load_text('report.md', run)
    exported = har('export', run, tmp_path/'net.ts')
    assert exported.code == 0, exported.err
    again = har('rerun', run)
    assert again.code == 0, again.out + again.err
    refused = har('diagnose', run) # all clips were learnt
    assert refused.code == 1 and 'no clip was kept for a test' in refused.err


def test_what_is_missing_is_told_with_its_remedy(har, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    done = har('study', folder, '--group', 'person')
    assert done.code == 1 and 'no encoder has weights here' in done.err
    assert '--encoders mobilenet_v2 --download' in done.err and 'r3d_18' in done.err
    assert har('study', folder, '--group', 'person', '--weights', 'x.pth').code == 1
    assert not list(tmp_path.glob('checkpoints/*'))


def test_the_audit_tells_of_a_copy_in_another_group(folder):
    table = pd.read_csv(folder/'index.csv')
    first = table.iloc[0]
    shutil.copy(folder/first.file, folder/first.label/'copy.avi')
    copied = pd.DataFrame([dict(file=f'{first.label}/copy.avi', label=first.label, person='somebody else')])
    (folder/first.label/'cut.avi').write_bytes((folder/first.file).read_bytes()[:200])
    cut = pd.DataFrame([dict(file=f'{first.label}/cut.avi', label=first.label, person=first.person)])
    pd.concat([table, copied, cut]).to_csv(folder/'index.csv', index=False)
    told, dataset = [], open_dataset(folder, 'person')
    with pytest.raises(BadClips, match='cut.avi'): module.first_looks(dataset, told.append)
    assert any('copy' in line and first.file in line for line in told)
    kept = module.first_looks(dataset, told.append, 'skip')
    assert set(dataset.clips.path) - set(kept.clips.path) == {f'{first.label}/cut.avi'}


def test_who_chooses_cannot_see_the_outer_fold():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 4).astype(str)
    labels, test = np.tile([0, 1], 24), groups == '5'
    blocks = {name: random.normal(size=(48, 8)) for name in 'ab'}
    def chosen(labels, blocks):
        similar = {Block('net', name, name): similarity(x) for name, x in blocks.items()}
        candidates = [Candidate(name, (Block('net', name, name),)) for name in blocks]
        return outer_fold(similar, labels, groups, candidates, 2, dict(a=1, b=1), test)['chosen']
    as_it_is = chosen(labels, blocks)
    cheated = blocks | dict(b=np.where(test[:, None], 100*labels[:, None], blocks['b']))
    told = [chosen(np.where(test, 1 - labels, labels), blocks), chosen(labels, cheated)]
    assert all(found.members == as_it_is.members for found in told)
    assert all(found.losses[name] == pytest.approx(as_it_is.losses[name], abs=1e-9) for found in told for name in 'ab')
    assert 'test' not in choose.__code__.co_varnames


@pytest.mark.slow
def test_real_clips_are_told_apart(har, shared_data):
    "As `test_a_folder_becomes_a_run_that_is_used`, of cameras and with a net that has seen something."
    done = har('study', shared_data/'indoor_actions', '--group', 'recording', '--size', 160,
               '--encoders', 'mobilenet_v1', '--weights',
               shared_data/'weights'/'mobilenet_v1_imagenet_features_fp16.pth')
    assert done.code == 0, done.err
    board = load_table('candidates.csv', done.out.partition('--run ')[2].split(';')[0]).set_index('candidate')
    assert board.accuracy['chosen'] > .65 > board.accuracy['largest class']


@pytest.mark.slow
def test_a_net_for_video_sees_its_own_clips(har, folder, weights, tmp_path, monkeypatch):
    "Beside a net for images: frames as torchvision prepares them, all in one sample, and one net that predicts."
    from torchvision.models.video import R3D_18_Weights, r3d_18
    torch.save(r3d_18().state_dict(), tmp_path/'r3d.pth')
    monkeypatch.setattr(frozen, 'planned_heads', lambda *args: ([], [], 0))
    monkeypatch.setattr(frozen, 'parts_of', lambda net: ['r3d_18: clip'] if net.clips else ['frames'])
    shown, ours = [], frozen.encoded
    def seen(encoder, samples, where, rows):
        if encoder.clips: shown.append(samples.read([0])[0][where])
        return ours(encoder, samples, where, rows)
    monkeypatch.setattr(frozen, 'encoded', seen)
    every = module.candidates_of
    monkeypatch.setattr(module, 'candidates_of', lambda *args: [one for one in every(*args) if 'mean' in one.name
                                                                or 'clip' in one.name])
    done = har('study', folder, '--group', 'person', '--size', 48, '--encoders', 'small_resnet', 'r3d_18', '--weights',
               weights, tmp_path/'r3d.pth')
    assert done.code == 0, done.err
    assert 'r3d_18 sees clip' in done.err and 'instead of 48' in done.err
    run = done.out.partition('--run ')[2].split(';')[0]
    assert 'r3d_18: clip' in set(load_table('candidates.csv', run).candidate)
    dataset = open_dataset(folder, 'person')
    film = frames(dataset.paths[0])
    clip = film[Segments(16)(len(film))[0]]
    theirs = R3D_18_Weights.DEFAULT.transforms()(torch.from_numpy(clip).permute(0, 3, 1, 2))
    own = R3D_18_Weights.DEFAULT.transforms()
    stored = torch.from_numpy(shown[0]).permute(3, 0, 1, 2).float()/255
    mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in (own.mean, own.std))
    assert ((stored - mean)/std - theirs).abs().max() < 1e-5
    assert load_predictor(run).predict(dataset.paths[0]).video.sum() == pytest.approx(1, abs=1e-5)
    assert har('rerun', run).code == 0
