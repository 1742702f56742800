"""Tables that are stopped, called again, extended and shared; nothing finished is trained twice, nothing different is
taken for the same, and a setting that nobody knows is an error."""
import json
import shutil
import signal
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from children import dying, in_child
from later import collecting, parametrize

from har_nb.experiments.results import NotRun, Predictions, compare, load_predictions, paired
from har_nb.learning.runs import runs_table
from har_nb.learning.tracking import open_store
from har_nb.samples.store import Frame
from har_nb.tools.data import open_any

if not collecting:
    import torch

    from har_nb.experiments.tables import (
        Job,
        Row,
        RowsFailed,
        Settings,
        SettingsError,
        Table,
        call_row,
        row_key,
        run,
        takes,
    )
    from har_nb.experiments.training import fused
    from har_nb.learning.callbacks import Checkpoint
    from har_nb.learning.recipe import Make, Recipe, make
    from har_nb.models.backbones import WeightsError
    from har_nb.papers.mei.ablations import embedding
    from har_nb.papers.mei.tables import gradient, stream, table2

TINY = dict(preset='demo', size=32, epochs=1, progress=False)


def rows(table='mei.table2'):
    runs = runs_table(table)
    return runs[runs['tags.kind'] == 'row'] if len(runs) else runs


def again_of(trained, table, **options):
    return run(table, open_any(trained.dataset.root),
               cache=trained.cache, progress=False, **trained.settings, **options)


def test_a_set_with_the_same_names_and_other_videos_is_another_experiment(small_set, tmp_path, tracking):
    other = replace(small_set, root=shutil.copytree(small_set.root, tmp_path/'sports'))
    videos = [other.root/path for path in other.clips.path[other.clips.split != 'test']]
    shutil.copy(videos[0], videos[1])
    assert other.digest == small_set.digest
    for dataset in (small_set, other): run(table2, dataset, rows=['normal'], cache=tmp_path/'cache', **TINY)
    done = rows()
    assert len(done) == 2
    assert done['tags.key'].nunique() == 2
    assert done.get('tags.reused_from', pd.Series(dtype=str)).isna().all()


def test_another_table_takes_a_stream_over_and_says_from_where(trained):
    first = compare(table2).set_index('row')
    table = replace(table2, name='mei.other', rows=(table2.rows[0], Row('faster', stream, dict(lr=.02), gradient),
                                                    fused('two-stream', 'normal', 'faster')))
    second = again_of(trained, table).set_index('row')
    taken = rows('mei.other').set_index('tags.row')
    assert taken.loc['normal', 'tags.reused_from'] == first.run_ids['normal'][0]
    assert isinstance(taken.loc['faster', 'tags.reused_from'], float)
    assert second.test_acc_video['normal'] == first.test_acc_video['normal']
    assert (second.parameters.iloc[:2] == first.parameters['normal']).all()
    assert second.parameters.iloc[2] == 2*first.parameters['normal']
    one, other = (load_predictions(each.run_ids['normal'][0]) for each in (first, second))
    assert np.array_equal(one.probabilities, other.probabilities)


def test_a_fusion_of_a_failed_row_fails_and_only_it(trained):
    def broken(job): raise ValueError('no such luck')
    table = replace(table2, name='mei.fragile',
                    rows=(table2.rows[0], Row('broken', broken, modality=lambda s: Frame(s['n'], s['interval'])),
                          fused('both', 'normal', 'broken')))
    with pytest.raises(RowsFailed, match='no such luck'): again_of(trained, table)
    assert dict(rows('mei.fragile').set_index('tags.row').status) == {
        'normal': 'FINISHED', 'broken': 'FAILED', 'both': 'FAILED'
    }


def test_an_ensemble_needs_the_same_moments(trained):
    def fewer(job): return Predictions(job.done['normal'].probabilities[1:], job.done['normal'].clip[1:])
    table = replace(table2, name='mei.apart', rows=(table2.rows[0], Row('other moments', fewer, needs=('normal',)),
                                                    fused('both', 'normal', 'other moments')))
    with pytest.raises(RowsFailed, match='different samples'): again_of(trained, table)


