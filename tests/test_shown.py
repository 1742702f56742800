"Rate and shape of the picture, from the command line to the recipe: what was trained with them is tested, predicted and trained again with them."

from later import collecting

from har_nb.data.video import frames
from har_nb.learning.runs import runs_table

if not collecting:
    from har_nb.experiments.tables import SHOWN, settings_of
    from har_nb.learning.predictor import load_predictor
    from har_nb.papers.mei.tables import table2


def test_a_row_at_a_rate_and_in_a_shape(har, small_set):
    done = har('run', 'mei.table2', '--data', small_set.root, '--preset', 'demo', '--rows', 'normal', '--epochs', 1, '--size', 32, '--fps', 15, '--aspect', 'crop')
    assert done.code == 0, done.err
    run = runs_table('mei.table2', "tags.kind = 'row'").iloc[0]
    assert (run['params.fps'], run['params.aspect']) == ('15.0', 'crop') and "fps=15.0, aspect='crop'" in run['tags.modality']
    predictor = load_predictor(run.run_id)
    assert (predictor.modality.fps, predictor.modality.aspect) == (15., 'crop')
    whole, times = frames(small_set.paths[0], times=True)
    said = predictor.predict(small_set.paths[0]).samples
    assert (said == predictor.of_frames(whole, times).samples).all() and len(said) == len(predictor.modality.sampler(-(-len(whole)//2)))
    again = har('rerun', run.run_id)
    assert again.code == 0, again.err


def test_neutral_settings_are_no_settings():
    asked = settings_of(table2, 'demo')
    assert settings_of(table2, 'demo', **SHOWN) == asked and not set(SHOWN) & set(asked)
