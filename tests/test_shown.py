"""Rate and shape of the picture, from the command line to the recipe: what was trained with them is tested, predicted
and trained again with them."""

import cv2
import numpy as np
import pytest
from footage import drawn
from later import collecting

from har_nb.data.video import frames
from har_nb.learning.runs import runs_table

if not collecting:
    import torch

    from har_nb.experiments import cluster
    from har_nb.experiments.tables import SHOWN, settings_of
    from har_nb.learning.export import export_run, read_export
    from har_nb.learning.predictor import load_predictor
    from har_nb.papers.mei.tables import table2
    from har_nb.samples.modalities import Frame, sample_video
    from har_nb.samples.store import decode_samples


def test_a_row_at_a_rate_and_in_a_shape(har, small_set):
    done = har('run', 'mei.table2', '--data', small_set.root, '--preset', 'demo', '--rows', 'normal', '--epochs', 1,
               '--size', 32, '--fps', 15, '--aspect', 'crop')
    assert done.code == 0, done.err
    run = runs_table('mei.table2', "tags.kind = 'row'").iloc[0]
    assert (run['params.fps'], run['params.aspect']) == ('15.0', 'crop')
    assert "fps=15.0, aspect='crop'" in run['tags.modality']
    predictor = load_predictor(run.run_id)
    assert (predictor.modality.fps, predictor.modality.aspect) == (15., 'crop')
    whole, times = frames(small_set.paths[0], times=True)
    said = predictor.predict(small_set.paths[0]).samples
    assert (said == predictor.of_frames(whole, times).samples).all()
    assert len(said) == len(predictor.modality.sampler(-(-len(whole)//2)))
    again = har('rerun', run.run_id)
    assert again.code == 0, again.err


def test_neutral_settings_are_no_settings():
    asked = settings_of(table2, 'demo')
    assert settings_of(table2, 'demo', **SHOWN) == asked and not set(SHOWN) & set(asked)


def test_a_folder_of_pictures_has_the_rate_that_is_asked_for(tmp_path):
    def taken(modality): return sample_video(tmp_path, [modality], 64)[0][0]
    for number, picture in enumerate(drawn(24)): cv2.imwrite(str(tmp_path/f'{number:03d}.png'), picture[..., ::-1])
    for rate in (5, 25, 60): assert np.array_equal(taken(Frame(2, 2, fps=rate)), taken(Frame(2, 2)))


@pytest.mark.parametrize('aspect', ['keep', 'crop'])
def test_workers_keep_the_shape_that_one_process_keeps(small_set, tmp_path, aspect):
    from dask.distributed import Client
    few, modality = small_set.subset(classes=small_set.classes[:1]), Frame(10, 10, aspect=aspect)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        (theirs,), _ = cluster.decode_samples(client, few, [modality], 24, tmp_path/'theirs', progress=False)
    (ours,), _ = decode_samples(few, [modality], 24, tmp_path/'ours', progress=False)
    assert theirs.shape == ours.shape == ((24, 31, 3) if aspect == 'keep' else (24, 24, 3))
    assert len(ours) == len(theirs) > 0 and np.array_equal(ours.read(slice(None)), theirs.read(slice(None)))


def test_an_exported_net_says_at_which_rate_and_in_which_shape_it_looks(har, small_set, tmp_path):
    done = har('run', 'mei.table2', '--data', small_set.root, '--preset', 'demo', '--rows', 'normal', '--epochs', 1,
               '--size', 32, '--fps', 10, '--aspect', 'keep')
    assert done.code == 0, done.err
    run = runs_table('mei.table2', "tags.kind = 'row'").iloc[0].run_id
    assert export_run(run, tmp_path/'net.pt2') < 1e-4
    net, says = read_export(tmp_path/'net.pt2')
    seen, = says['inputs']
    assert (seen['modality']['with']['fps'], seen['modality']['with']['aspect']) == (10., 'keep')
    predictor = load_predictor(run, 'cpu')
    inputs = next(predictor.batches(predictor.take(small_set.paths[0])[predictor.view]))
    said = net(inputs.as_subclass(torch.Tensor)).softmax(1).detach().numpy()
    assert np.allclose(said.mean(0), predictor.predict(small_set.paths[0]).video, atol=1e-4)
