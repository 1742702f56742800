"Runs of every paper, trained by commit dfd204d (`record.py`): what was asked, and how they are read again."
import hashlib
import re
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from har_nb.data.lists import from_lists
from har_nb.data.synthetic import person_of
from har_nb.experiments.rerun import recorded
from har_nb.experiments.tables import Job, Table, choose, row_key, settings_of, splits
from har_nb.learning.predictor import load_predictor
from har_nb.learning.provenance import environment
from har_nb.learning.recipe import Make, PredictError
from har_nb.learning.runs import load_table
from har_nb.models.backbones import small_resnet
from har_nb.papers.dual_action import tables as dual_action
from har_nb.papers.dual_stream_attention import ablations as attention_ablations
from har_nb.papers.dual_stream_attention import tables as dual_stream_attention
from har_nb.papers.kpsem import tables as kpsem
from har_nb.papers.mei import ablations as mei_ablations
from har_nb.papers.mei import tables as mei
from har_nb.papers.transnet import ablations as transnet_ablations
from har_nb.papers.transnet import tables as transnet
from har_nb.samples.store import cache_key

HERE = Path(__file__).resolve().parent
ROOT = '/recorded' # stands in the packed store for the folder that it is unpacked to
PAPERS = (mei, mei_ablations, transnet, transnet_ablations, dual_stream_attention, attention_ablations, kpsem,
          dual_action)


def before(table):
    """A table with the readings that were its defaults when these runs were made; rows that came later are left out.

    Other by now, so that these rows have other keys where nothing is asked for:
    all rows of transnet and transnet_ablations (head: the two layers of the equations, now `three_layers`),
    all rows of kpsem (weight decay beside the momentum, now `coupled`), and
    mei.table2 in its demo preset (an image every five frames and fifteen epochs; ten and twelve by now),
    all rows of dual_action as printed and in `corners`, which was called `mars` (25 frames a second are asked for now).
    In transnet_ablations.heads the row 'third layer' is now 'TransNet', and 'TransNet' 'two layers of the
    equations'."""
    settings = {name: value for name, value in table.settings.items() if name != 'coupled'}
    if 'head' in settings: settings['head'] = 'TextHead'
    named = {'corners': 'mars'} if table.name.startswith('dual_action.') else {}
    presets = {named.get(name, name): {each: value for each, value in preset.items() if each != 'fps'}
               for name, preset in table.presets.items() if name not in ('mars', 'mars_leaky')} # those came later
    if table.name == 'mei.table2': presets['demo'] = presets['demo'] | dict(interval=5, epochs=15)
    rows = tuple(renamed(row) for row in table.rows if row.name not in LATER)
    return replace(table, settings=settings, presets=presets, rows=rows)


def renamed(row):
    if row.name != 'two layers of the equations': return row
    return replace(row, name='third layer', settings=dict(head='three_layers'))


LATER = ('Gradient, each frame cut', 'added to MARS: MAE', 'added to MARS: MAE and Gram')
NOW = {table.name: table for paper in PAPERS for table in vars(paper).values() if isinstance(table, Table)}
TABLES = {name: before(table) for name, table in NOW.items()}
SET = dict(people=5, takes=1, size=(32, 40), seed=0) # as `build` drew it
CLASSES = ('ClimbUp', 'ClimbDown', 'StarJump')


def tiny(weights=None, num_classes=8):
    "`small_resnet` with a sixteenth of its weights; the store stays small."
    return small_resnet(weights, num_classes, width=4)


@dataclass(frozen=True)
class Asked:
    "One call of `run`."
    table:Table
    rows:tuple
    settings:dict # what replaces those of the preset
    options:dict = field(default_factory=dict) # seeds, protocols, pairs
    preset:str = 'demo'


def with_tiny(table, **settings):
    "A table with one more preset: nets that were asked for, and are not of a preset, cannot be read again."
    return replace(table, presets=table.presets | dict(tiny=table.presets['demo'] | settings))


PLAIN = dict(size=32, epochs=1)
MEI = PLAIN | dict(backbone='recorded:tiny', epochs=4, batch_size=16)
TRANSNET = PLAIN | dict(n=4, width=1/32, epochs=4, freeze_epochs=4, lr=.005, batch_size=4,
                        hss_epochs=3, hss_batch_size=6, hss_pictures=36, hss_lr=1e-3)
ATTENTION = PLAIN | dict(size=48, n=4, width=1/16, every=4, epochs=8, lr=.01, batch_size=4)
MFNET = Make('har_nb.models.mfnet:mfnet', dict(width=12, groups=2, blocks=(1, 1, 1, 1)))
KPSEM = PLAIN | dict(n=6, interval=8, clips=2, batch_size=8, at_once=4, zoom=.7, mfnet=MFNET)
RESNEXT = Make('har_nb.models.resnext3d:resnext3d', dict(width=2, layers=(1, 1, 1, 1), cardinality=1))
DUAL = PLAIN | dict(n=8, crop=28, epochs=2, one_cycle=False, patience=0, batch_size=8, net=RESNEXT)
OFFICIAL, ORDER = dict(protocols=['official']), dict(pairs=[('ClimbUp', 'ClimbDown')])

