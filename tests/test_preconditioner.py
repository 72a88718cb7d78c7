"""Steps split between θ and its residuals as gradients are: the crowd effect (proposal, 4.2)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import toy

from varshare_jax import config as C
from varshare_jax.algorithms import preconditioner
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner, make_problem
from varshare_jax.variational.residuals import means

M, RATE = 10, 0.02
AGREED, OPPOSED = np.full(M, 0.5), 0.5 * (-1.0) ** np.arange(M)
ALONE = np.where(np.arange(M) == 3, -0.5, 0.5)
# What keeps the crowd effect; both penalties pull at residuals with 0.05 of their size.
WAYS = {"shared": {"ppo__preconditioner": "shared"}, "task_rate": {"ppo__task_rate": 1 / M},
        "l2_soft": {"ppo__preconditioner": "shared", "method": "l2_soft",
                    "l2_soft__penalty": 0.025}}


@functools.cache
def solved(way: str, departures: tuple[float, ...], steps: int = 400):
    """(share of the common solution that θ took, residuals' means [M] over entries)."""
    made = toys(way)
    start = made.start()
    # A task_rate of 1/M takes M times as many steps to move residuals as far.
    after = made.train(start, made.targets(start, departures),
                       steps * (M if way == "task_rate" else 1), RATE)
    return moved(start, after), np.mean(means(after.variables)["critic_head"]["kernel"], (1, 2))


@functools.cache
def toys(way: str):
    return toy(**WAYS[way])


def moved(start, after) -> float:
    """How far θ went, over entries."""
    theta, before = (a.variables["shared"]["critic_head"]["kernel"] for a in (after, start))
    return float(np.mean(theta - before))


def nats(residuals) -> np.ndarray:
    """What means pay under σ_prior = 0.1, for each weight."""
    return np.square(residuals) / (2 * 0.1**2)


@pytest.mark.parametrize("way", WAYS)
def test_what_all_tasks_want_goes_into_the_shared_parameters(way):
    theta, residuals = solved(way, tuple(AGREED))
    np.testing.assert_allclose(theta + residuals, 0.5, atol=0.03)
    assert theta >= 0.9 * 0.5
    _, opposed = solved(way, tuple(OPPOSED))
    assert nats(residuals).sum() <= 0.01 * nats(opposed).sum()


@pytest.mark.parametrize(("preconditioner", "share"), [("own", 1 / 2), ("shared", M / (M + 1))])
def test_without_a_price_the_gradients_alone_decide(preconditioner, share):
    """By Adam alone θ and residuals move by the learning rate each, whoever else pulls."""
    made = toy(ppo__preconditioner=preconditioner, varshare__beta=0.0, varshare__learn_with="mean")
    start = made.start()
    after = made.train(start, made.targets(start, AGREED), 400, RATE)
    np.testing.assert_allclose(moved(start, after), share * 0.5, rtol=0.02)


@pytest.mark.parametrize("way", WAYS)
def test_what_tasks_disagree_on_stays_in_their_residuals(way):
    """At the price of 0.05 they keep 1 / 1.05 of it."""
    theta, residuals = solved(way, tuple(OPPOSED))
    assert abs(theta) < 0.01
    np.testing.assert_allclose(residuals, OPPOSED / 1.05, atol=0.02)


@pytest.mark.parametrize("way", WAYS)
def test_one_task_in_conflict_with_nine_pays_alone(way):
    """Residuals are cheapest around the mean: the nine are 0.1 from it and the one is 0.9."""
    theta, residuals = solved(way, tuple(ALONE), 1600)
    np.testing.assert_allclose(theta + residuals, ALONE, atol=0.06)
    paid = nats(residuals)
    assert paid[3] > 0.8 * paid.sum()
    assert paid[3] > 40 * np.delete(paid, 3).max()


def test_a_step_is_split_by_hand():
    """Two steps: m̂ / (√v̂ + ε) with v of max(Σ|g_m|, |Σ g_m|) for θ and all μ_m."""
    made = toy("l2_soft", 3, ppo__preconditioner="shared")
    rng = np.random.default_rng(0)
    shape = 3, 2, 2
    like = made.start().variables
    moments = preconditioner.init_moments(like)
    mu, nu = np.zeros(shape), np.zeros(shape[1:])
    mu_shared = np.zeros(shape[1:])
    for count in (1, 2):
        g = np.float32(rng.normal(size=shape))
        own = np.float32(g + 0.1 * rng.normal(size=shape))  # with the penalty's
        zero = jnp.zeros((2,))
        grads = {"shared": {"critic_head": {"kernel": g.mean(0), "bias": zero}},
                 "task": {"critic_head": {"kernel": own, "bias": jnp.zeros((3, 2))}}}
        steps, moments = preconditioner.precondition(made.problem, grads, moments,
                                                     ("shared", "task"))
        mu, mu_shared = 0.9 * mu + 0.1 * own, 0.9 * mu_shared + 0.1 * g.sum(0)
        nu = 0.999 * nu + 0.001 * np.maximum(np.abs(own).sum(0), np.abs(g.sum(0))) ** 2
        scale = (1 - 0.9**count) * (np.sqrt(nu / (1 - 0.999**count)) + 1e-5)
        for name, first in (("shared", mu_shared), ("task", mu)):
            np.testing.assert_allclose(steps[name]["critic_head"]["kernel"], first / scale,
                                       rtol=1e-4)


def test_own_moments_are_adams_to_the_bit():
    problem = make_problem(C.replace(C.Config(), {"network.hidden": (4,)}))
    variables = jax.jit(problem.network.init)(jax.random.key(0))
    adam = optax.scale_by_adam(eps=problem.settings.adam_epsilon)
    moments, state = preconditioner.init_moments(variables), adam.init(variables)
    both = tuple(variables)
    ours = jax.jit(lambda g, m: preconditioner.precondition(problem, g, m, both))
    for count in range(3):
        rng = np.random.default_rng(count)
        grads = jax.tree.map(lambda x, rng=rng: jnp.float32(rng.normal(size=x.shape)), variables)
        steps, moments = ours(grads, moments)
        expected, state = jax.jit(adam.update)(grads, state)
        for a, b in zip(*map(jax.tree.leaves, ((steps, tuple(moments)), (expected, tuple(state)))),
                        strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("norm", [1e9, 1e-3])
def test_clipping_does_not_change_the_split(norm):
    made = toy(ppo__preconditioner="shared", varshare__learn_with="mean")
    start = made.start()
    after = made.train(start, made.targets(start, AGREED), 1, 1e-3, ppo__max_grad_norm=norm)
    own = np.mean(means(after.variables)["critic_head"]["kernel"])
    np.testing.assert_allclose(moved(start, after) / own, M, rtol=1e-3)


def test_combined_gradients_are_split_too():
    """PCGrad's projections leave a task that conflicts with none as it is: the mean, ten times."""
    made = toy(ppo__preconditioner="shared", gradients__combine="pcgrad")
    start = made.start()
    after = made.train(start, made.targets(start, AGREED), 400, RATE)
    assert moved(start, after) >= 0.9 * 0.5


@pytest.mark.parametrize("method", ["hard_sharing", "independent", "contextual", "paco",
                                    "varshare_lora"])
def test_a_method_without_residuals_for_all_is_refused(method):
    config = C.replace(C.Config(method=method), {"ppo.preconditioner": "shared"})
    with pytest.raises(UserError, match=f"--ppo.preconditioner=shared: tasks of {method} own no"):
        Learner.make(config)
