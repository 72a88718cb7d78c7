"""MPO's losses and duals against rlax and closed forms, and MPO on environments with known values.
"""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FUZZ
from probes import problem_of, train

from varshare_jax import config as C
from varshare_jax.algorithms import acting, descent, objectives
from varshare_jax.algorithms.duals import dual_moments
from varshare_jax.algorithms.mpo import dual_loss
from varshare_jax.algorithms.off_policy import Sample, Start
from varshare_jax.algorithms.replay import Batch
from varshare_jax.errors import UserError
from varshare_jax.learner import make_problem
from varshare_jax.methods.gradients import side_of
from varshare_jax.networks.squashed import SquashedNormal
from varshare_jax.variational.gaussian import is_gaussian

SETTINGS = {"network.hidden": (16,), "mpo.num_envs": 4, "mpo.rollout_length": 8,
            "mpo.replay_size": 2000, "mpo.learning_starts": 64, "mpo.gradient_steps": 16,
            "mpo.batch_size": 32, "mpo.learning_rate": 1e-2, "mpo.discount": 0.9,
            "mpo.target_every": 8, "mpo.normalize_returns": False, "mpo.action_samples": 8,
            "mpo.anneal_learning_rate": True}
# For products of action and cue; and the mode is the best action once the deviation is small.
REACH = {"network.hidden": (32, 32), "mpo.learning_rate": 3e-3, "mpo.learning_starts": 256,
         "mpo.initial_temperature": 0.1, "network.initial_log_std": -1.0,
         "mpo.epsilon_covariance": 1e-2}
B, K = 6, 5


def settings(method: str = "independent", **overrides) -> C.Config:
    return C.replace(C.Config(algorithm="mpo", method=method), SETTINGS | overrides)


def chosen(problem, state):
    """The most likely actions at cues -1 and 1."""
    obs = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None], (2, 2, 1))
    return acting.policy(problem, problem.player(state), obs).mode()


@pytest.mark.skipif(FUZZ == 1, reason="a probe is enough; in make fuzz")
@pytest.mark.parametrize("method", ["varshare", "independent", "pcgrad"])
def test_policy_takes_the_rewarded_action(method):
    problem, state, _ = train("action", settings(method), 60)
    np.testing.assert_array_equal(chosen(problem, state), [[0, 1], [0, 1]])


def test_policy_reaches_the_rewarded_action():
    problem, state, _ = train("reach", settings(**REACH), 100, size=1)
    np.testing.assert_allclose(chosen(problem, state)[..., 0], [[-0.5, 0.5]] * 2, atol=0.15)


@pytest.mark.skipif(FUZZ == 1, reason="the goal by hand says the same; in make fuzz")
@pytest.mark.parametrize("size", [0, 1])
def test_truncation_bootstraps_and_termination_does_not(size):
    for kind, expected in (("truncate", [10, 20]), ("terminate", [3.439, 6.878])):
        problem, state, _ = train(kind, settings(), 150, size=size)
        action = jnp.zeros((2, 1, 1)) if size else None
        q = problem.network.apply(state.agent.variables, jnp.zeros((2, 1, 1)), "critic",
                                  action=action)["critic"]
        np.testing.assert_allclose(q.reshape(2, -1).mean(1), expected, rtol=0.1)


@functools.cache
def begun(size: int):
    """(problem, sample, start): target and online networks, and the duals of tasks, unlike."""
    problem = problem_of("terminate", settings("varshare" if size else "independent", **{
        "mpo.epsilon": 0.3, "mpo.epsilon_policy": 0.02, "mpo.action_samples": K}), size)
    scalars = {name: jnp.float32(x) for name, x in problem.config.scalars().items()}
    agent = jax.jit(lambda key: descent.init_agent(problem, key, scalars))(jax.random.key(0))
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.float32(rng.normal(size=shape))

    agent = agent.replace(target=jax.tree.map(lambda x: x + 0.3 * normal(*x.shape),
                                              agent.variables))
    action = jnp.tanh(normal(2, B, size)) if size else jnp.int32(rng.integers(2, size=(2, B)))
    batch = Batch(normal(2, B, 1), action, normal(2, B), jnp.tile(jnp.array([0.9, 0, 0.9]), (2, 2)),
                  normal(2, B, 1))
    noise = [normal(2, B, K, size) if size else None for _ in range(2)]
    duals = {name: objectives.dual_parameter(jnp.array([at, 3 * at])) for name, at in (
        ("temperature", 0.4), *((("mean", 0.7), ("covariance", 2.0)) if size
                                else (("policy", 0.7),)))}
    start = Start(agent, {"duals": duals, "moments": dual_moments(duals)}, scalars)
    return problem, Sample(batch, *noise), start


@functools.cache
def ours(size: int):
    """Of variables: gradients of the loss but for the critic's, and the metrics."""
    problem, sample, start = begun(size)

    def loss(variables):
        forward = descent.Forward(problem.network, variables, None)
        loss, metrics = problem.algorithm.loss(problem, start, forward, sample)
        return (loss - metrics["value_loss"]).sum(), metrics

    return jax.jit(jax.grad(loss, has_aux=True))


