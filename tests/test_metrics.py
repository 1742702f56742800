"Intervals and tests of differences draw what belongs together as a whole."
import numpy as np
import pytest

from har_nb.learning.metrics import bootstrap_interval, paired_difference


@pytest.fixture
def halves():
    "Twelve groups of ten videos; in each group, all of a row are right, or none."
    chance = np.random.default_rng(0)
    first, second = (np.repeat(chance.integers(0, 2, 12), 10).astype(float) for _ in range(2))
    return first, second, np.repeat(np.arange(12), 10)


def test_the_interval_of_a_difference_draws_groups(halves):
    first, second, groups = halves
    difference, low, high, _ = paired_difference(first, second, groups)
    assert difference == (first - second).mean() and low <= difference <= high
    _, narrow, wide, _ = paired_difference(first, second, np.arange(120))
    assert high - low > 2*(wide - narrow), 'as if each video stood for itself'
    assert (low, high) == pytest.approx(bootstrap_interval(first - second, groups))


def test_the_chance_of_a_difference_flips_groups():
    "Three groups in favour of one row: two of the eight ways to flip them are as uneven."
    _, _, _, p = paired_difference(np.ones(30), np.zeros(30), np.repeat(np.arange(3), 10), draws=40_000)
    assert p == pytest.approx(2/8, abs=.01)


def test_one_group_has_no_interval(): assert np.isnan(bootstrap_interval(np.ones(5), np.zeros(5))).all()
