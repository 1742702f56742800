"""How the store beside this file was made: at commit dfd204d, from the folder tests, by

    OMP_NUM_THREADS=1 python -m recorded.record

runs.json: every run of a row, its key and its digits
keys.json: the key of every row of every table, as printed and in each preset
store.tar.xz: MLflow's database, artifacts without pictures, the clips

Made again by other code it would prove nothing.
"""
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from har_nb.papers.tables import run

from har_nb.data.synthetic import build
from har_nb.learning.tracking import code_version, runs_table

from . import ASKED, CLASSES, HERE, ROOT, SET, all_keys, digits, machine, predicted, recorded_set, replace_root


def draw(folder):
    "The clips of three classes of the built-in set, and the lists of these clips."
    whole = build(folder/'whole'/'sports', workers=1, progress=False, **SET)
    for name in CLASSES: shutil.copytree(whole.root/name, folder/'sports'/name)
    (folder/'sports'/'classInd.txt').write_text(''.join(f'{number} {name}\n' for number, name in enumerate(CLASSES, 1)))
    for name in ('trainlist.txt', 'testlist.txt'):
        lines = [line.split()[0] for line in (whole.root/name).read_text().splitlines()]
        kept = [f'{path} {CLASSES.index(path.partition("/")[0]) + 1}\n' for path in lines if path.startswith(CLASSES)]
        (folder/'sports'/name).write_text(''.join(kept))


TAGS = ('table', 'row', 'protocol', 'split', 'key', 'reused_from')
TIMELESS = ('test_', 'train_', 'valid_', 'epochs', 'parameters', 'gflops')


def told(row, call):
    "What is recorded of a run: numbers as they are, to the last digit."
    tags = {name: row[f'tags.{name}'] for name in TAGS if isinstance(row.get(f'tags.{name}'), str)}
    numbers = {name.removeprefix('metrics.'): row[name] for name in row.index if name.startswith('metrics.')}
    kept = {name: value for name, value in numbers.items() if name.startswith(TIMELESS) and value == value}
    return dict(call=call) | tags | dict(seed=int(row['tags.seed']), run_id=row.run_id, metrics=kept,
                                         digits=digits(row.run_id), predicted=predicted(row.run_id))


def neutral(folder):
    "Nothing in the store says whose machine it was."
    with closing(sqlite3.connect(folder/'mlflow.db')) as db:
        db.execute("update tags set value = 'recorded' where key = 'host'")
        db.execute("update experiments set artifact_location = ? where name = 'Default'", (f'{ROOT}/artifacts/0',))
        db.commit()
    replace_root(folder, folder, ROOT)


def pack(folder, file):
    "The same bytes for the same files."
    files = [path for part in ('artifacts', 'sports') for path in (folder/part).rglob('*') if path.is_file()]
    files = [folder/'mlflow.db', folder/'mlflow.version', *(path for path in files if path.suffix != '.png')]
    with tarfile.open(file, 'w:xz', preset=9) as packed:
        for path in sorted(files, key=lambda path: (path.suffix, path.name, path)):
            about = tarfile.TarInfo(path.relative_to(folder).as_posix())
            about.size = path.stat().st_size
            packed.addfile(about, io.BytesIO(path.read_bytes()))


def record(folder):
    os.environ['MLFLOW_TRACKING_URI'] = f'sqlite:///{folder}/mlflow.db'
    draw(folder)
    dataset, tables, rows = recorded_set(folder), [], []
    for number, asked in enumerate(ASKED):
        result = run(asked.table, dataset, asked.preset, rows=asked.rows, cache=folder/'cache', progress=False,
                     **asked.options, **asked.settings)
        timeless = result.drop(columns=['run_ids', 'latency_ms'], errors='ignore')
        tables.append(json.loads(timeless.to_json(orient='records', double_precision=15)))
        runs = runs_table(asked.table.name).set_index('run_id', drop=False)
        rows += [told(runs.loc[run_id], number) for ids in result.run_ids for run_id in ids]
    files = sorted((folder/'sports').rglob('*.avi'))
    clips = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    about = dict(commit=code_version(), machine=machine(), clips=clips, tables=tables, rows=rows)
    (HERE/'runs.json').write_text(json.dumps(about, indent=1) + '\n')
    (HERE/'keys.json').write_text(json.dumps(all_keys(dataset), indent=1, ensure_ascii=False) + '\n')
    (folder/'mlflow.version').write_text(version('mlflow') + '\n')
    neutral(folder)
    pack(folder, HERE/'store.tar.xz')


if __name__ == '__main__':
    if os.environ.get('OMP_NUM_THREADS') != '1': sys.exit('OMP_NUM_THREADS=1: digits depend on it')
    with tempfile.TemporaryDirectory() as place: record(Path(place).resolve())
