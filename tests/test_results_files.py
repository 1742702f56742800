"""Results as files: every published number follows from the predictions beside it, lines are replaced by their key, and
a table is divided by what a set says of its clips."""
import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from later import collecting

from har_nb.experiments.results import (
    NotRun,
    compare,
    compare_by,
    numbers,
    published,
    published_videos,
    rendered,
    videos_of,
)
from har_nb.learning.metrics import bootstrap_interval

if not collecting:
    from har_nb.papers.mei.tables import table2
    from har_nb.tools.cli import parser
    from har_nb.tools.commands import typed
    from har_nb.tools.tables import paper_of

RESULTS = Path(__file__).resolve().parent.parent/'results'
PAPERS = sorted(file.stem for file in RESULTS.glob('*.csv'))


def by_hand(videos):
    "Mean and deviation over seeds, and the interval over groups, written once more."
    right = (videos.predicted == videos.label).to_numpy(float)
    seeds, splits = videos.seed.to_numpy(), videos.split.to_numpy()
    each = [np.mean([right[(seeds == seed) & (splits == split)].mean() for split in np.unique(splits)])
            for seed in np.unique(seeds)]
    of_video, groups = {}, {}
    for video, group, split, value in zip(videos.path, videos.group, splits, right, strict=True):
        of_video.setdefault((split, video), []).append(value)
        groups[split, video] = f'{split}: {group}'
    low, high = bootstrap_interval(np.array([np.mean(values) for values in of_video.values()]),
                                   np.array(list(groups.values())))
    return 100*np.mean(each), 100*np.std(each, ddof=1) if len(each) > 1 else np.nan, 100*low, 100*high


def test_something_is_published(): assert 'mei' in PAPERS


@pytest.mark.parametrize('paper', PAPERS)
def test_every_published_number_follows_from_the_predictions_beside_it(paper):
    lines = published(paper)
    assert lines.key.is_unique
    for line in lines.itertuples():
        videos = published_videos(paper, line.key)
        assert by_hand(videos) == pytest.approx((line.mean, line.mean_sd, line.low, line.high),
                                                abs=1e-3, nan_ok=True), line.row
        groups = videos.split.astype(str) + videos.group.astype(str)
        assert (line.seeds, line.groups) == (videos.seed.nunique(), groups.nunique())
        if videos.two_way.notna().any():
            two_way = videos.groupby(['seed', 'label']).two_way.mean().mean()
            assert 100*two_way == pytest.approx(line.order_pairs, abs=1e-3)
    kept = {file.name for file in (RESULTS/paper).iterdir()}
    assert kept == {f'{key}.csv.gz' for key in lines.key}, 'no predictions without a line'


@pytest.mark.parametrize('paper', PAPERS)
def test_every_published_line_says_where_it_comes_from(paper):
    lines = published(paper)
    for name in ('table', 'row', 'set', 'digest', 'set_from', 'protocol', 'commit', 'date', 'versions', 'machine',
                 'command', 'decided'):
        assert lines[name].notna().all() and (lines[name] != '').all(), name
    assert not lines.commit.str.contains('dirty').any()
    asked = parser().parse_args
    for line in lines.itertuples():
        words = shlex.split(line.command)
        assert asked(words[1:]).table == line.table and 'FOLDER' in words
        if line.set_from.startswith('har '): asked(shlex.split(line.set_from)[1:])
    predictions = [gzip.decompress(file.read_bytes()).decode() for file in (RESULTS/paper).iterdir()]
    texts = (RESULTS/f'{paper}.csv').read_text() + ''.join(predictions)
    assert not re.search('/(home|root|tmp|work|Users)/', texts), 'nobody else has these folders'


def test_the_numbers_of_files_are_those_of_the_table(har, trained, monkeypatch, tmp_path):
    from har_nb.experiments import results
    monkeypatch.setattr(results, 'results_folder', lambda: tmp_path/'results')
    said = har('compare', 'mei.table2', '--publish')
    result, lines = compare(table2), published('mei', tmp_path/'results')
    assert said.code == 0 and said.out.count('published in') == len(lines) == 5
    for line, own in zip(lines.itertuples(), result.itertuples(), strict=True):
        assert line.row == own.row and line.parameters == own.parameters
        assert (line.mean, line.low, line.high, line.order_pairs) == pytest.approx(
            (own.test_acc_video, own.low, own.high, own.test_acc_video_order_pairs), abs=1e-3, nan_ok=True
        )
    first = lines.iloc[0]
    assert first.settings.startswith('backbone = small_resnet')
    assert 'size = 32, epochs = 1' in first.settings
    assert first.preset == 'demo'
    assert first.weights == 'random numbers' and first.decided.startswith('unit of accuracy: videos')
    assert first.command.startswith('har run mei.table2 --data FOLDER')
    assert first.command.endswith('--rows normal --seeds 1')
    assert str(trained.dataset.root) not in first.command
    assert first.set_from.startswith('har data synthetic FOLDER --people 4 --takes 1')
    shown = rendered(lines)
    for line in lines.itertuples(): assert f'{line.row} | ' in shown and f' {line.mean:.1f} |' in shown
    assert 'cut down, not as printed' in shown and f'Measured {first.date} by commit {first.commit[:12]}' in shown


