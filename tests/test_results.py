"""What stands beside a number: literature with all its columns, decisions, substitutes, and whatever was asked for, in
the output, in files and in MLflow."""
import json
from dataclasses import asdict

import pytest
from later import collecting

from har_nb.experiments.results import (
    PrintedTable,
    as_printed,
    compare,
    literature,
    log_printed,
    printed_table,
    readable,
)
from har_nb.learning.runs import load_text, log_text, runs_table, tracked_run
from har_nb.learning.tracking import open_store

if not collecting:
    from recorded import TABLES

    from har_nb.experiments.tables import SettingsError, settings_of
    from har_nb.papers.dual_action import tables as dual_action
    from har_nb.papers.kpsem import tables as kpsem
    from har_nb.papers.mei import tables as mei
    from har_nb.papers.transnet import ablations
    from har_nb.papers.transnet import tables as transnet

# Table 1 of the Dual-action paper, as printed: RGB, flow and both on UCF101, then on HMDB51
TABLE1 = '''73 83.7 88 40.5 54.6 59.4
82.6 86.2 90.6 47 55.2 58.2
89.7 89.1 94.9 61.5 66.3 75
- - 95.6 - - 71.1
- - 92.7 49.8 59.1 66.9
82.3 - - 51.6 - -
85.8 - - 54.9 - -
93.6 93.3 95 66.6 70.1 72.7
85.7 87.9 93.5 - - 68.5
84.5 90.6 93.4 49.8 61.9 66.4
96.8 95.5 97.3 74.5 76.4 78.7
91.1 95.2 97 - - -
94.2 95 97.4 69.4 71.2 81.9'''


def test_the_literature_of_the_dual_action_paper_is_whole():
    printed = [[None if cell == '-' else float(cell) for cell in line.split()] for line in TABLE1.splitlines()]
    assert [[line[name] for name in list(line)[2:]] for line in dual_action.LITERATURE] == printed
    hmdb51 = {line['Methods']: line for line in dual_action.table1_hmdb51_16f.context}
    assert hmdb51['DTPP']['HMDB-51 RGB+Flow'] == 75 and hmdb51['DTPP']['HMDB-51 Flow'] == 66.3
    assert len(hmdb51) == 11 and len(dual_action.table1.context) == 13 # C3D and R(2+1)D stand there twice
    trained_on = ['ImageNet']*5 + ['sports-1M']*3 + ['ImageNet']*2 + ['ImageNet+Kinetics']*3
    assert [line['Pre-train dataset'] for line in dual_action.LITERATURE] == trained_on


def test_the_literature_of_transnet_has_pretraining_backbone_and_venue():
    for table in (transnet.table4, transnet.table5):
        assert list(table.context[0]) == ['Model', 'Pre-training', 'Backbone', 'Venue', 'Acc.']
    named = {line['Model']: line for line in transnet.table4.context}
    assert named['I3D'] == {'Model': 'I3D', 'Pre-training': 'ImageNet Kinetics400',
                            'Backbone': 'BN-Inception-like', 'Venue': "CVPR '17", 'Acc.': 95.6}
    assert named['HAR-Depth']['Pre-training'] is None
    assert transnet.table3.context[0] == {'Method': 'Grushin et al.', 'Venue': "IJCNN '13", 'Acc.': 90.7}


def test_every_table_says_what_was_decided_in_three_parts():
    for table in TABLES.values():
        assert table.decided, table.name
        assert all(what and ours and all(isinstance(part, str) for part in (what, ours, why))
                   for what, ours, why in table.decided), table.name
        json.dumps(asdict(as_printed(table)))


@pytest.mark.parametrize('said', [('optimiser, rate',), ('one', 'two')])
def test_a_decision_that_is_not_three_things_is_an_error(said):
    with pytest.raises(SettingsError, match='what, ours, why'): mei.Table('toy.one', 'One', 'nobody', (), decided=said)


def notes(table, preset='', **asked):
    about = as_printed(table, settings_of(table, preset or None, **asked), preset)
    return {row.name: row.note for row in about.rows}


