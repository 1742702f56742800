"200 damaged files through check, store and prediction: no crash, no hang, and each of them is heard of."
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mutations import FORMS, KINDS, mutate_set


def through_everything(folder, dataset, count, seed):
    """What check, store (both codings) and prediction say of mutated files. In this process: a decoder that crashes
    ends it, and that is a failure, too."""
    from har_nb.data.lists import from_folders
    from har_nb.learning.predict import predict_videos
    from har_nb.learning.predictor import Predictor
    from har_nb.learning.recipe import Recipe, backbone_model, describe, make
    from har_nb.samples.samplers import Segments
    from har_nb.samples.store import Frames, MotionEmbedding, decode_samples
    root, out = folder/'mutated', folder/'out'
    paths = mutate_set(root, dataset, count, seed)
    out.mkdir()
    dataset = from_folders(root)
    dataset.check_files(workers=1, progress=False).to_csv(out/'check.csv', index=False)
    modality = MotionEmbedding(10, 5)
    for coding, limit, workers in (('raw', 2**40, 2), ('jpeg', 0, 1)):
        samples, report = decode_samples(dataset, [modality, Frames(Segments(4))], 32, out/coding,
                                         workers=workers, progress=False, limit=limit)
        report.to_csv(out/f'{coding}.csv', index=False)
        counts = [np.bincount(one.clip, minlength=len(dataset)).tolist() for one in samples]
        (out/f'{coding}.json').write_text(json.dumps([dataset.clips.path.tolist(), counts,
                                                      [int(one.read(slice(None)).sum()) for one in samples]]))
    recipe = Recipe(('a', 'b'), backbone_model('small_resnet', 2), describe(modality), 32)
    predict_videos(Predictor(recipe, make(recipe.model).eval(), modality), root,
                   top=1, workers=2, progress=False).to_csv(out/'predict.csv', index=False)
    return [path.relative_to(root).as_posix() for path in paths], out


@pytest.mark.parametrize('count, seed', [(200, 0), pytest.param(1000, 1, marks=pytest.mark.slow)])
def test_every_file_is_heard_of(small_set, tmp_path, count, seed, capfd):
    names, out = through_everything(tmp_path, small_set, count, seed)
    told = capfd.readouterr().err
    assert 'ffmpeg' not in told.lower() and 'moov' not in told, 'the decoder talks'
    assert len(names) == count
    assert {Path(name).suffix for name in names} == {suffix for _, suffix in FORMS}
    assert len({name.split('_', 1)[1] for name in names}) >= len(KINDS)
    check, said = pd.read_csv(out/'check.csv'), pd.read_csv(out/'predict.csv')
    bad = set(check.path[check.severity == 'error'])
    assert count*.2 < len(bad) < count, 'some of them, and not all, are beyond use'
    said['path'] = [Path(path).relative_to(tmp_path/'mutated').as_posix() for path in said.path]
    assert sorted(said.path) == sorted(names), 'prediction has one line for each'
    predicted = set(said.path[said.probability.notna()])
    assert predicted == set(said.path[said.error.isna()])
    for coding in ('raw', 'jpeg'):
        report = pd.read_csv(out/f'{coding}.csv')
        paths, counts, sums = json.loads((out/f'{coding}.json').read_text())
        assert sorted(paths) == sorted(names) and all(total > 0 for total in sums)
        errors = set(report.path[report.severity == 'error'])
        for each in counts:
            assert {path
                    for path, n in zip(paths, each, strict=True)
                    if n == 0} == errors, 'samples, or an error: nothing in between'
        assert report.problem.notna().all()
        assert errors == bad, 'check and store say the same'
        assert errors == set(names) - predicted, 'store and prediction say the same'
