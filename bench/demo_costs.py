"""Seconds of processor that `har run TABLE --preset demo` takes on the built-in set of `har demo`, one seed, on one
thread, everything decoded anew: what `har tables TABLE` tells of a table's demo.

python bench/demo_costs.py TABLE... # writes their lines of results/costs/demos.csv; export puts them in the index
"""
import os
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

LIMIT = 600 # seconds; a demo that takes more is ended, and its line says so
ONE_THREAD = dict(OMP_NUM_THREADS='1', HAR_NB_SYSTEM_METRICS='0')


def processor():
    "Seconds that the children of this process took, those that have ended."
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def limited(seconds):
    "What a child does before it begins: it ends after so many seconds of processor."
    return lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))


def demo(table, videos, limit=LIMIT):
    "Seconds of a table's demo, and whether it came to its end."
    with tempfile.TemporaryDirectory() as folder:
        own = os.environ | ONE_THREAD | dict(MLFLOW_TRACKING_URI=f'sqlite:///{folder}/mlflow.db',
                                             HAR_NB_DATA=f'{folder}/data')
        words = ['run', table, '--data', str(videos), '--preset', 'demo', '--json']
        before = processor()
        ended = subprocess.run([sys.executable, '-m', 'har_nb.tools.cli', *words], env=own, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, preexec_fn=limited(limit))
        spent = processor() - before
    if ended.returncode > 0: raise RuntimeError(f'{table}: {ended.stderr.strip()[-500:]}')
    return spent, ended.returncode == 0


def line(table, videos, commit):
    "A line of the file."
    spent, whole = demo(table, videos)
    return dict(table=table, seconds=round(spent), whole='yes' if whole else 'no', threads=1,
                machine=platform.machine(), date=date.today().isoformat(), commit=commit)


def write(file, lines):
    "Put lines into the file, in place of those of the same tables."
    import pandas as pd
    new, file = pd.DataFrame(lines), Path(file)
    if file.exists(): new = pd.concat([pd.read_csv(file), new]).drop_duplicates('table', keep='last')
    file.parent.mkdir(parents=True, exist_ok=True)
    new.sort_values('table').to_csv(file, index=False)


def main(tables):
    from har_nb.data.synthetic import build
    from har_nb.experiments.results import results_folder
    from har_nb.learning.provenance import code_version
    from har_nb.tools.pages import DEMO
    file, commit = results_folder()/'costs'/'demos.csv', code_version()
    with tempfile.TemporaryDirectory() as folder:
        videos = build(Path(folder)/'demo_people', progress=False, **DEMO).root
        for table in tables:
            try: found = line(table, videos, commit)
            except RuntimeError as error: print(error, flush=True)
            else: write(file, [found]), print(found, flush=True)


if __name__ == '__main__': main(sys.argv[1:])
