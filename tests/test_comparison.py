"Five papers on one footing: the same frames, one way to train, corrected tests, pages from files."

import numpy as np
import pandas as pd
import pytest
from later import collecting

if not collecting:
    import torch
    from fastai.callback.core import Callback
    from torch import nn

    from har_nb.data.people import ORDER_PAIRS
    from har_nb.data.sports import build_sports
    from har_nb.data.video import frames
    from har_nb.experiments.results import Predictions, compare, published
    from har_nb.learning.predictor import load_predictor
    from har_nb.learning.runs import load_table
    from har_nb.models.r3d import small_3d
    from har_nb.papers.comparison import ablations, tables
    from har_nb.papers.comparison import claims as said
    from har_nb.papers.comparison.claims import (
        CONTRASTS,
        chosen_columns,
        claims,
        claims_page,
        footing,
        footing_table,
        holm,
        plot_people,
        smallest_visible,
        verdict,
    )
    from har_nb.papers.comparison.uses import run_of, uses_file, uses_table
    from har_nb.samples.samplers import MiddleFrames

SMALL = dict(size=32, epochs=1, batch_size=8)


@pytest.fixture(scope='module')
def few(tmp_path_factory):
    return build_sports(
        tmp_path_factory.mktemp('footing') / 'sports_hard', 'hard', train=3, test=2, takes=1, workers=1, progress=False
    )


def test_all_rows_draw_from_the_same_frames_which_are_those_of_a_reversal():
    for n in (50, 60, 110):
        taken = MiddleFrames()(n)
        assert taken.shape == (16, 1) and np.array_equal(taken.ravel()[::-1], n - 1 - taken.ravel())
    assert {str(row.modality(tables.SETTINGS).sampler) for row in tables.ROWS if row.modality} == {str(MiddleFrames())}


def test_there_are_twelve_trainings_and_a_teacher():
    trained = [row.name for row in tables.ROWS if row.work is tables.train]
    assert len(trained) == 13 and 'teacher' in trained
    rows = {row.name for row in tables.ROWS}
    assert all({contrast.first, contrast.second} <= rows for contrast in CONTRASTS) and len(CONTRASTS) == 5
    assert {row.name for row in tables.hard.rows} == {row.name for row in tables.plain.rows} == rows
    assert set(tables.RATE) <= set(trained) and all(rate in tables.RATES for rate in tables.RATE.values()), (
        'rates come from the search'
    )


def test_a_row_with_fewer_people_takes_as_many_steps(few):
    job = tables.Job(few, 0, None, {})
    fewer = tables.fewer_people(job, 2).dataset
    assert fewer.clips.group[fewer.clips.split == 'train'].nunique() == 2 and len(fewer.test) == len(few.test)
    steps = {row.name: row.settings['people'] * row.settings['epochs'] for row in tables.people.rows}
    assert len(steps) == 12 and max(steps.values()) < 1.2 * min(steps.values())


def test_what_a_clip_costs_counts_every_window():
    cost = dict(gflops=1.0, latency_ms=2.0, parameters=7)
    whole = tables.counted(Predictions(None, None, cost), np.arange(24).reshape(3, 8) % 16, 0.5, flow=True).metrics
    assert (whole['gflops'], whole['latency_ms'], whole['parameters'], whole['minutes'], whole['frames']) == (
        3.0,
        6.0,
        7,
        0.5,
        32.0,
    )


def test_people_to_paint_are_those_of_the_training(few):
    people = tables.people_to_paint(few, 32, 'crop')
    assert set(people.group) == set(few.clips.group[few.clips.split == 'train']) and people.pictures.shape[1:] == (
        32,
        32,
        3,
    )
    assert len(people) == 3 * 6 and 0.02 < people.masks.mean() < 0.4


@pytest.mark.slow
def test_rows_are_published_one_by_one_and_not_measured_again(few, tmp_path):
    file, options = (
        tmp_path / 'comparison.csv',
        dict(cache=tmp_path / 'cache', progress=False, rows=['normal', 'single frame', 'R3D'], **SMALL),
    )
    tables.measure(tables.hard, few, file, seeds=1, **options)
    lines = published('comparison', tmp_path)
    assert set(lines.row) == {'mean over frames', 'normal', 'single frame', 'R3D'} and (lines.minutes > 0).all()
    assert dict(zip(lines.row, lines.frames, strict=True)) == {
        'mean over frames': 16,
        'single frame': 1,
        'normal': 4,
        'R3D': 16,
    }
    assert (
        lines.order_pairs.between(0, 100).all()
        and lines.set_from.str.startswith('har data sports FOLDER --level=hard').all()
    )
    before = file.read_bytes()
    tables.measure(tables.hard, few, file, seeds=1, **options)
    assert file.read_bytes() == before
    found = footing(tmp_path).set_index('row')
    assert 0 <= found.loc['R3D', 'camera'] <= 100 and pd.isna(found.loc['MEI'].get('hard_mean', np.nan))
    assert 'R3D' in footing_table(tmp_path) and 'waits' in claims_page(folder=tmp_path)


