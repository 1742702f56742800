"Runs that earlier code trained: keys are the same, nothing is trained again, nets predict, digits come out the same."
import hashlib
import json
from pathlib import Path

import pytest
from later import collecting, parametrize

from har_nb.data.synthetic import build
from har_nb.learning.metrics import table_probabilities
from har_nb.learning.runs import load_table, runs_table
from har_nb.learning.tracking import open_store
from har_nb.samples.store import decode_samples

if not collecting:
    from recorded import (
        ASKED,
        NOW,
        SET,
        all_keys,
        digits,
        keys_of,
        machine,
        predicted,
        recorded_set,
        recorded_store,
    )

    from har_nb.experiments.rerun import TIMES, recorded, rerun
    from har_nb.experiments.tables import run

HERE = Path(__file__).parent/'recorded'
SAID = json.loads((HERE/'runs.json').read_text())
if not collecting:
    LIKE = machine() == SAID['machine'] # digits of training depend on processor and versions; keys do not
NO_NET = ('TransNet, test frames backwards', 'logistic, mean and change') # rows that keep none


def every(rows):
    names = [f'{each["table"]}, {each["row"]}, {each["protocol"]}, {each["seed"]}' for each in rows]
    return pytest.mark.parametrize('said', rows, ids=names)


CALLS = {row['call']: f'{row["table"]}, {row["row"]}' for row in SAID['rows']} # each by its last row
every_call = parametrize('number', list(CALLS.values()), lambda: range(len(ASKED)))


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp('recorded')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MLFLOW_TRACKING_URI', recorded_store(folder))
        yield folder


@pytest.fixture(scope='module')
def sports(store): return recorded_set(store)


def row_runs(): return runs_table(where="tags.kind = 'row'").set_index('run_id')


@every_call
def test_keys_are_those_of_the_runs(number, sports, store):
    "They hold on every machine: they depend on the files of the clips, not on what a decoder makes of them."
    def decoded(modalities, size):
        samples, _ = decode_samples(sports, modalities, size, store/'cache', progress=False)
        return dict(zip(modalities, samples, strict=True))
    found = keys_of(ASKED[number], sports, decoded)
    rows = [each for each in SAID['rows'] if each['call'] == number]
    said = {(each['row'], each['protocol'], each['seed']): each['key'] for each in rows}
    assert found == said


def test_every_row_of_every_table_has_the_key_it_had(sports):
    said, found = json.loads((HERE/'keys.json').read_text()), all_keys(sports)
    assert [table for table in found if table in said] == list(said) # others were added since
    for table, presets in said.items():
        for preset, keys in presets.items(): assert found[table][preset] == keys, (table, preset)


def test_readings_that_changed_have_other_keys_and_the_others_the_same(sports):
    "What was the default is not taken over for what is the default now; where nothing changed, nothing is trained."
    said, found = json.loads((HERE/'keys.json').read_text()), all_keys(sports, NOW)
    changed = ('transnet', 'kpsem')
    for table, presets in said.items():
        for preset, keys in presets.items():
            now = found[table]['corners' if preset == 'mars' else preset]
            other = table.startswith(changed) or table.startswith('dual_action') and preset in ('paper', 'mars')
            other = other or (table, preset) == ('mei.table2', 'demo')
            says = {row.name: 'head' in row.settings for row in NOW[table].rows} # those keep the reading they name
            for row, key in keys.items():
                if row in now and row != 'TransNet':
                    assert (now[row] != key) == (other and not says[row]), (table, preset, row)
    for preset, keys in said['transnet_ablations.heads'].items():
        now = found['transnet_ablations.heads'][preset]
        assert now['TransNet'] == keys['third layer'] and now['two layers of the equations'] == keys['TransNet']


@every_call
def test_nothing_is_trained_again(number, sports, store):
    asked, before = ASKED[number], row_runs()
    result = run(asked.table, sports, asked.preset, rows=asked.rows, cache=store/'cache', progress=False,
                 **asked.options, **asked.settings)
    after = row_runs()
    assert len(runs_table(where="tags.kind = 'table'")) == len(SAID['tables'])
    assert sorted(after.index) == sorted(before.index) and after.end_time.loc[before.index].equals(before.end_time)
    for line, said in zip(result.to_dict('records'), SAID['tables'][number], strict=True):
        for name, value in said.items():
            wanted = pytest.approx(value, abs=1e-12) if isinstance(value, float) else value
            assert value is None or line[name] == wanted, (line['row'], name)


@every(SAID['rows'])
def test_what_a_run_holds_is_read(said, store):
    "Its numbers, to the last digit; its net, made from its recipe, says of a clip of the test what it said then."
    held = open_store().get_run(said['run_id']).data
    assert recorded(said['run_id']).tags['key'] == held.tags['key'] == said['key']
    assert digits(said['run_id']) == said['digits']
    assert {name: held.metrics[name] for name in said['metrics']} == said['metrics']
    seen = predicted(said['run_id'])
    assert (seen is None) == (said['predicted'] is None) == (said['row'] in NO_NET)
    if seen is None: return
    assert seen == pytest.approx(said['predicted'], abs=1e-5)
    videos = load_table('predictions.parquet', said['run_id'])
    assert seen == pytest.approx(table_probabilities(videos)[0], abs=2e-4) # a frozen TransNet sees float16 in its test


# one of each paper; members, teachers and encoders are trained along
AGAIN = {'mei.table2': 'MEI, Gradient Division', 'transnet.table2': 'MobileNet, HSS', 'kpsem.table1': 'MF-KPSEM',
         'dual_stream_attention.table1': 'early fusion', 'dual_action.table2': 'Dual-action Stream'}


def again(said): return AGAIN.get(said['table']) == said['row'] and said['seed'] == 0


@every([each for each in SAID['rows'] if again(each)])
def test_trained_again_it_says_the_same(said, store): trained_again(said, store)


@pytest.mark.slow
@every([each for each in SAID['rows'] if not again(each) and 'reused_from' not in each])
def test_every_other_row_trained_again(said, store): trained_again(said, store)


def trained_again(said, store):
    "Since these runs all parameters are updated in one step, which rounds otherwise; before that, digits were equal."
    result = rerun(recorded(said['run_id']), ASKED[said['call']].table, store/'cache', progress=False)
    numbers = result[~result.metric.str.contains('|'.join(TIMES))]
    assert set(said['metrics']) <= set(numbers.metric)
    assert result.attrs['probabilities'] < .05 # four epochs in batches of four carry the last digit that far


def test_the_set_is_drawn_the_same(tmp_path):
    if not LIKE: pytest.skip('another processor or OpenCV may round other pixels')
    drawn = build(tmp_path/'sports', workers=1, progress=False, **SET)
    found = {f'sports/{path}': hashlib.sha256((drawn.root/path).read_bytes()).hexdigest() for path in drawn.clips.path}
    assert SAID['clips'].items() <= found.items() and len(SAID['clips']) == 15
