import numpy as np
import pytest
import scipy.stats

from varshare_jax import statistics

STATISTICS = [statistics.interquartile_mean, statistics.mean, statistics.median,
              statistics.optimality_gap]


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5), (2, 2), (7, 3), (10, 10), (9, 7)])
def test_interquartile_mean_is_the_trimmed_mean_of_all_entries(shape):
    scores = np.random.default_rng(0).standard_cauchy(shape)
    expected = scipy.stats.trim_mean(scores, 0.25, axis=None)
    np.testing.assert_allclose(statistics.interquartile_mean(scores), expected, rtol=1e-12)


def test_closed_forms():
    scores = np.array([[0.0, 2.0, 10.0], [4.0, 2.0, 30.0]])  # task means 2, 2, 20
    assert statistics.mean(scores) == 8
    assert statistics.median(scores) == 2
    assert statistics.interquartile_mean(scores) == (2 + 2 + 4 + 10) / 4
    # Misses of 5: 5, 3, 0, 1, 3, 0; what exceeds the target offsets nothing.
    assert statistics.optimality_gap(scores, target=5.0) == 2


@pytest.mark.parametrize("statistic", STATISTICS)
def test_leading_axes_are_mapped_over(statistic):
    scores = np.random.default_rng(1).normal(size=(4, 2, 5, 3))
    expected = [[statistic(scores[i, j]) for j in range(2)] for i in range(4)]
    np.testing.assert_allclose(statistic(scores), expected)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("scores", [[[1.0, np.nan]], [[np.inf, 1.0]], np.empty((0, 3)), [1.0]])
def test_unusable_scores_are_refused(statistic, scores):
    with pytest.raises(ValueError, match="scores"):
        statistic(np.array(scores))


def test_bootstrap_refuses_nan_and_nonsense():
    rng = np.random.default_rng(0)
    scores = np.ones((3, 2))
    with pytest.raises(ValueError, match="NaN"):
        statistics.bootstrap_interval(scores * np.nan, statistics.mean, rng=rng)
    with pytest.raises(ValueError, match="confidence=95"):
        statistics.bootstrap_interval(scores, statistics.mean, confidence=95, rng=rng)
    with pytest.raises(ValueError, match="resamples=0"):
        statistics.bootstrap_interval(scores, statistics.mean, resamples=0, rng=rng)
    with pytest.raises(ValueError, match=r"\[S, M\]"):
        statistics.bootstrap_interval(scores[None], statistics.mean, rng=rng)


def test_bootstrap_is_stratified_by_task():
    # Seeds agree on every task: a bootstrap over pooled entries would still give a wide interval.
    scores = np.tile([0.0, 1.0, 50.0, 3.0], (6, 1))
    interval = statistics.bootstrap_interval(scores, statistics.mean,
                                             rng=np.random.default_rng(0))
    assert interval == (13.5, 13.5)


def test_bootstrap_draws_runs_independently_per_task():
    # One seed is better on all of many tasks: tied draws would leave the spread of one task.
    scores = np.zeros((4, 400))
    scores[0] = 1.0
    low, high = statistics.bootstrap_interval(scores, statistics.mean,
                                              rng=np.random.default_rng(0))
    standard_error = np.sqrt(0.25 * 0.75 / scores.size)
    np.testing.assert_allclose([low, high], 0.25 + 1.96 * standard_error * np.array([-1, 1]),
                               atol=0.003)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_bootstrap_of_one_task_agrees_with_scipy(confidence):
    scores = np.random.default_rng(2).exponential(size=(25, 1))
    ours = statistics.bootstrap_interval(scores, statistics.mean, confidence=confidence,
                                         resamples=20_000, rng=np.random.default_rng(0))
    theirs = scipy.stats.bootstrap((scores[:, 0],), np.mean, confidence_level=confidence,
                                   n_resamples=20_000, method="percentile",
                                   rng=np.random.default_rng(1)).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    # Symmetric and equal tasks: the population's interquartile mean is its mean, 3.
    rng = np.random.default_rng(3)
    trials, hits = 300, 0
    for _ in range(trials):
        low, high = statistics.bootstrap_interval(
            rng.normal(3.0, 2.0, (30, 4)), statistics.interquartile_mean, confidence=0.9,
            resamples=400, rng=rng)
        hits += low <= 3.0 <= high
    assert 0.84 < hits / trials < 0.95


def test_bootstrap_depends_on_nothing_but_its_generator():
    scores = np.random.default_rng(4).normal(size=(5, 3))
    first, again, other = (statistics.bootstrap_interval(
        scores, statistics.mean, rng=np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other
