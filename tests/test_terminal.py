"The command line shows itself: what it draws, what it says to programs, what it offers, and what it answers to slips."
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from later import collecting

from har_nb.tools.cli import main, parser
from har_nb.tools.completion import SHELLS, _subparsers
from har_nb.tools.tables import read_index
from har_nb.tools.terminal import Screen

if not collecting:
    from har_nb.tools.tables import described, every_table

HEAVY = 'torch', 'fastai', 'mlflow', 'pandas', 'numpy', 'matplotlib', 'cv2'


def test_the_index_is_what_the_tables_say():
    "Written at export; who changes a table exports."
    now = {table.name: described(table) for table in every_table()}
    assert list(read_index()) == list(now) and len(now) >= 36
    for name, about in now.items(): assert read_index()[name] == json.loads(json.dumps(about)), f'{name}: make export'


def test_every_setting_of_every_table_is_explained():
    assert [(name, key)
            for name, about in read_index().items()
            for key, value in about.get('settings', {}).items()
            if not value['means']] == []


@pytest.mark.parametrize('words', [['tables'], ['tables', 'mei.table2'], ['--help'], ['--complete', 'run', 'mei.t']])
def test_what_is_asked_first_imports_nothing_heavy(words):
    "Asked of what a process has imported, not of a clock."
    code = (
        "import sys; from har_nb.tools.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print('heavy:', *({{*{HEAVY}}} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, '-c', code, *words], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == 'heavy:' and 'mei.t' in done.stdout or words == ['--help']


def test_tables_are_told_for_people_and_for_programs(har):
    shown, told = har('tables').out, json.loads(har('tables', '--json').out)
    assert {one['table'] for one in told['tables']} == set(read_index()) and all(name in shown for name in read_index())
    one = json.loads(har('tables', 'mei.table2', '--json').out)
    assert one['rows'][0] == dict(row='normal', printed=68.54, made_of=[])
    assert one['settings']['stop_above']['default'] == '0.9'
    text = har('tables', 'mei.table2').out
    for words in ('68.54', 'end once validation accuracy', '--preset demo', 'Left open by the paper', 'when to stop'):
        assert words in text


SLIPS = [
    (['tabels'], 'Did you mean tables?'),
    (['run', 'mei.table2', '--preste', 'demo'], 'Did you mean --preset'),
    (['tables', 'mei.tabel2'], 'Did you mean mei.table2'),
    (['compare', 'kpsem.left_opened'], 'Did you mean kpsem.left_open'),
    (['data', 'get', 'ucf1010'], 'Did you mean ucf101?'),
    (['data', 'lits'], 'Did you mean list?'),
    (['figure', 'mei.figre7'], 'Did you mean mei.figure7'),
]


@pytest.mark.parametrize('words, answer', SLIPS, ids=[' '.join(words) for words, _ in SLIPS])
def test_a_slip_is_answered_with_what_is_near(har, words, answer): assert answer in har(*words).err


def test_rows_presets_and_settings_that_are_near(har, built_set):
    run = ('run', 'mei.table2', '--data', built_set.root)
    assert 'Did you mean two-stream?' in har(*run, '--rows', 'two-straem').err
    assert 'Did you mean demo?' in har(*run, '--preset', 'dmo').err
    assert 'Did you mean stop_above?' in har(*run, '--set', 'stop_abov=1').err


def test_programs_read_results(trained, har, monkeypatch, built_set):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', trained.uri)
    found = json.loads(har('compare', 'mei.table2', '--paired', 'normal', 'two-stream', '--json').out)
    assert found['rows'][0]['row'] == 'normal'
    assert found['rows'][0]['printed'] == 68.54
    assert 0 <= found['rows'][0]['test_acc_video'] <= 100
    assert found['table'] == 'mei.table2'
    assert found['decided']
    assert found['literature']
    assert found['paired']
    assert found['page'].startswith('http')
    said = json.loads(har('predict', built_set.paths[0], '--run', found['rows'][0]['run_ids'][0], '--json').out)
    assert len(said['predictions']) == 5 and said['predictions'][0]['rank'] == 1
    wrong = har('predict', built_set.paths[0], '--run', 'nothing', '--json')
    assert wrong.code == 1 and 'no run' in json.loads(wrong.out)['error'] and 'no run' in wrong.err


@pytest.mark.parametrize('width', [40, 72, 100, 160])
def test_results_are_drawn_to_the_width_there_is(trained, capsys, width):
    from har_nb.experiments.results import compare, readable
    from har_nb.papers.mei.tables import table2
    result = readable(compare(table2))
    capsys.readouterr()
    Screen(width=width).table('rows', result)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    text = ' '.join(' '.join(lines).split())
    for name in [*result.row, '68.54', '95%', 'seeds']: assert name in text or width < 60 and name.split()[0] in text


def test_piped_results_are_a_line_a_row(trained, har, monkeypatch):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', trained.uri)
    lines = har('compare', 'mei.table2').out.splitlines()
    assert sum(line.startswith('MEI, Gradient Division ') and '67.04' in line for line in lines) == 1
    assert not any('─' in line for line in lines)


def test_help_has_groups_and_examples(har):
    whole = har('--help').out
    for command in ('tables', 'run', 'compare', 'predict', 'export', 'audit', 'data', 'ui'):
        assert f'\n  {command} ' in whole
    assert 'tables of the papers:' in whole and 'trained runs:' in whole
    run = har('run', '--help').out
    assert 'examples:' in run and 'the data and how they are split' in run and 'default: None' not in run


def commands_of(one, name):
    "Every command by its words, with its parser."
    parts = _subparsers(one)
    if not parts: yield name, one
    for word, part in parts.items(): yield from commands_of(part, f'{name} {word}')


def test_every_command_has_examples_and_json_but_those_that_open_something():
    found = dict(commands_of(parser(), 'har'))
    assert [name for name, one in found.items() if not (one.epilog or '').startswith('examples:')] == []
    silent = [name for name, one in found.items() if '--json' not in one.format_help()]
    assert silent == ['har ui', 'har lab', 'har completion']


def test_how_long_a_demo_takes_is_told_or_that_nobody_measured_it(har):
    for name, about in read_index().items():
        if 'demo' not in about.get('presets', {}): continue
        text = har('tables', name).out
        if about['demo']: assert re.search(r'(about|more than) \d+ (s|minutes) of\s+processor', text), name
        else: assert 'was not measured' in text, name


def offered(shell, *words):
    "What a real shell offers behind these words."
    har = f'har() {{ {sys.executable} -m har_nb.tools.cli "$@"; }}\n'
    line = ' '.join(f'"{word}"' for word in ('har', *words))
    ask = f'COMP_WORDS=({line}); COMP_CWORD={len(words)}; _har 2>/dev/null; printf "%s\\n" "${{COMPREPLY[@]}}"'
    if shell == 'zsh':
        har, ask = (f'compdef() {{ :; }}; compadd() {{ shift; printf "%s\\n" "$@"; }}; _files() {{ :; }}\n{har}',
                    f'words=({line}); CURRENT={len(words) + 1}; _har')
    return subprocess.run([shell, '-c', f'{har}{SHELLS[shell]}\n{ask}'],
                          capture_output=True, text=True, env=os.environ).stdout.splitlines()


@pytest.mark.parametrize('shell', SHELLS)
def test_shells_complete_commands_tables_and_rows(shell):
    if not shutil.which(shell): pytest.skip(f'there is no {shell} on this machine')
    assert offered(shell, 'compa') == ['compare']
    assert offered(shell, 'run', 'kpsem.table2') == [f'kpsem.table2{letter}' for letter in 'abcd']
    assert offered(shell, 'run', 'mei.table2', '--rows', 'MEI') == [
        'MEI, Equal Division', 'MEI, Gradient Division'
    ], 'a name with spaces is one word'


def test_every_command_has_json_but_those_that_open_a_page():
    def commands(parser):
        return next((action.choices
                     for action in parser._actions
                     if hasattr(action, 'choices') and isinstance(action.choices, dict)), {})
    top = commands(parser())
    every = {name: one for name, one in top.items() if not commands(one)} | {
        f'data {name}': one for name, one in commands(top['data']).items()
    }
    assert {name for name, one in every.items() if '--json' not in one._option_string_actions} == {
        'ui', 'lab', 'completion'
    }


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    code = 'import sys; from har_nb.tools.cli import main; main(["tables"])'
    shell = f'set -o pipefail; {sys.executable} -c \'{code}\' | head -1'
    done = subprocess.run(['bash', '-c', shell], capture_output=True, text=True)
    assert 'Broken' not in done.stderr and 'Traceback' not in done.stderr


def test_main_without_words_says_what_there_is(capsys):
    with pytest.raises(SystemExit): main([])
    assert 'tables of the papers' in capsys.readouterr().out


@pytest.mark.parametrize('words', [['tables'], ['tables', '--json']])
def test_whoever_reads_may_stop(monkeypatch, words):
    "`har tables --json | head`: JSON is printed when the command is done, and that breaks, too."
    turned = []
    def broken(*about, **how): raise BrokenPipeError
    monkeypatch.setattr('har_nb.tools.terminal.Screen.say', broken)
    monkeypatch.setattr('har_nb.tools.terminal.Screen.end', broken)
    monkeypatch.setattr(os, 'dup2', lambda *places: turned.append(places))
    main(words)
    assert len(turned) == 1