@pytest.mark.slow
def test_every_row_can_be_trained(few, tmp_path):
    tables.measure(
        tables.hard,
        few,
        tmp_path / 'comparison.csv',
        seeds=1,
        cache=tmp_path / 'cache',
        progress=False,
        **SMALL,
    )
    assert set(published('comparison', tmp_path).row) == {row.name for row in tables.ROWS}
    assert claims(folder=tmp_path).p.notna().all()
    result = compare(tables.hard)
    for row in (row.name for row in tables.ROWS if row.work is tables.train):
        run = run_of(result, row)
        line = load_table('predictions.parquet', run).iloc[3]
        shown = load_predictor(run).of_frames(frames(few.root / line.path)).video
        said = [line[f'p_{name}'] for name in few.classes]
        np.testing.assert_allclose(shown, said, atol=1e-5, err_msg=f'{row}: a prediction sees what the test saw')


def test_holm_and_verdicts():
    assert holm([0.001, 0.5, 0.04, 0.03, 0.02]) == pytest.approx([0.005, 0.5, 0.09, 0.09, 0.08])
    assert [verdict(*one) for one in ((3.0, 0.01), (-3.0, 0.01), (3.0, 0.06))] == [
        'supported',
        'contradicted',
        'undecided',
    ]


def test_a_verdict_that_seeds_do_not_carry_says_so(tmp_path):
    from har_nb.papers.comparison.claims import by_seed, over_seeds

    assert verdict(3.0, 0.01, False) == 'supported, but seeds differ' and verdict(3.0, 0.06, False) == 'undecided'
    sure, torn = over_seeds([9.0, 11, 10, 12, 8]), over_seeds([-13.0, -12, -7, 13, -9])
    assert sure['agree'] and not torn['agree'] and torn['seed_visible'] > sure['seed_visible'] > 0
    assert not over_seeds([5.0])['agree'], 'one seed says nothing of others'
    differences = by_seed('two-stream', 'normal')
    assert len(differences) == 5 and np.mean(differences) == pytest.approx(claims().difference[0], abs=1e-6)
    assert by_seed('two-stream', 'normal', folder=tmp_path).size == 0, 'nothing is published there'


def test_the_smallest_visible_difference_is_seen_four_times_of_five():
    rng = np.random.default_rng(1)
    spread = rng.normal(0, 5, 24)
    visible = smallest_visible(spread, alpha=0.05)
    from scipy.stats import ttest_1samp

    drawn = rng.choice(spread - spread.mean(), (1000, 24)) + visible
    assert 0.74 < np.mean(ttest_1samp(drawn, 0, axis=1).pvalue < 0.05) < 0.86


def test_a_contrast_is_paired_by_video_person_and_seed(tmp_path, monkeypatch):
    videos = pd.DataFrame(
        dict(
            seed=0,
            split='s',
            path=[f'A/{n}.avi' for n in range(48)],
            group=[f'g{n // 2:02d}' for n in range(48)],
            label='A',
            predicted='A',
            two_way=np.nan,
        )
    )
    worse = videos.assign(predicted=['B' if n % 4 == 0 else 'A' for n in range(48)])
    kept = dict(first=pd.concat([videos, videos.assign(seed=1)]), second=pd.concat([worse, worse.assign(seed=2)]))
    monkeypatch.setattr(said, 'line_of', lambda row, *_: pd.Series(dict(key=row)))
    monkeypatch.setattr(said, 'published_videos', lambda paper, key, folder: kept[key])
    pair = said.both('first', 'second')
    assert len(pair) == 48 and set(pair.seeds) == {1} and pair.right_first.mean() - pair.right_second.mean() == 0.25


def test_the_small_3d_net_has_the_levels_that_a_student_is_asked_for():
    net = small_3d(channels=2)
    assert all(hasattr(net, name) for name in tables.IMITATION.levels) and net(torch.zeros(1, 2, 8, 40, 40)).shape == (
        1,
        8,
    )
    assert set(ORDER_PAIRS) == {('ClimbUp', 'ClimbDown'), ('CrankForward', 'CrankBackward')}


def test_a_page_shows_the_columns_that_are_asked_for():
    lines = [dict(row='MEI', hard='50.0', ms='3')]
    assert chosen_columns(lines, None) == lines and chosen_columns(lines, ('ms', 'row')) == [dict(ms='3', row='MEI')]
    few_columns = footing_table('no folder', columns=('row', 'hard')).splitlines()
    assert few_columns[0].count('|') == 3 and len(few_columns) == 2 + len(tables.ROWS)