def test_lines_are_replaced_by_their_key_and_others_stay(har, trained, monkeypatch, tmp_path):
    from har_nb.experiments import results
    monkeypatch.setattr(results, 'results_folder', lambda: tmp_path)
    har('compare', 'mei.table2', '--publish')
    file, before = tmp_path/'mei.csv', (tmp_path/'mei.csv').read_bytes()
    har('compare', 'mei.table2', '--publish')
    assert file.read_bytes() == before, 'nothing changes where nothing has changed'
    table = pd.read_csv(file)
    table.loc[0, 'key'], table.loc[1, 'mean'] = 'of another set', 0.
    table.to_csv(file, index=False)
    har('compare', 'mei.table2', '--publish')
    after = pd.read_csv(file)
    assert len(after) == 6 and 'of another set' in set(after.key) and after['mean'].min() > 0
    with pytest.raises(NotRun, match='--publish'): published('nothing', tmp_path)


def test_fewer_videos_say_another_number(trained):
    "What is computed comes from the predictions, not from elsewhere."
    result = compare(table2)
    videos = videos_of(result.run_ids[0])
    turned = videos.assign(predicted=videos.label)
    assert numbers(turned)['mean'] == 100 and numbers(videos)['mean'] < 100
    assert numbers(videos) == pytest.approx(numbers(videos.sample(frac=1, random_state=0)), nan_ok=True), 'in any order'


def test_what_was_typed_leaves_out_where_things_lie(tmp_path):
    (tmp_path/'net.pth').touch()
    words = ['run', 'mei.table2', '--data', str(tmp_path), '--weights', str(tmp_path/'net.pth'),
             '--set', f'masks={tmp_path/"net.pth"}', '--classes', 'a,b']
    assert typed(words) == 'har run mei.table2 --data FOLDER --weights net.pth --set masks=net.pth --classes a,b'
    assert typed([f'--data={tmp_path}']) == 'har --data=FOLDER'


def test_papers_are_found_by_their_tables():
    for name, paper in (
        ('mei.table2', 'mei'),
        ('mei_ablations.embedding', 'mei'),
        ('attention_ablations.streams', 'dual_stream_attention'),
        ('transnet_ablations.heads', 'transnet'),
        ('toy.table1', 'toy'),
    ):
        assert paper_of(name) == paper


def test_a_table_is_divided_by_a_column_of_its_set(har, trained, tmp_path):
    clips = trained.dataset.clips
    effects = ['yes' if number % 3 else 'no' for number in range(len(clips))]
    pd.DataFrame(dict(file=clips.path, label=clips.label, has_effects=effects, platform='web')).to_csv(
        tmp_path/'index.csv', index=False
    )
    result = compare(table2)
    divided = compare_by(result, 'has_effects', tmp_path)
    values = dict(zip(clips.path, effects, strict=True))
    videos = videos_of(result.run_ids[0])
    for value in ('yes', 'no'):
        own = videos[videos.path.map(values) == value]
        line = divided[(divided.row == 'normal') & (divided.has_effects == value)].iloc[0]
        assert line['mean'] == pytest.approx(100*(own.predicted == own.label).mean(), abs=1e-3)
        assert line.videos == len(own)
        # one person is tested
        assert (line.low, line.high) == pytest.approx(
            tuple(100*np.array(bootstrap_interval(own.predicted == own.label, own.group))), abs=1e-3, nan_ok=True
        )
    assert list(compare_by(result, 'Platform', tmp_path)['mean']) == pytest.approx(
        list(result.test_acc_video), abs=1e-3
    )
    shown = har('compare', 'mei.table2', '--by', 'has_effects', '--data', tmp_path)
    assert shown.code == 0 and 'By has_effects' in shown.out and f'{divided["mean"][0]:.1f}' in shown.out
    lost = har('compare', 'mei.table2', '--by', 'weather', '--data', tmp_path)
    assert lost.code == 1 and 'it has: file, label, has_effects, platform' in lost.err
    assert 'neither an index.csv' in har('compare', 'mei.table2', '--by', 'has_effects').err


def test_a_set_that_was_cut_here_is_divided_by_its_manifest(trained, tmp_path):
    clips = trained.dataset.clips
    pd.DataFrame({'path': clips.path, 'class': clips.label, 'platform': 'web'}).to_csv(
        tmp_path/'manifest.csv', index=False
    )
    assert set(compare_by(compare(table2), 'platform', tmp_path).platform) == {'web'}