def test_what_stands_in_for_something_is_said_with_the_row(tmp_path):
    assert {name for name, note in notes(transnet.table2).items() if note} == {
        'MobileNet, HSS', 'MobileNetV2, HSS', 'VGG16, HSS', 'VGG19, HSS'
    }
    assert set(notes(transnet.table2, 'demo').values()) == {'', 'drawn people'}
    assert set(notes(transnet.table2, masks=str(tmp_path)).values()) == {''}, 'with masks nothing stands in'
    assert set(notes(ablations.heads).values()) == {''}
    assert set(notes(ablations.heads, 'demo').values()) == {'drawn people'}
    scratch = "from random numbers, the paper's from Kinetics"
    assert notes(kpsem.table2d) == {'MFNet': scratch, 'MF-KPSEM': scratch, 'R3D': '', 'R3D-KPSEM': ''}
    assert notes(kpsem.table2d, 'demo')['R3D'] == "from random numbers, the paper's from ImageNet"
    found = notes(dual_action.table2)
    assert found['Flow stream'] == found['Dual-action Stream'] == scratch and found['Dual-action Stream + Flow'] == ''


def test_names_of_rows_and_their_settings_are_as_they_were():
    "A note is shown, and nothing else sees it."
    assert [row.name for row in transnet.table2.rows][2::3] == ['MobileNet, HSS', 'MobileNetV2, HSS',
                                                                'VGG16, HSS', 'VGG19, HSS']
    assert kpsem.FULL.settings == {} and kpsem.BASELINE.settings == dict(kpsem=False)


def test_a_table_of_an_older_version_is_read(tracking):
    "Of a table.json without literature, decisions and settings."
    old = dict(name='mei.table2', title='Two-stream', dataset='UCF101, split 1',
               unit='video', rows=[dict(name='normal', printed=68.54)])
    with tracked_run('old', 'mei.table2', dict(kind='table')): log_text(json.dumps(old), 'table.json')
    found = printed_table('mei.table2')
    assert (found.rows[0].printed, found.rows[0].note, found.context, found.decided, found.asked) == (
        68.54, '', (), (), {}
    )
    assert compare(mei.table2).attrs['decided'] == mei.table2.decided, 'then those of the code are shown'


def test_what_is_written_down_is_read_again_as_it_was(tracking):
    for table in (dual_action.table1_hmdb51_16f, kpsem.table1, transnet.table2):
        about = as_printed(table, settings_of(table, 'demo', epochs=3), 'demo')
        with tracked_run('new', table.name, dict(kind='table')):
            log_printed(table, settings_of(table, 'demo', epochs=3), 'demo')
        assert printed_table(table.name) == about and isinstance(about, PrintedTable)
        assert about.asked == dict(epochs='3') and about.preset['size'] == str(table.presets['demo']['size'])


def test_overrides_decisions_and_literature_are_printed_with_the_result(har, trained):
    run = trained.printed
    shown = har('compare', 'mei.table2').out
    for said in ('Asked for, other than the table or its preset: size = 32, epochs = 1.',
                 'Preset demo: cut down, not as printed.', 'backbone = small_resnet', 'Kalfaoglu et al.', '98.69',
                 'optimiser: AdamW, one cycle (not named)'):
        assert said in run and said in shown, said


def test_they_stand_in_mlflow(trained):
    runs = runs_table('mei.table2')
    parent, rows = runs[runs['tags.kind'] == 'table'].iloc[0], runs[runs['tags.kind'] == 'row']
    for tags in (parent['tags.decided'], *rows['tags.decided']):
        assert 'optimiser: AdamW, one cycle (not named)' in tags
    assert set(rows['tags.decided_by']) == {'us'}
    text = load_text('table.md', parent.run_id)
    for said in ('| Kalfaoglu et al. | 98.69 |', '| optimiser | AdamW, one cycle | not named |', 'size = 32'):
        assert said in text, said


def test_a_substitute_is_loud_in_the_output_and_in_mlflow(tracking, built_set, tmp_path, capsys):
    from har_nb.experiments.tables import run
    tiny = dict(preset='demo', size=32, n=6, freeze_epochs=1, epochs=1, hss_epochs=1, hss_pictures=36, progress=False)
    result = run(transnet.table2, built_set, rows=['MobileNet, HSS'], protocols=['official'], cache=tmp_path, **tiny)
    assert (result.row[0], readable(result).row[0]) == ('MobileNet, HSS', 'MobileNet, HSS (drawn people)')
    own = open_store().get_run(result.run_ids[0][0]).data
    assert own.tags['substitute'] == 'drawn people' and own.tags['row'] == 'MobileNet, HSS'
    assert 'drawn people: MobileNet, HSS' in load_text('table.md', result.attrs['parent'])
    assert literature(result).shape == (12, 4)
    from har_nb.tools.terminal import show
    capsys.readouterr()
    show(result)
    heading = capsys.readouterr().out.strip().splitlines()[0]
    assert heading.startswith('transnet.table2 on')
    assert 'Not what the paper has: drawn people: MobileNet, HSS.' in heading
