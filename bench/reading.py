"""What it costs to look at what was measured: `har compare` and `har predict` of one clip, beside the same with every
library of training imported first, as each command did before.

python bench/reading.py         # prints the rows of bench/results.md
Processor seconds of the whole process, medians of three in turn: what runs beside them on the machine changes them
little.
"""
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TIMES = 3
HAR = 'import sys; from har_nb.tools.cli import main; main(sys.argv[1:])'
BEFORE = f'import har_nb.papers.mei.tables, har_nb.learning.explain, seaborn; {HAR}'


def call(code, words, environment):
    subprocess.run([sys.executable, '-c', code, *map(str, words)], env=environment, check=True, capture_output=True)


def spent(code, words, environment):
    "Processor seconds of a process."
    def total(): used = resource.getrusage(resource.RUSAGE_CHILDREN); return used.ru_utime + used.ru_stime
    start = total()
    call(code, words, environment)
    return total() - start


def in_turn(codes, words, environment, times):
    # one unmeasured round first
    rounds = [[spent(code, words, environment) for code in codes] for _ in range(times + 1)][1:]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def trained(folder):
    "A small table that was run: the environment that shows it, the run of a row, a clip."
    environment = os.environ | dict(MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db',
                                    HAR_NB_DATA=str(folder), OMP_NUM_THREADS='1')
    call(HAR, ['data', 'synthetic', folder/'sports', '--people', 4, '--takes', 1], environment)
    call(HAR, ['run', 'mei.table2', '--data', folder/'sports', '--preset', 'demo', '--size', 32, '--epochs', 1],
         environment)
    find = (
        "from har_nb.learning.runs import runs_table; print(runs_table('mei.table2', \"tags.row = "
        "'normal'\").run_id.iloc[0])"
    )
    run = subprocess.run([sys.executable, '-c', find],
                         env=environment, check=True, capture_output=True, text=True).stdout.strip()
    return environment, run, next((folder/'sports').rglob('*.avi'))


def rows(folder=None, times=TIMES):
    with tempfile.TemporaryDirectory() as own:
        environment, run, clip = trained(Path(folder or own))
        for what, words in (
            ('har compare', ['compare', 'mei.table2']),
            ('har predict, one clip', ['predict', clip, '--run', run]),
        ):
            now, before = in_turn([HAR, BEFORE], words, environment, times)
            aim = (
                'a third: 8.3 s to 3 s on a quiet machine'
                if what == 'har compare'
                else 'under 7 s on a quiet machine'
            )
            yield (f'{what}, and with all of training imported first: processor seconds',
                   f'{now:.1f} against {before:.1f}: {now/before:.2f} of it', aim)


if __name__ == '__main__':
    for row in rows(): print(' | '.join(row), flush=True)