def test_again_measures_anew(trained):
    first = compare(table2)
    second = again_of(trained, table2, rows=['normal'], again=True)
    assert first.attrs['parent'] != second.attrs['parent'] and len(rows()) == len(first) + 1
    assert first.test_acc_image[0] == second.test_acc_image[0], 'the same seed gives the same number'
    assert compare(table2).attrs['parent'] == second.attrs['parent']
    assert compare(table2, first.attrs['parent']).run_ids[0] == first.run_ids[0]
    with pytest.raises(NotRun, match='as nonsense'): compare(table2, 'nonsense')
    with pytest.raises(NotRun, match='no finished run'): paired(table2, 'normal', 'two-stream')


@pytest.mark.slow
def test_killed_twice_and_called_again_it_finishes_without_repeating_anything(small_set, tmp_path, tracking):
    asked = dict(preset='demo', size=32, epochs=6, rows=['two-stream'], cache=tmp_path/'cache', progress=False)
    def work(after):
        Checkpoint.write = dying(Checkpoint.write, after=after) # when that many states were written, by whichever row
        run(table2, small_set, **asked)
    # in the third epoch of 'normal', then, that row being finished, in the third one of the next; this process has not
    # opened the store yet
    for after in (2, 5):
        assert in_child(lambda: work(after)) == -signal.SIGKILL # noqa: B023
    def steps(run_id): return [m.step for m in open_store().get_metric_history(run_id, 'valid_loss')]
    stopped = rows().set_index('tags.row')
    assert stopped.status['normal'] == 'FINISHED' and stopped.status['MEI, Gradient Division'] == 'RUNNING'
    run(table2, small_set, **asked)
    finished = rows()
    assert sorted(finished['tags.row']) == sorted(['normal', 'MEI, Gradient Division', 'two-stream'])
    assert set(finished.status) == {'FINISHED'}
    run_of = dict(zip(finished['tags.row'], finished.run_id, strict=True))
    assert run_of.items() >= dict(stopped.run_id).items(), 'a resumed row keeps its run'
    for name in ('normal', 'MEI, Gradient Division'):
        assert steps(finished.set_index('tags.row').run_id[name]) == list(range(6)), 'no gap, no repeat'
    assert len(runs_table('mei.table2')) == 4
    whole = run(table2, small_set, **asked | dict(rows=['normal']), again=True)
    killed = finished.set_index('tags.row')['metrics.test_acc_image']['normal']
    assert whole.test_acc_image[0] == 100*killed, 'a fit that was killed ends where an undisturbed one does'


if not collecting:
    @dataclass(frozen=True)
    class Shape(Settings):
        "Two settings in one value."
        width: int = 3
        height: int = 2


if not collecting:
    def draw(job, title, shape=Shape(), colour='red'): # noqa: B008
        return f'{title}: {shape.width} x {shape.height}, {colour}'
    def all_of(job, title, **settings): return settings


def test_a_row_gets_what_its_function_takes():
    assert takes(draw) == ['title', 'width', 'height', 'colour'] and takes(all_of) == ['title']
    assert call_row(draw, None, dict(title='a', height=5, size=32)) == 'a: 3 x 5, red'
    assert call_row(all_of, None, dict(title='a', height=5, size=32)) == dict(height=5, size=32)
    with pytest.raises(TypeError, match='title'): call_row(draw, None, dict(height=5))


@parametrize('work', ['draw', 'all_of'], lambda: [draw, all_of])
@pytest.mark.parametrize('setting', ['heigth', 'shape', 'job'])
def test_a_setting_that_nobody_knows_is_an_error_when_the_table_is_made(work, setting):
    with pytest.raises(SettingsError, match=f'toy.one, a row: no such setting: {setting}. Known are: size, title'):
        Table('toy.one', 'One', 'nobody', (Row('a row', work, {'title': 'a', setting: 1}),), settings=dict(size=32))


def test_what_the_issue_named_fails_and_what_a_modality_reads_is_known():
    with pytest.raises(
        SettingsError, match='mei_ablations.embedding, N = 5: no such setting: nn. Known are: backbone, weights.*embed'
    ):
        replace(embedding, rows=(Row('N = 5', stream, dict(nn=5), gradient),))
    assert replace(embedding, rows=(Row('seen', stream, dict(depth=5), lambda s: Frame(s['depth'], 1)),)).rows
    with pytest.raises(SettingsError, match='no such setting: depth'):
        replace(embedding, rows=(Row('not seen', stream, dict(depth=5), gradient),))


class Split: digest = 'the same'


def key(**settings): return row_key(Row('a row', draw), settings, Job(Split(), 0, None, {}))


