"Reading what was measured needs neither torch nor fastai: asked of what a process has imported, not of a clock."
import os
import subprocess
import sys

HEAVY = 'torch', 'torchvision', 'timm', 'fastai', 'sklearn', 'matplotlib', 'seaborn', 'torch._dynamo'
CODE = f'''
import sys
from har_nb.tools.cli import main
main(sys.argv[1:])
print('heavy:', *({{*{HEAVY}}} & set(sys.modules)), file=sys.stderr)
'''


def command(uri, *words):
    environment = os.environ | dict(MLFLOW_TRACKING_URI=uri)
    return subprocess.run([sys.executable, '-c', CODE, *words], capture_output=True, text=True, env=environment)


def test_compare_does_without_torch(trained_table, tmp_path):
    done = command(trained_table.uri, 'compare', 'mei.table2', '--paired', 'normal', 'two-stream',
                   '--markdown', str(tmp_path/'t.md'), '--csv', str(tmp_path/'t.csv'))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == 'heavy:'
    assert '68.54' in done.stdout and 'video by video' in done.stdout and '| normal |' in (tmp_path/'t.md').read_text()


TRAINS = 'fastai', 'torchvision', 'timm', 'sklearn', 'matplotlib', 'seaborn', 'torch._dynamo'


def test_predict_does_without_what_trains(trained_table, monkeypatch):
    "From a clip to its answer, for a net of our own: torch, and neither fastai nor torchvision, nor what they bring."
    from har_nb.learning.runs import runs_table
    monkeypatch.setenv('MLFLOW_TRACKING_URI', trained_table.uri)
    run = runs_table('mei.table2', "tags.row = 'two-stream'").run_id.iloc[0]
    done = command(trained_table.uri, 'predict', str(trained_table.dataset.paths[0]), '--run', run)
    assert done.returncode == 0, done.stderr
    assert 'torch' in done.stderr.splitlines()[-1].split()
    assert not set(TRAINS) & set(done.stderr.splitlines()[-1].split())
    assert str(trained_table.dataset.paths[0]) in done.stdout and 'probability' in done.stdout


def test_a_table_that_was_never_run_is_looked_for_in_its_module(har):
    "What no run has written down is imported, as before: runs of older versions stay readable."
    never = har('compare', 'mei.table3')
    assert never.code and 'no run of mei.table3 is logged' in never.err
    unknown = har('compare', 'mei.table99')
    assert unknown.code and 'no table' in unknown.err
