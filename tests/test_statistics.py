import numpy as np
import pytest
import scipy.stats

from varshare_jax.report import statistics

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


def test_bootstrap_bounds_have_the_shape_of_the_statistic():
    scores = np.random.default_rng(5).normal(size=(6, 3))
    low, high = statistics.bootstrap_interval(
        scores, lambda x: statistics.performance_profile(x, [-1.0, 0.0, 1.0]),
        rng=np.random.default_rng(0))
    assert low.shape == high.shape == (3,)
    assert (low <= statistics.performance_profile(scores, [-1.0, 0.0, 1.0])).all()


def test_methods_of_a_tuple_are_drawn_independently():
    # Equal scores drawn together would give a difference of zero in every resample.
    scores = np.random.default_rng(6).normal(size=(40, 1))
    low, high = statistics.bootstrap_interval(
        (scores, scores), lambda a, b: statistics.mean(a) - statistics.mean(b),
        rng=np.random.default_rng(0))
    width = 2 * 1.96 * np.sqrt(2 / 40) * scores.std()
    np.testing.assert_allclose(high - low, width, rtol=0.1)


def test_worst_tasks_are_those_of_the_lowest_mean():
    scores = np.array([[0.0, 2.0, 10.0, 5.0], [4.0, 2.0, 30.0, 1.0]])  # task means 2, 2, 20, 3
    found = [statistics.worst_tasks(scores, count) for count in (1, 3, 4)]
    np.testing.assert_allclose(found, [2, 7 / 3, statistics.mean(scores)])
    for count in (0, 5):
        with pytest.raises(ValueError, match=rf"count={count}: must lie in 1 \.\.\. 4"):
            statistics.worst_tasks(scores, count)


def test_performance_profile_counts_what_exceeds_each_threshold():
    scores = np.array([[0.0, 1.0], [2.0, 1.0]])
    profile = statistics.performance_profile(scores, [-1.0, 0.0, 1.0, 2.0])
    np.testing.assert_array_equal(profile, [1, 0.75, 0.25, 0])
    # The area under it is the mean of scores that start at zero.
    fine = np.linspace(0, 2, 2001)
    np.testing.assert_allclose(np.trapezoid(statistics.performance_profile(scores, fine), fine),
                               scores.mean(), atol=1e-3)


def test_probability_of_improvement_is_mann_whitneys_statistic_of_each_task():
    rng = np.random.default_rng(7)
    first, second = rng.integers(5, size=(9, 4)), rng.integers(6, size=(7, 4))  # many ties
    expected = [scipy.stats.mannwhitneyu(first[:, m], second[:, m]).statistic / (9 * 7)
                for m in range(4)]
    found = statistics.probability_of_improvement(first, second)
    np.testing.assert_allclose(found, np.mean(expected))
    np.testing.assert_allclose(statistics.probability_of_improvement(second, first), 1 - found)
    assert statistics.probability_of_improvement(first, first) == 0.5


def test_probability_of_improvement_maps_over_leading_axes_and_wants_the_same_tasks():
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 6, 3))
    expected = [statistics.probability_of_improvement(a, b)
                for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(statistics.probability_of_improvement(first, second), expected)
    with pytest.raises(ValueError, match="scores of 3 and 2 tasks"):
        statistics.probability_of_improvement(first, second[..., :2])


def test_normalized_scores_run_from_zero_to_one_on_every_task():
    low, high = np.array([10.0, -200.0]), np.array([20.0, -100.0])
    np.testing.assert_array_equal(
        statistics.normalize(np.array([[10.0, -100.0], [25.0, -150.0]]), low, high),
        [[0, 1], [1.5, 0.5]])
    with pytest.raises(ValueError, match="must exceed"):
        statistics.normalize(np.ones((1, 2)), low, [20.0, -200.0])


def test_paired_interval_is_free_of_what_seeds_have_in_common():
    rng = np.random.default_rng(9)
    luck = 100 * rng.normal(size=(12, 1))  # of a seed, on all its tasks, with either method
    second = luck + rng.normal(size=(12, 3))
    low, high = statistics.paired_interval(second + 2.0, second, statistics.mean, rng=rng)
    np.testing.assert_allclose([low, high], 2.0)


def test_paired_interval_of_means_is_the_bootstrap_of_the_seeds_differences():
    rng = np.random.default_rng(10)
    first, second = rng.exponential(size=(2, 20, 3))
    ours = statistics.paired_interval(first, second, statistics.mean, resamples=20_000,
                                      rng=np.random.default_rng(0))
    theirs = scipy.stats.bootstrap(((first - second).mean(axis=1),), np.mean,
                                   n_resamples=20_000, method="percentile",
                                   rng=np.random.default_rng(1)).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_paired_interval_keeps_what_tasks_of_a_seed_have_in_common():
    # Tasks that rise and fall together count as one: drawing them apart would be √M too narrow.
    shared = np.random.default_rng(11).normal(size=(50, 1))
    first, second = np.tile(shared, (1, 25)), np.zeros((50, 25))
    low, high = statistics.paired_interval(first, second, statistics.mean,
                                           rng=np.random.default_rng(0))
    np.testing.assert_allclose(high - low, 2 * 1.96 * shared.std() / np.sqrt(50), rtol=0.1)


def test_paired_scores_must_pair_up():
    with pytest.raises(ValueError, match=r"must agree in shape, not \(3, 2\), \(4, 2\)"):
        statistics.paired_interval(np.ones((3, 2)), np.ones((4, 2)), statistics.mean,
                                   rng=np.random.default_rng(0))


def test_principal_coordinates_are_those_of_the_vectors():
    """Distances in a plane come back exactly, and the shares are those of a PCA."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 40)) + 3.0
    points, shares = statistics.principal_coordinates(plane @ plane.T)

    def distances(x):
        return np.linalg.norm(x[:, None] - x, axis=-1)

    np.testing.assert_allclose(distances(points), distances(plane), atol=1e-6)
    variances = np.linalg.svd(plane - plane.mean(0), compute_uv=False)[:2] ** 2
    np.testing.assert_allclose(shares, variances / variances.sum(), atol=1e-9)
    assert (points[np.abs(points).argmax(0), [0, 1]] > 0).all()
    nothing, none = statistics.principal_coordinates(np.zeros((3, 3)))
    np.testing.assert_array_equal(nothing, 0)
    np.testing.assert_array_equal(none, 0)