@pytest.mark.parametrize('setting', ['weights', 'flow_weights', 'image_weights', 'masks'])
def test_keys_see_what_a_file_or_a_folder_holds(setting, tmp_path, monkeypatch):
    file, folder, same = tmp_path/'net.pth', tmp_path/'folder', tmp_path/'same.pth'
    file.write_bytes(b'one')
    same.write_bytes(b'one'); (folder/'deep').mkdir(parents=True); (folder/'deep'/'a.pth').write_bytes(b'one')
    monkeypatch.chdir(tmp_path)
    ways = dict(text=str(file), path=file, relative='net.pth')
    before = {name: key(**{setting: way}) for name, way in ways.items()} | dict(folder=key(**{setting: folder}))
    assert len({before[name] for name in ways} | {key(**{setting: same})}) == 1, 'content counts, not the name'
    assert before['folder'] != before['text']
    file.write_bytes(b'two'); (folder/'deep'/'a.pth').write_bytes(b'two')
    after = {name: key(**{setting: way}) for name, way in ways.items()} | dict(folder=key(**{setting: folder}))
    assert all(before[name] != after[name] for name in before)
    (folder/'b.pth').write_bytes(b''); one = key(**{setting: folder})
    (folder/'b.pth').rename(folder/'c.pth')
    assert len({after['folder'], one, key(**{setting: folder})}) == 3, 'a file more, and one of another name'


def test_files_named_in_a_description_count_and_words_never_do(tmp_path, monkeypatch):
    (tmp_path/'net.pth').write_bytes(b'one')
    described = Make('a:b', dict(net=Make('c:d', dict(weights=str(tmp_path/'net.pth')))))
    before = key(net=described)
    (tmp_path/'net.pth').write_bytes(b'two')
    assert key(net=described) != before
    plain = dict(weights='imagenet', backbone='vgg16', masks=None, net=Make('a:b', dict(width=2)))
    known = key(**plain)
    assert known == 'd93935705377123c', 'as earlier versions had it'
    for name in ('imagenet', 'vgg16'): (tmp_path/name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert key(**plain) == known


def test_a_description_takes_weights_where_they_belong_and_reads_as_what_it_was(tmp_path):
    inner = Make('har_nb.models.backbones:build',
                 dict(backbone=Make('har_nb.models.backbones:small_resnet'), n_classes=2, maps=False))
    torch.save(inner.build().state_dict(), tmp_path/'net.pth')
    outer = Make('har_nb.models.two_stream:EmbedClips', dict(net=inner, weights=[1., 2.]))
    net = outer.build(tmp_path/'net.pth')
    assert net.net.weights.file == tmp_path/'net.pth' == net.weights.file
    assert net.shares.tolist() == pytest.approx([1/3, 2/3])
    said = json.loads(Recipe(('a', 'b'), outer, Make('har_nb.samples.modalities:Frame', {}), 32).to_json())['model']
    assert said['with']['net']['with'] == {'backbone': {'import': 'har_nb.models.backbones:small_resnet'},
                                           'n_classes': 2, 'maps': False}
    assert make(outer).state_dict().keys() == net.state_dict().keys()
    with pytest.raises(ValueError, match='takes no weights'):
        Make('har_nb.samples.modalities:Frame', {}).build('imagenet')


def test_weights_that_cannot_be_had_end_a_run_before_anything_is_decoded(small_set, tracking, monkeypatch):
    tried = []

    def nothing(backbone):
        tried.append(backbone)
        raise WeightsError('no network')

    monkeypatch.setattr('har_nb.models.backbones._download', nothing)
    with pytest.raises(SettingsError, match='no network'):
        run(table2, small_set, decode=lambda *args, **more: pytest.fail('decoded first'))
    assert len(tried) == 1, 'one try for all rows'


def test_a_finished_table_is_read_again_where_nothing_can_be_fetched(trained):
    asked = []

    def nothing(rows):
        asked.append([settings['epochs'] for settings in rows])
        raise SettingsError('no network')

    away = replace(table2, fetch=nothing)
    assert again_of(trained, away).attrs['parent'] == compare(table2).attrs['parent'] and not asked
    longer = replace(trained, settings=trained.settings | dict(epochs=2))
    with pytest.raises(SettingsError, match='no network'): again_of(longer, away, rows=['normal'])
    assert asked == [[2]] and set(runs_table('mei.table2').status) == {'FINISHED'}, 'no run was opened'