@pytest.mark.parametrize("size", [0, 1])
def test_the_critic_learns_what_the_target_policy_expects(size):
    problem, (batch, noise, _), start = begun(size)
    target, online = (jax.jit(functools.partial(problem.network.apply, variables),
                              static_argnums=1)
                      for variables in (start.agent.target, start.agent.variables))
    policy = target(batch.final_obs, "actor")["actor"]
    if size:
        drawn = [jnp.tanh(policy.loc + policy.scale * noise[:, :, k]) for k in range(K)]
        future = np.mean([target(batch.final_obs, "critic", action=a)["critic"] for a in drawn], 0)
        q = online(batch.obs, "critic", action=batch.action)["critic"]
    else:
        future = (policy.probs * target(batch.final_obs, "critic")["critic"]).sum(-1)
        q = np.take_along_axis(np.asarray(online(batch.obs, "critic")["critic"]),
                               np.asarray(batch.action)[..., None], -1)[..., 0]
    error = q - (batch.reward + batch.discount * future)
    _, metrics = ours(size)(start.agent.variables)
    np.testing.assert_allclose(metrics["value_loss"], np.square(error).mean(1) / 2, rtol=1e-4)


def theirs(problem, sample, start, variables, duals):
    """rlax's loss of policy and duals, summed over tasks, and its parts. Of discrete actions, which
    it takes for drawn ones, the prior is put into the values: its temperature's loss is not ours.
    """
    import rlax

    bounds = {"temperature": 0.3, "policy": 0.02, "mean": 0.05, "covariance": 5e-4}
    target, noise = functools.partial(problem.network.apply, start.agent.target), sample.noise
    obs = sample.batch.obs
    old, new = (apply(obs, "actor")["actor"] for apply in (
        target, functools.partial(problem.network.apply, variables)))
    if noise is None:
        eta = objectives.dual(duals["temperature"])[:, None, None]
        q = target(obs, "critic")["critic"] + eta * jax.nn.log_softmax(old.logits)
        log_prob, kls = jax.nn.log_softmax(new.logits), {"policy": old.kl_divergence(new)}
    else:
        raw = old.loc[:, :, None] + old.scale[:, :, None] * noise
        q = jnp.stack([target(obs, "critic", action=jnp.tanh(raw[:, :, k]))["critic"]
                       for k in range(K)], -1)
        gaussian = distrax.MultivariateNormalDiag
        halves = gaussian(new.loc, old.scale), gaussian(old.loc, new.scale)
        log_prob = jnp.stack([sum(half.log_prob(raw[:, :, k]) for half in halves)
                              for k in range(K)], -1)
        first = gaussian(old.loc, old.scale)
        kls = {name: first.kl_divergence(half)
               for name, half in zip(("mean", "covariance"), halves, strict=True)}

    def of_task(log_prob, q, kls, duals):
        penalty = {name: rlax.LagrangePenalty(x, jnp.float32(bounds[name]))
                   for name, x in duals.items()}
        constraints = [(kl, penalty[name]) for name, kl in kls.items()]
        return rlax.mpo_loss(log_prob, q, penalty["temperature"], constraints,
                             projection_operator=objectives.dual, sample_axis=-1)

    loss, parts = jax.vmap(of_task)(log_prob, jax.lax.stop_gradient(q), kls, duals)
    return loss.mean(1).sum(), parts


@pytest.mark.parametrize("size", [0, 1])
def test_policy_and_duals_descend_what_rlax_says(size):
    """Values, and gradients of the policy's parameters and of the duals'."""
    pytest.importorskip("rlax", reason="needs varshare_jax[dev]")
    problem, sample, start = begun(size)
    grads, metrics = ours(size)(start.agent.variables)
    oracle = jax.grad(functools.partial(theirs, problem, sample, start), (0, 1), has_aux=True)
    (expected, of_duals), parts = jax.jit(oracle)(start.agent.variables, start.own["duals"])
    np.testing.assert_allclose(metrics["policy_loss"], parts.policy_loss.mean(1), rtol=1e-4)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert any(bool(jnp.any(x)) for x in jax.tree.leaves(grads["task"]["actor_head"]))
    slopes = jax.grad(lambda duals: dual_loss(problem, start.scalars, duals, metrics).sum())(
        start.own["duals"])
    for name in slopes if size else {"policy"}:
        np.testing.assert_allclose(slopes[name], of_duals[name], rtol=1e-3, atol=1e-6)


def test_weights_of_two_actions_by_hand():
    """ψ₁ = 1 / (1 + exp(-(log p₁/p₀ + (Q₁ - Q₀) / η))), with each task's own η."""
    q, p = jnp.array([[[1.0, 3.0]], [[1.0, 3.0]]]), jnp.array([[[0.8, 0.2]]] * 2)
    weights, kl = objectives.mpo_weights(q, jnp.log(p), jnp.array([0.5, 1e6]))
    first = 1 / (1 + np.exp(-(np.log(0.25) + 2 / 0.5)))
    np.testing.assert_allclose(weights, [[[1 - first, first]], [[0.8, 0.2]]], rtol=1e-4)
    expected = first * np.log(first / 0.2) + (1 - first) * np.log((1 - first) / 0.8)
    np.testing.assert_allclose(kl, [[expected], [0]], rtol=1e-4, atol=1e-6)