ASKED = (
    Asked(before(mei.table2), ('normal', 'MEI, Gradient Division', 'two-stream'), MEI, dict(seeds=2) | ORDER),
    # the head alone, on features
    Asked(before(mei.table2), ('normal',), MEI | dict(epochs=0, freeze_epochs=4)),
    # two rows are taken over from mei.table2
    Asked(before(mei_ablations.embedding), ('Gradient reversed', 'folded on the device', 'two-stream, 1 : 3'), MEI),
    Asked(before(transnet.table2), ('MobileNet, none',), TRANSNET | dict(freeze=False),
          dict(protocols=['paper', 'official'])),
    # in two phases
    Asked(before(transnet.table2), ('MobileNet, HSS',), TRANSNET | dict(freeze=False), OFFICIAL),
    # with the frozen net that is asked
    Asked(before(transnet_ablations.heads), ('TransNet, test frames backwards', 'logistic, mean and change'), TRANSNET,
          OFFICIAL),
    Asked(before(transnet_ablations.body), ('R3D-18 from random numbers',), TRANSNET, OFFICIAL),
    Asked(dual_stream_attention.table1, ('early fusion',), ATTENTION, OFFICIAL | ORDER),
    # one row is taken over from dual_stream_attention.table1
    Asked(attention_ablations.streams, ('early fusion', 'early, MEIs instead of flow'), ATTENTION),
    Asked(with_tiny(before(kpsem.table1), **KPSEM), ('MF-KPSEM',), {}, preset='tiny'),
    # with the student and its teacher
    Asked(with_tiny(before(dual_action.table2), **DUAL),
          ('Dual-action Stream + Flow', 'Dual-action Stream + Flow, attention'), {}, preset='tiny'))


def recorded_set(folder):
    "The clips that the runs saw."
    return from_lists(Path(folder)/'sports', group=person_of)


def recorded_store(folder):
    "Unpack the store and its clips into an empty folder; the address for MLFLOW_TRACKING_URI."
    folder = Path(folder)
    with tarfile.open(HERE/'store.tar.xz') as packed: packed.extractall(folder, filter='data')
    uri = f'sqlite:///{(folder/"mlflow.db").as_posix()}'
    replace_root(folder, ROOT, folder)
    packed_by = (folder/'mlflow.version').read_text().strip()
    if version('mlflow') != packed_by: # what a user does with a store of an older MLflow
        subprocess.run([sys.executable, '-m', 'mlflow', 'db', 'upgrade', uri], check=True, capture_output=True)
    return uri


def replace_root(folder, old, new):
    "Tell a store that it lies in another folder."
    with closing(sqlite3.connect(folder/'mlflow.db')) as db:
        for table, column in (('experiments', 'artifact_location'), ('runs', 'artifact_uri')):
            db.execute(f'update {table} set {column} = replace({column}, ?, ?)', (str(old), Path(new).as_posix()))
        db.commit()
        db.execute('vacuum')
    for file in folder.glob('artifacts/**/origin.json'): file.write_text(file.read_text().replace(str(old), str(new)))


def digits(run_id):
    "A digest of all that a run predicted: float32 probabilities of every sample, and its clip."
    return hashlib.sha256(load_table('samples.parquet', run_id).to_numpy('float64').tobytes()).hexdigest()


def predicted(run_id):
    "What a run's net, made again from its recipe, says of the first clip of its test; None where no net is kept."
    try: predictor = load_predictor(run_id, 'cpu', ('recorded',))
    except PredictError: return None
    clip = load_table('predictions.parquet', run_id).path[0]
    return predictor.predict(recorded(run_id).dataset.root/clip).video.tolist()


def machine():
    "What digits may depend on beside data, settings and seed."
    said, packages = environment(), ('torch', 'torchvision', 'numpy', 'opencv-python', 'fastai', 'scikit-learn')
    file = Path('/proc/cpuinfo')
    model = re.search(r'^model\s*: (\d+)', file.read_text(), re.MULTILINE) if file.exists() else None
    about = {name: said[name] for name in ('cpu', 'cpu_capability', 'threads', 'gpu')}
    return about | dict(cpu_model=model and model[1]) | {name: version(name) for name in packages}


def keys_of(asked, dataset, decoded):
    "Keys of the rows of a call by row, protocol and seed. `decoded` gives `Samples` for modalities."
    table, options, found = asked.table, asked.options, {}
    shared, chosen = settings_of(table, asked.preset, **asked.settings), choose(table, asked.rows)
    sees = {row.name: row.modality(shared | row.settings) for row in chosen if row.modality}
    samples = decoded(list(dict.fromkeys(sees.values())), shared['size'])
    wanted = options.get('protocols', table.protocols)
    for part in splits(dataset, protocols={name: make for name, make in table.protocols.items() if name in wanted}):
        for seed in range(options.get('seeds', 1)):
            keys = keys_of_rows(chosen, shared, part, seed, {row: samples[modality] for row, modality in sees.items()})
            found |= {(row, part.protocol, seed): key for row, key in keys.items()}
    return found


def all_keys(dataset, tables=TABLES):
    "The key of every row of every table, as printed and in each preset. No video is read."
    part, found = splits(dataset)[0], {}
    for table in tables.values():
        for preset in dict.fromkeys(('paper', *table.presets)):
            shared = table.settings | table.presets.get(preset, {})
            sees = {row.name: row.modality(shared | row.settings) for row in table.rows if row.modality}
            samples = {row: SimpleNamespace(modality=modality, key=cache_key(modality, shared['size']))
                       for row, modality in sees.items()}
            found.setdefault(table.name, {})[preset] = keys_of_rows(table.rows, shared, part, 0, samples)
    return found


def keys_of_rows(rows, shared, part, seed, samples):
    keys = {}
    for row in rows:
        job = Job(part, seed, samples.get(row.name), {})
        keys[row.name] = row_key(row, shared | row.settings, job, [keys[name] for name in row.needs])
    return keys
