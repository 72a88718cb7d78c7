"""Combiners in Gram space against plain references in the space of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from varshare_jax import config as C
from varshare_jax.methods.gradients import (
    COMBINERS,
    cagrad,
    combine,
    gram_matrix,
    mean_cosines,
    pcgrad,
)

SETTINGS = C.GradientsConfig()
SCALARS = {"gradients.cagrad_c": jnp.float32(SETTINGS.cagrad_c)}


def problem(seed: int, tasks: int = 6, size: int = 40, spread: float = 1.0) -> np.ndarray:
    """Random gradients [M, P] whose norms differ by factors of about e^spread."""
    rng = np.random.default_rng(seed)
    scale = np.exp(spread * rng.normal(size=(tasks, 1)))
    return (scale * (rng.normal(size=(tasks, size)) + 0.3 * rng.normal(size=size)))


def coefficients(name: str, grads: np.ndarray, key=None, **settings) -> np.ndarray:
    gram = jnp.float32(grads @ grads.T)
    rule = COMBINERS[name]
    return np.asarray(rule(C.GradientsConfig(**settings), gram,
                           jax.random.key(0) if key is None else key, SCALARS))


def pcgrad_in_parameter_space(grads: np.ndarray, order: np.ndarray) -> np.ndarray:
    projected = grads.copy()
    for i in range(len(grads)):
        for j in order[i]:
            dot = projected[i] @ grads[j]
            if j != i and dot < 0:
                projected[i] -= dot / (grads[j] @ grads[j]) * grads[j]
    return projected.mean(0)


@pytest.mark.parametrize("seed", range(8))
def test_pcgrad_equals_projecting_the_gradients(seed):
    grads, key = problem(seed), jax.random.key(seed)
    order = np.argsort(jax.random.uniform(key, (6, 6)), axis=1)
    expected = pcgrad_in_parameter_space(grads, order)
    result = coefficients("pcgrad", grads, key) @ grads
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected - grads.mean(0)).max() > 1e-3, "no conflict, nothing tested"


def test_pcgrad_draws_an_order_for_each_task():
    grads = problem(0)
    first, second = (coefficients("pcgrad", grads, jax.random.key(k)) for k in (0, 1))
    assert np.abs(first - second).max() > 1e-4


def cagrad_in_parameter_space(grads: np.ndarray, c: float) -> np.ndarray:
    """The paper's algorithm with a general solver for its problem on the simplex."""
    tasks, mean = len(grads), grads.mean(0)
    radius = c * np.linalg.norm(mean)
    scale = np.linalg.norm(grads, axis=1)  # in units of w times norm, or the solver stalls

    def objective(u):
        mixed = u / scale @ grads
        norm = np.linalg.norm(mixed)
        return mixed @ mean + radius * norm, grads @ (mean + radius / norm * mixed) / scale

    constraint = {"type": "eq", "fun": lambda u: np.sum(u / scale) - 1, "jac": lambda u: 1 / scale}
    best = minimize(objective, scale / tasks, jac=True, method="SLSQP", constraints=[constraint],
                    bounds=[(0, None)] * tasks, options={"ftol": 1e-16, "maxiter": 1000})
    mixed = best.x / scale @ grads
    return (mean + radius / np.linalg.norm(mixed) * mixed) / (1 + c**2)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_cagrad_equals_the_paper_with_a_general_solver(seed, spread):
    grads = problem(seed, spread=spread)
    expected = cagrad_in_parameter_space(grads, SETTINGS.cagrad_c)
    result = coefficients("cagrad", grads) @ grads
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.linalg.norm(expected))


@pytest.mark.parametrize("name", sorted(COMBINERS))
def test_without_conflict_the_mean_is_kept(name):
    """Gradients that agree: PCGrad is the mean, CAGrad points along it."""
    grads = np.tile(problem(3)[:1], (4, 1))
    result = coefficients(name, grads) @ grads
    c = SETTINGS.cagrad_c
    factor = 1.0 if name == "pcgrad" else (1 + c) / (1 + c**2)
    np.testing.assert_allclose(result, factor * grads.mean(0), rtol=1e-4, atol=1e-6)
    orthogonal = np.eye(4, 9)
    if name == "pcgrad":
        np.testing.assert_allclose(coefficients(name, orthogonal), 0.25, rtol=1e-6)


def test_cagrad_without_radius_is_the_mean():
    gram = jnp.float32(problem(1) @ problem(1).T)
    result = cagrad(SETTINGS, gram, jax.random.key(0), {"gradients.cagrad_c": jnp.float32(1e-6)})
    np.testing.assert_allclose(result, 1 / 6, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(COMBINERS))
def test_vanishing_gradients_stay_finite(name):
    assert np.isfinite(coefficients(name, np.zeros((4, 7)))).all()
    one_dead = problem(2)
    one_dead[1] = 0
    assert np.isfinite(coefficients(name, one_dead)).all()


def test_sides_are_combined_apart():
    """Conflict in the critic alone leaves the actor's gradient at the mean."""
    grads = {"actor": {"kernel": jnp.ones((2, 3))},
             "critic": {"kernel": jnp.array([[1.0, 0.0], [-1.0, 0.5]])}}
    rule = lambda gram, key, scalars: pcgrad(SETTINGS, gram, key, scalars)  # noqa: E731
    apart, metrics = combine(rule, grads, jax.random.key(0), SCALARS, separately=True)
    np.testing.assert_allclose(apart["actor"]["kernel"], 1.0, rtol=1e-6)
    expected = pcgrad_in_parameter_space(np.asarray(grads["critic"]["kernel"], np.float64),
                                         np.array([[0, 1], [0, 1]]))
    np.testing.assert_allclose(apart["critic"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["conflict"], 0.5)
    together, metrics = combine(rule, grads, jax.random.key(0), SCALARS, separately=False)
    gram = gram_matrix(grads)
    assert float(gram[0, 1]) > 0, "together they agree"
    np.testing.assert_allclose(together["critic"]["kernel"], [0.0, 0.25], atol=1e-6)
    np.testing.assert_allclose(metrics["conflict"], 0.0)


def test_mean_cosines_by_hand():
    """Of each side by itself: three tasks whose actors agree, oppose and stand at right angles."""
    actor = jnp.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    grads = {"actor": {"0": actor[:, :1]}, "actor_head": actor[:, 1:], "log_std": jnp.zeros((3, 4)),
             "critic": jnp.ones((3, 5)) * jnp.array([[1.0], [2.0], [3.0]])}
    found = mean_cosines(grads)
    assert found.keys() == {"cosine/actor", "cosine/critic"}
    np.testing.assert_allclose(found["cosine/actor"], [-0.5, -0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(found["cosine/critic"], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(mean_cosines({"actor": jnp.zeros((2, 3))})["cosine/actor"], 0.0)