def test_intervals_of_a_divided_table_draw_people(tracking, tmp_path):
    "Twelve people of four clips each, right or wrong as a whole: an interval over clips would be far too narrow."
    from har_nb.learning.runs import log_table, tracked_run
    people = np.repeat([f'p{number}' for number in range(12)], 4)
    clips = pd.DataFrame(dict(path=[f'clip{number}.avi' for number in range(48)], group=people, label='a',
                              predicted=np.where(np.isin(people, ['p1', 'p4', 'p8']), 'b', 'a'), p_a=1., p_b=0.))
    clips.assign(file=clips.path, light=np.where(people < 'p4', 'day', 'night')).to_csv(
        tmp_path/'index.csv', index=False
    )
    with tracked_run('row', 'toy', dict(seed=0, split='official')) as run: log_table(clips, 'predictions.parquet')
    result = pd.DataFrame([dict(row='row', protocol='official', run_ids=[run])])
    divided = compare_by(result, 'light', tmp_path).set_index('light')
    for light, its in clips.groupby(np.where(people < 'p4', 'day', 'night')):
        right, line = (its.predicted == its.label).to_numpy(), divided.loc[light]
        assert (line.videos, line.groups) == (len(its), its.group.nunique())
        assert line['mean'] == pytest.approx(100*right.mean(), abs=1e-3)
        assert (line.low, line.high) == pytest.approx(
            tuple(100*np.array(bootstrap_interval(right, its.group))), abs=1e-3
        )
        alone = bootstrap_interval(right, np.arange(len(its)))
        assert line.high - line.low > 1.4*100*(alone[1] - alone[0])
    assert divided.videos.sum() == 48 and set(divided.groups) == {6}


def test_the_flow_behind_a_number_stands_beside_it(har, trained, monkeypatch, tmp_path):
    from har_nb.experiments import results
    from har_nb.papers.dual_action.tables import left_open
    from har_nb.papers.dual_stream_attention.ablations import streams
    from har_nb.papers.dual_stream_attention.tables import table1
    demo = results.as_printed(left_open, left_open.settings | left_open.presets['demo'], 'demo')
    printed = results.as_printed(table1)
    flow = {row.name: row.flow for row in demo.rows}
    assert flow['Flow stream'] == flow['Dual-action Stream'] == 'DIS'
    assert flow['attention, from validation'] == 'DIS', 'a student, and a fusion, depend on it'
    assert flow['RGB stream'] == flow['MEI stream'] == flow['from motion images'] == flow['from key points'] == ''
    assert {row.flow for row in printed.rows} == {'Brox'}
    assert {row.name for row in results.as_printed(streams).rows if not row.flow} == {
        'early, frames only', 'late, frames only', 'early, colour frames only', 'early, MEIs instead of flow',
        'early, frames instead of flow',
    }
    result = compare(table2).assign(flow=['', 'DIS', 'DIS', '', ''])
    assert list(results.readable(result).flow) == ['', 'DIS', 'DIS', '', '']
    assert 'flow' not in results.readable(compare(table2))
    results.publish(result, tmp_path/'mei.csv')
    assert list(published('mei', tmp_path).flow) == ['', 'DIS', 'DIS', '', '']
    assert '| two-stream | DIS |' in rendered(published('mei', tmp_path))


def test_weights_stand_beside_fused_rows_and_downloads_have_a_digest(trained, monkeypatch, tmp_path):
    import torch

    from har_nb.experiments import results
    from har_nb.experiments.training import log_weights
    from har_nb.learning.runs import tracked_run
    from har_nb.learning.tracking import open_store
    from har_nb.models import backbones
    lines = results.publish(compare(table2), tmp_path/'mei.csv')
    assert set(lines.weights) == {'random numbers'}, 'fused rows name those of their members'
    def download(backbone): torch.manual_seed(0); return backbone(), backbones.Weights()
    monkeypatch.setattr(backbones, '_download', download)
    first, again = (backbones.build(backbones.small_resnet, 4, 'imagenet').weights.digest for _ in range(2))
    assert first == again and len(first) == 16
    with tracked_run('row', 'toy') as run: log_weights('imagenet', first)
    assert open_store().get_run(run).data.tags['weights_digest'] == first


def test_a_run_says_what_its_net_starts_from(trained):
    from har_nb.learning.tracking import open_store
    tags = open_store().get_run(compare(table2).run_ids[0][0]).data.tags
    assert tags['weights'] == 'random numbers' and 'weights_digest' not in tags


def test_a_run_keeps_the_command_that_it_was_started_with(trained):
    from har_nb.learning.tracking import open_store
    tags = open_store().get_run(compare(table2).attrs['parent']).data.tags
    assert tags['command'] == 'har run mei.table2 --data FOLDER --preset demo --size 32 --epochs 1'
    assert json.dumps(tags['command'])
