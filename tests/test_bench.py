"The bench measures what it says, at toy size; how long anything takes is not looked at."
import importlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def bench(root, monkeypatch):
    "A module of the bench by its name. The same name in the library is another module."
    monkeypatch.syspath_prepend(str(root/'bench'))
    before = dict(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - set(before):
        if str(getattr(sys.modules[name], '__file__', '')).startswith(str(root/'bench')): del sys.modules[name]


def rows_of(rows):
    rows = list(rows)
    assert rows and all(len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in rows)
    return rows


def test_results_are_written_part_by_part_in_their_order(bench, tmp_path):
    measure = bench('measure')
    for name, text in (('gpu', 'one'), ('later', 'two'), ('samples', 'three'), ('gpu', 'four')):
        measure.write_part(name, text, tmp_path/'results.md')
    parts = (tmp_path/'results.md').read_text().split('\n## ')
    assert parts[0].startswith('# Speed')
    assert [part.split() for part in parts[1:]] == [['samples', 'three'], ['gpu', 'four'], ['later', 'two']]


def test_a_row_stays_a_row_of_the_table(bench):
    assert r'| what | 1 \| 2 MB | told |' in bench('measure').part_of(lambda folder: [('what', '1 | 2 MB', 'told')])


def test_the_committed_results_hold_every_part_there_is(root, bench):
    held = [part.split('\n')[0] for part in (root/'bench'/'results.md').read_text().split('\n## ')[1:]]
    assert {'samples', 'flow', 'kpsem', 'latency'} <= set(held)
    order = bench('measure').ORDER
    assert set(order) >= set(bench('run').PARTS) and held == sorted(held, key=order.index)


def test_memory_is_that_of_the_process_asked_for(bench):
    megabytes = bench('measure').megabytes
    child = subprocess.Popen([sys.executable, '-c',
                              'import sys; x = bytearray(2**27); x[::4096] = bytes(len(x[::4096])); '
                              'print(flush=True); sys.stdin.read()'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    assert 128 < megabytes('VmHWM', child.pid) < 300
    child.communicate()


# Against what a user would do instead

@pytest.fixture
def clips(small_set):
    return small_set.carve_validation(.34, seed=0)


def test_three_ways_train_on_the_same_samples(bench, monkeypatch, clips):
    instead = bench('instead')

    def here(way, file, folder):
        start = time.time()
        return instead.summary(instead.work(way, file, folder/'cache'), start, folder)
    monkeypatch.setattr(instead, 'measured', here)
    about = instead.DEMO | dict(workers=0, size=24, interval=10, epochs=2)
    rows = rows_of(instead.compared('toy', clips, about))
    assert [row[0].split(': ')[-1] for row in rows[:3]] == list(instead.WAYS.values()) and len(rows) == 5
    images = int(rows[0][0].split(' training images')[0].split()[-1])
    assert 7*16 <= images <= 8*16, '16 clips of 70 or 80 frames'
    disk = [float(row[1].rsplit('; ', 1)[1].split()[0]) for row in rows[:3]]
    assert disk[0] > 0 and disk[1] == 0 and disk[2] > 0


def test_other_samples_are_an_error(bench, monkeypatch, clips):
    instead = bench('instead')
    numbers = iter(range(9))
    monkeypatch.setattr(instead, 'measured',
                        lambda *_: dict(first=1., later=1., imports=0.,
                                        samples=next(numbers), disk=0., memory=0., peaks=0.))
    with pytest.raises(RuntimeError, match='not the same samples'): list(instead.compared('toy', clips, instead.DEMO))


def test_plain_loop_and_store_pick_the_same_pictures(bench, clips):
    from har_nb.samples.store import Frame, sample_video
    path = clips.paths[0]
    plain = np.stack(bench('instead').last_frames(path, 5))
    (ours,), _ = sample_video(path, [Frame(10, 5)], plain.shape[1:3])
    # two decoders round colours differently
    assert plain.shape == ours.shape and np.abs(plain.astype(int) - ours).mean() < 3


@pytest.mark.slow
def test_a_way_is_watched_with_the_processes_it_starts(bench, tmp_path, clips):
    instead = bench('instead')
    about = instead.DEMO | dict(size=24, interval=10, epochs=2, classes=list(clips.classes),
                                clips=clips.clips.assign(path=[str(path)[1:] for path in clips.paths]).to_dict('list'))
    (tmp_path/'about.json').write_text(json.dumps(about))
    (tmp_path/'place').mkdir()
    found = instead.measured('decoding', tmp_path/'about.json', tmp_path/'place')
    assert found['samples'] > 0 and found['first'] > found['imports'] > 0 and found['peaks'] > found['memory'] > 50


def test_real_clips_that_are_absent_are_said_to_be(bench, monkeypatch, tmp_path):
    instead = bench('instead')
    monkeypatch.setattr(instead, 'compared', lambda *_, **__: [('demo', 'x', 'told')])
    monkeypatch.setattr(instead, 'demo_set', lambda *_, **__: None)
    last = rows_of(instead.rows(tmp_path, indoor=tmp_path/'indoor_actions'))[-1]
    assert last[1] == 'skipped: indoor_actions is not beside this checkout'


def test_the_real_clips_are_split_by_recording(bench, shared_data):
    dataset = bench('instead').real_set(shared_data/'indoor_actions')
    assert {'train', 'valid', 'test'} == set(dataset.clips.split) and not dataset.overlap().groups_shared.any()


# What needs a GPU, on a CPU

def part_on_a_cpu(gpu, name, folder):
    "Rows of a part at its toy size."
    part = gpu.PARTS[name]
    rows = rows_of(part.work('cpu', folder, **part.toy))
    assert not [row for row in rows if 'failed' in row[1]]
    return rows


def nets_of(gpu, name):
    from har_nb.models.zoo import NETS
    of_clips = name == 'clips'
    return [net
            for net in NETS
            if net.name not in gpu.LARGE and of_clips == any(len(shape) == 4 for shape in net.shapes)]


@pytest.mark.parametrize('name', ['kpsem', 'waiting', 'brox'])
def test_parts_for_a_gpu_run_on_a_cpu(bench, tmp_path, name): assert part_on_a_cpu(bench('gpu'), name, tmp_path)


@pytest.mark.parametrize('name', ['images', 'clips'])
def test_nets_for_a_gpu_run_on_a_cpu(bench, tmp_path, monkeypatch, name):
    "Two nets of each kind; all of them by make test-slow."
    gpu = bench('gpu')
    few = nets_of(gpu, name)[:2]
    monkeypatch.setattr('har_nb.models.zoo.NETS', tuple(few))
    assert len(part_on_a_cpu(gpu, name, tmp_path)) == 1 + len(few)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['images', 'clips'])
def test_every_net_for_a_gpu_runs_on_a_cpu(bench, tmp_path, name):
    gpu = bench('gpu')
    assert len(part_on_a_cpu(gpu, name, tmp_path)) == 1 + len(nets_of(gpu, name))


def test_every_net_is_measured_on_a_gpu(bench):
    from har_nb.models.zoo import NETS
    gpu = bench('gpu')
    assert not set(gpu.LARGE) - {net.name for net in NETS}
    assert not any('small' in part.settings for part in gpu.PARTS.values())
    assert sum(part.limit for part in gpu.PARTS.values()) <= 8*60


@pytest.mark.slow
def test_what_was_measured_is_written_though_other_parts_fail(bench, tmp_path):
    gpu = bench('gpu')
    failed = gpu.run_parts(['brox', 'flow'], toy=True, results=tmp_path/'results.md', limits=dict(brox=0))
    text = (tmp_path/'results.md').read_text()
    assert failed == ['brox'] and '| part brox | failed: ended after its 0 seconds' in text
    fused = [line for line in text.splitlines() if 'fused kernel against eager' in line]
    assert len(fused) == 2 and '| 0.00000' in fused[0], 'the kernel, interpreted, gives what plain torch gives'


def test_rows_before_an_error_are_kept_and_the_error_is_named(bench, monkeypatch, tmp_path, capfd):
    gpu = bench('gpu')

    def breaks(device, folder):
        yield 'first', '1', 'told'
        raise ValueError('no such thing\nand more')
    monkeypatch.setitem(gpu.PARTS, 'brox', gpu.Part(breaks, 1, {}, {}))
    gpu.write_rows('brox', 'cpu', True, tmp_path/'rows')
    assert [json.loads(line) for line in (tmp_path/'rows').read_text().splitlines()] == [
        ['first', '1', 'told'],
        ['part brox', 'failed: ValueError: no such thing', 'told'],
    ]


def test_a_batch_that_does_not_fit_is_halved(bench, monkeypatch):
    import torch

    from har_nb.models.zoo import NETS
    gpu, tried = bench('gpu'), []

    def small_device(model, shapes, device, batch, *_):
        tried.append(batch)
        if batch > 2: raise torch.OutOfMemoryError('too large')
        return 1., 1.
    monkeypatch.setattr(gpu, 'trained', small_device)
    net = next(net for net in NETS if net.name == 'AttentionFusion')
    row = gpu.row_of(replace(net, make=net.small, shapes=net.small_shapes), 'cpu', 8, 0)
    assert tried == [8, 4, 2, 2, 2] and row[1].startswith('training, batch 2: ')


def test_a_machine_without_a_gpu_is_told_of_the_toy(bench):
    import torch
    if torch.cuda.is_available(): pytest.skip('there is a GPU')
    with pytest.raises(SystemExit, match='--toy'): bench('gpu').main([])
    with pytest.raises(SystemExit, match='no such part: nothing'): bench('gpu').main(['nothing'])


def wheel(folder, name, number):
    with zipfile.ZipFile(file := folder/f'{name}-{number}-py3-none-any.whl', 'w') as content:
        about = f'{name}-{number}.dist-info'
        content.writestr(f'{name}.py', f'VERSION = {number!r}\n')
        content.writestr(f'{about}/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n')
        content.writestr(f'{about}/WHEEL',
                         'Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        content.writestr(f'{about}/RECORD', f'{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n')
    return file


def test_a_folder_of_wheels_will_do(bench, tmp_path):
    gpu = bench('gpu')
    wheels = tmp_path/'wheels'
    wheels.mkdir()
    mine = wheel(wheels, 'toy_of_the_bench', '1.5')
    wheel(wheels, 'numpy', '0.1') # which is here already, and is left as it is
    assert gpu.lacking(wheels) == [mine]
    target = gpu.install(wheels, tmp_path/'target')
    assert (target/'toy_of_the_bench.py').exists() and not (target/'numpy.py').exists()
    assert gpu.install(tmp_path, tmp_path/'nothing') == tmp_path/'nothing', 'nothing is lacking, nothing is installed'


# Growth

def test_growth_is_measured_and_drawn(bench, monkeypatch, tmp_path, empty_store):
    growth, done = bench('growth'), []

    def here(name, folder, cache):
        "Works once; what it says grows with the square."
        if name not in done:
            monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{folder}/mlflow.db')
            (growth.OF_CLIPS | growth.OF_RUNS)[name](folder, cache)()
            done.append(name)
        n = int(Path(folder).name.split()[0])
        return n**2/1000, n

    def template(uri):
        shutil.copy(empty_store, tmp_path/'runs')
        monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/runs/mlflow.db')
        return growth.one_run()
    monkeypatch.setattr(growth, 'measured', here)
    monkeypatch.setattr(growth, 'template', template)
    rows = rows_of(growth.rows(tmp_path, (80, 120), (10, 20), tmp_path/'growth.svg'))
    assert done == [*growth.OF_CLIPS, *growth.OF_RUNS]
    assert all('s: exponent 2.00; ' in row[1] and row[1].endswith('exponent 1.00') for row in rows[:-1])
    assert rows[0][1] == '6.40, 14.40 s: exponent 2.00; 80, 120 MB above the start: exponent 1.00'
    text = (tmp_path/'growth.svg').read_text()
    assert 'run list' in text and 'near duplicates' in text and len(text) < 100_000
    with closing(sqlite3.connect(tmp_path/'20 runs'/'mlflow.db')) as store:
        count = "select count(distinct run_uuid) from tags where key = 'kind' and value = 'row'"
        assert store.execute(count).fetchone() == (20,)
        assert store.execute("select count(distinct value) from tags where key = 'row'").fetchone() == (5,)


def test_a_step_of_growth_in_a_process_of_its_own(bench, monkeypatch, capfd):
    growth = bench('growth')
    monkeypatch.setitem(growth.OF_RUNS, 'nothing', lambda folder, cache: lambda: None)
    growth.work('nothing', '.', '.')
    spent, grown = json.loads(capfd.readouterr().out)
    assert spent >= 0 and grown >= .1
    with pytest.raises(RuntimeError, match='(?s)--work nothing.*KeyError'): growth.measured('nothing', '.', '.')


def test_drawn_clips_differ(bench, tmp_path):
    growth = bench('growth')
    growth.draw(tmp_path/'all', 80)
    assert len({file.read_bytes() for file in (tmp_path/'all').rglob('*.avi')}) == 80
    few = growth.some_of(tmp_path/'all', 40, tmp_path/'few')
    assert len(list(few.rglob('*.avi'))) == 40 and {file.stem.split('_')[2] for file in few.rglob('*.avi')} == {'g0001'}


def test_clips_of_stored_frames_are_found_in_one_pass(small_set, tmp_path):
    from har_nb.samples.loaders import SampleSet
    from har_nb.samples.samplers import EveryKth, OneClip
    from har_nb.samples.store import Frames, decode_samples
    (samples,), _ = decode_samples(small_set, [Frames(EveryKth(10))], 16, tmp_path, progress=False)
    chosen = SampleSet(samples, small_set, np.array([7, 2, 5]), choice=OneClip(2))
    assert list(chosen.of_clip) == [2, 5, 7]
    assert all((samples.clip[rows] == clip).all() and len(rows) == (samples.clip == clip).sum()
               for clip, rows in chosen.of_clip.items())


@pytest.mark.slow
def test_before_and_after_and_two_commands_at_a_time(root, bench, tmp_path):
    before = bench('before')
    for name in ('old', 'two'): (tmp_path/name).mkdir()
    told = [*before.compared(tmp_path/'old', times=1, settings=dict(size=64, frames_of=40)),
            *before.beside(tmp_path/'two', people=3, epochs=1, size=32)]
    assert len(told) in (7, 2), 'two where the history is not here'
    peak = [row for row in told if row[0].startswith('peak memory')]
    assert all(re.fullmatch(r'[\d,]+, [\d,]+ MB', row[1]) for row in peak)
    assert all(re.match(r'\d+\.\d\d (times as fast|of its time) \(', row[1]) for row in told if row not in peak)


def test_an_earlier_commit_that_is_not_here_is_none(bench, tmp_path):
    assert bench('before').extracted('0'*40, tmp_path/'code') is None


def test_where_time_goes(bench, small_set, tmp_path):
    where = bench('where')
    assert where.shares(dict(sums=1., decoding=3.)) == 'decoding 75%, sums 25%'
    spent = where.step(size=32, batch=2)
    assert set(spent) == {'convolutions', 'batch norm', 'ReLU6', 'the rest'} and min(spent.values()) > 0
    rows = rows_of(where.rows(tmp_path, step=dict(size=32, batch=2),
                              store=dict(dataset=small_set, sizes=(16,), times=1)))
    assert re.fullmatch(r'-?\d+\.\d µs a page', rows[0][1])
    assert {word for word in re.findall(r'[a-z]+ing', rows[2][1])} == {'decoding', 'resizing'}
    assert re.fullmatch(r'\d+\.\d\d times at most', rows[3][1]) and len(rows) == 4


class Oracle:
    "Knows what is shown: frames are numbers of classes."
    classes = ('a', 'b')

    def of_frames(self, frames, times):
        from har_nb.learning.predictor import Prediction
        said = np.eye(2)[frames[len(frames)//2]]
        return Prediction(said[None], said, self.classes)


def test_events_of_takes_are_counted_for_each_pair_of_thresholds(bench):
    truth = pd.DataFrame(dict(action=['a', 'b'], start=[0., 4.], end=[4., 8.]))
    told = bench('watch').on_takes(Oracle(), [([0]*40 + [1]*40, truth)], 10)
    assert told.startswith('100.0% of 13 windows right; begin above 0.5')
    assert told.count('2 actions found, 0 missed, 0 false alarms an hour') == 4
    told = bench('watch').on_takes(Oracle(), [([0]*80, truth)], 10)
    assert told.count('1 actions found, 1 missed, 0 false alarms an hour') == 4


def test_the_demos_cost_is_a_line_a_table(bench, tmp_path):
    costs, file = bench('demo_costs'), tmp_path/'demos.csv'
    for table, seconds in (('mei.table2', 80), ('a.table', 5), ('mei.table2', 90)):
        costs.write(file, [dict(table=table, seconds=seconds, whole='yes', threads=1, machine='m', date='2026-11-30')])
    from har_nb.tools.tables import demo_costs
    found = demo_costs(file)
    assert {name: one['seconds'] for name, one in found.items()} == {'a.table': 5, 'mei.table2': 90}
    assert found['a.table']['whole'] is True