def test_the_temperatures_slope_is_what_its_bound_leaves():
    """That of η ε + η log Σ p exp(Q / η), for any p; finite wherever Q lies."""
    rng = np.random.default_rng(1)
    q, logits = jnp.float32(rng.normal(size=(2, 2, 7, 4)))
    log_prior, eta = jax.nn.log_softmax(logits), jnp.array([0.3, 5.0])

    def dual(eta):
        scaled = log_prior + q / eta[:, None, None]
        return (eta * 0.2 + eta * jax.nn.logsumexp(scaled, -1).mean(1)).sum()

    weights = jax.jit(objectives.mpo_weights)
    np.testing.assert_allclose(0.2 - weights(q, log_prior, eta)[1].mean(1),
                               jax.jit(jax.grad(dual))(eta), atol=1e-5)
    np.testing.assert_allclose(weights(0 * q, log_prior, eta)[1], 0, atol=1e-6)
    sharpest = weights(1e6 * q, log_prior, eta)[1]  # all on one action
    best = np.take_along_axis(log_prior, np.asarray(q.argmax(-1))[..., None], -1)[..., 0]
    np.testing.assert_allclose(sharpest, -best, rtol=1e-5)


def test_weights_beyond_their_bound_grow_warmer():
    """Of two tasks one lies above ε, one below; what is not finite moves nothing."""
    problem, _, start = begun(1)
    metrics = {"kl_weights": jnp.array([0.4, 0.2]), "kl_mean": jnp.array([0.0, 0.1]),
               "kl_covariance": jnp.array([jnp.nan, 0.1])}
    after = problem.algorithm.follow(problem, start, metrics)["duals"]
    moved = {name: np.asarray(after[name] - x) for name, x in start.own["duals"].items()}
    np.testing.assert_allclose(moved["temperature"], [0.01, -0.01], rtol=1e-2)  # Adam's first step
    np.testing.assert_allclose(moved["mean"], [-0.01, 0.01], rtol=1e-2)
    np.testing.assert_allclose(moved["covariance"], [0, 0.01], atol=1e-4)


def test_squashing_changes_no_kl():
    """KL of mean and of deviation as between Gaussians, by quadrature between squashed ones."""
    wide, moved = SquashedNormal(jnp.zeros(1), jnp.ones(1)), SquashedNormal(
        jnp.full(1, 0.4), jnp.ones(1))
    narrow = SquashedNormal(jnp.zeros(1), jnp.full(1, 0.7))
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    action = jnp.tanh(jnp.float32(nodes))[:, None]
    for other, name, nothing in ((moved, "mean", "covariance"), (narrow, "covariance", "mean")):
        parts = objectives.kl_parts(wide, other)
        expected = (weights * (wide.log_prob(action) - other.log_prob(action))).sum()
        np.testing.assert_allclose(parts[name], expected / weights.sum(), rtol=1e-3)
        np.testing.assert_allclose(parts[name], distrax.Normal(0.0, 1.0).kl_divergence(
            distrax.Normal(other.loc[0], other.scale[0])), rtol=1e-5)
        np.testing.assert_array_equal(parts[nothing], 0)


def test_noise_of_weights_in_actor_and_critic_is_apart():
    """Drawn critics are in no policy's loss, drawn policies in no critic's."""
    problem, _, start = begun(1)
    sample = jax.jit(problem.network.sample)

    def drawn(*sides):
        task = {name: jax.tree.map(lambda q: q.replace(rho=q.rho + 3.0), tree, is_leaf=is_gaussian)
                if side_of(name) in sides else tree
                for name, tree in start.agent.variables["task"].items()}
        return ours(1)(sample(start.agent.variables | {"task": task}, jax.random.key(3)))[1]

    usual, critic, actor = drawn(), drawn("critic"), drawn("actor")
    for name in ("policy_loss", "kl_mean", "kl_covariance", "kl_weights"):
        np.testing.assert_array_equal(usual[name], critic[name])
    for name in ("value_loss", "kl_weights"):
        np.testing.assert_array_equal(usual[name], actor[name])
    assert (usual["value_loss"] != critic["value_loss"]).all()
    assert (usual["policy_loss"] != actor["policy_loss"]).all()


@pytest.mark.parametrize(("changes", "told"), [
    ({"network.critic": "categorical"}, "--network.critic=categorical: .*--algorithm=mpo"),
    ({"mpo.action_samples": 0}, "--mpo.action_samples=0: must be greater than 0"),
    ({"mpo.initial_multiplier": 0.0}, "--mpo.initial_multiplier=0.0: must be greater"),
])
def test_what_cannot_work_is_refused_before_it_compiles(changes, told):
    with pytest.raises(UserError, match=told):
        make_problem(C.replace(C.Config(algorithm="mpo"), changes))
