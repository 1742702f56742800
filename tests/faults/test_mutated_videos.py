"200 damaged files through check, store and prediction: no crash, no hang, and each of them is heard of."
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mutations import FORMS, KINDS, mutate_set

from har_nb.data.synthetic import build

WORK = '''
if __name__ == '__main__': # processes that check import this file, too
    import json, sys
    from pathlib import Path
    import numpy as np
    from har_nb.data.lists import from_folders
    from har_nb.learning.predict import predict_videos
    from har_nb.learning.predictor import Predictor
    from har_nb.learning.recipe import Recipe, backbone_model, describe, make
    from har_nb.samples.store import Frames, MotionEmbedding, decode_samples
    from har_nb.samples.samplers import Segments
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    dataset = from_folders(root)
    dataset.check_files(workers=1, progress=False).to_csv(out/'check.csv', index=False)
    modality = MotionEmbedding(10, 5)
    for coding, limit in (('raw', 2**40), ('jpeg', 0)):
        samples, report = decode_samples(dataset, [modality, Frames(Segments(4))], 32, out/coding, workers=2, progress=False, limit=limit)
        report.to_csv(out/f'{coding}.csv', index=False)
        counts = [np.bincount(one.clip, minlength=len(dataset)).tolist() for one in samples]
        (out/f'{coding}.json').write_text(json.dumps([dataset.clips.path.tolist(), counts, [int(one.read(slice(None)).sum()) for one in samples]]))
    recipe = Recipe(('a', 'b'), backbone_model('small_resnet', 2), describe(modality), 32)
    predict_videos(Predictor(recipe, make(recipe.model).eval(), modality), root, top=1, workers=2, progress=False).to_csv(out/'predict.csv', index=False)
'''


def through_everything(folder, count, seed):
    "What check, store (both codings) and prediction say of mutated files, from a process of its own."
    clips = build(folder/'sports', people=2, takes=1, size=(56, 72), workers=1, progress=False)
    paths = mutate_set(folder/'mutated', clips, count, seed)
    (folder/'out').mkdir()
    (folder/'work.py').write_text(WORK)
    done = subprocess.run([sys.executable, folder/'work.py', folder/'mutated', folder/'out'], timeout=900, capture_output=True, text=True)
    assert done.returncode == 0, f'{done.returncode}: {done.stderr[-2000:]}'
    assert 'ffmpeg' not in done.stderr.lower() and 'moov' not in done.stderr, 'the decoder talks'
    names = [path.relative_to(folder/'mutated').as_posix() for path in paths]
    return names, folder/'out'


@pytest.mark.parametrize('count, seed', [(200, 0), pytest.param(1000, 1, marks=pytest.mark.slow)])
def test_every_file_is_heard_of(tmp_path, count, seed):
    names, out = through_everything(tmp_path, count, seed)
    assert len(names) == count and {Path(name).suffix for name in names} == {suffix for _, suffix in FORMS} and len({name.split('_', 1)[1] for name in names}) >= len(KINDS)
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
        for each in counts: assert {path for path, n in zip(paths, each, strict=True) if n == 0} == errors, 'samples, or an error: nothing in between'
        assert report.problem.notna().all()
        assert errors == bad, 'check and store say the same'
        assert errors == set(names) - predicted, 'store and prediction say the same'