def test_accuracy_against_people_is_a_line_a_row(tmp_path):
    assert plot_people(tmp_path) is None
    rows = [(name, n) for name in tables.LEARNERS for n in tables.PEOPLE]
    lines = [dict(table='comparison.people', row=f'{name}, {n} people', mean=30 + n, low=29 + n, high=33 + n)
             for name, n in rows]
    text = ('note', 'flow', 'set_from', 'preset', 'settings', 'weights', 'weights_digest', 'decided')
    columns = dict.fromkeys(text, '')
    pd.DataFrame(lines).assign(**columns).to_csv(tmp_path / 'comparison.csv', index=False)
    axis = plot_people(tmp_path).axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == sorted(tables.LEARNERS)
    assert all(list(line.get_xdata()) == list(tables.PEOPLE) for line in axis.lines[:1])


def test_what_nets_use_stands_beside_each_other(tmp_path):
    assert 'Nothing' in uses_table(tmp_path)
    def line(row, probe, difference, low, high):
        accuracy = 50 + difference
        return dict(row=row, probe=probe, accuracy=accuracy, difference=difference, low=low, high=high, changed=7)
    file = uses_file(tmp_path)
    file.parent.mkdir()
    pd.DataFrame([line('MEI', 'as it is', 0, 0, 0), line('MEI', 'reversed', -20, -25, -15),
                  line('MFNet', 'as it is', 0, 0, 0), line('MFNet', 'reversed', 1, -2, 3),
                  line('MFNet', 'kpsem silent', 0, -1, 1)]).to_csv(file, index=False)
    assert uses_table(tmp_path).splitlines()[-1] == '| reversed | -20* / 7% | +1 / 7% |'
    assert 'kpsem silent' not in uses_table(tmp_path) and 'kpsem silent' in uses_table(tmp_path, parts=True)


def test_a_row_of_key_points_changes_one_thing():
    assert [len(row.settings) for row in ablations.ROWS] == [1, 0] + [1] * 9
    assert ablations.key_points.settings == tables.hard.settings, 'all else is that of the comparison'


def test_the_branch_learns_at_ten_times_the_rate():
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader

    from har_nb.learning.learner import make_learner

    rates = []

    class Branched(nn.Module):
        "As much of a `WithKPSEM` as a splitter sees."

        def __init__(self):
            super().__init__()
            self.net, self.kpsem = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.net(x) + self.kpsem(x)

    class Look(Callback):
        order = 70

        def before_batch(self):
            rates.append([group['lr'] for group in self.opt.hypers])

    batches = [(torch.randn(4), torch.tensor(at % 2)) for at in range(8)]
    loaders = DataLoaders(*(DataLoader(batches, bs=4) for _ in range(2)))
    learn = make_learner(loaders, Branched(), (), [ablations.Hurried(10), Look()], splitter=ablations.branch_apart)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-3)
    trained = rates[:2]  # of the first epoch
    assert all(fast == pytest.approx(10 * slow) for slow, fast in trained)
    assert len({slow for slow, _ in trained}) == 2, 'the rate goes up and down'


def test_key_points_are_rendered_from_files(tmp_path):
    assert ablations.key_point_table(folder=tmp_path) == 'Nothing is measured yet.'
    lines = [
        dict(table='comparison_ablations.key_points', row=row, set='sports_hard_dev', mean=80 + at, low=78, high=86)
        for at, row in enumerate(('MFNet', 'as is', 'ReLU between convolutions'))
    ]
    columns = dict.fromkeys(('note', 'flow', 'set_from', 'preset', 'settings', 'weights', 'weights_digest'), '')
    columns |= dict(decided='', order_pairs=90.0, mean_sd=1.0, seeds=2)
    pd.DataFrame(lines).assign(**columns).to_csv(tmp_path / 'comparison.csv', index=False)
    assert ablations.plot_key_points(folder=tmp_path) is not None, 'before any branch was asked'
    file = ablations.branch_file(tmp_path)
    file.parent.mkdir()
    asked = [dict(set='sports_hard_dev', row='as is', silent=value, other_clip=4.0) for value in (1.0, 3.0)]
    pd.DataFrame(asked).to_csv(file, index=False)
    shown = ablations.key_point_table(folder=tmp_path).splitlines()
    assert '| as is | 81.0 ± 1.0 | 78 to 86 | 90.0 | 2 | 2.0% | 4.0% |' in shown


@pytest.mark.slow
def test_branches_of_finished_runs_are_asked_once(few, tmp_path):
    options = dict(cache=tmp_path / 'cache', progress=False, rows=['as is', 'ten times the rate'], **SMALL)
    tables.measure(ablations.key_points, few, tmp_path / 'comparison.csv', seeds=1, **options)
    result = compare(ablations.key_points)
    for _ in range(2):
        ablations.measure_branches(result, few, tmp_path, clips=4)
    asked = pd.read_csv(ablations.branch_file(tmp_path))
    assert set(asked.row) == {'as is', 'ten times the rate'} and len(asked) == 2
    assert asked[['silent', 'other_clip']].stack().between(0, 100).all()
