"""Controllers of β and σ_prior: trajectories by hand, gradients, equilibria."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import critic, network_of

from varshare_jax import config as C
from varshare_jax.algorithms.on_policy import Batch, critic_error
from varshare_jax.errors import UserError
from varshare_jax.learner import Learner
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.types import Discrete
from varshare_jax.variational.controllers import CONTROLLERS, Measured
from varshare_jax.variational.diagnostics import diagnose
from varshare_jax.variational.gaussian import Gaussian, is_gaussian, rho_of
from varshare_jax.variational.medians import medians, stride
from varshare_jax.variational.tree import layers

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, compiler_options=OPTIONS)
M = 4
SAMPLES = 2048  # the n of the ELBO
LAYERS = ("first", "second")


def controller_of(name: str, **overrides):
    config = C.replace(C.Config(), {"varshare.controller": name, **overrides}).validate()
    scalars = {k: jnp.float32(v) for k, v in config.scalars().items()}
    return CONTROLLERS[name](config.controller, M), scalars


def measured(update=1, total=100, ratio=0.0, gap=None):
    ratios = {name: jnp.full(M, ratio) for name in ("ratio", "ratio/first", "ratio/second")}
    return Measured(jnp.asarray(update), total, ratios, lambda: gap)


def stepper(controller, scalars):
    """Its update, compiled once: (state, number of the update, R_raw, Δ) -> state."""
    return jit(lambda state, update, ratio=0.0, gap=None: controller.update(
        state, measured(update, ratio=ratio, gap=gap), scalars))


def network(**overrides) -> MultiTaskNetwork:
    config = C.replace(C.Config(), {"network.hidden": (4,), **overrides})
    return network_of(config, M, 3, Discrete(2))


def start(net: MultiTaskNetwork):
    """Variables, with random means, the method's memory, scalars."""
    scalars = {k: jnp.float32(v) for k, v in net.method.config.scalars().items()}
    variables = jit(net.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    variables["task"] = jax.tree.map(
        lambda q: q.replace(mean=jnp.float32(rng.normal(0, 0.1, q.mean.shape))),
        variables["task"], is_leaf=is_gaussian)
    prior, memory = net.method.init_memory(variables["task"], scalars)
    if prior:
        variables["prior"] = prior
    return variables, memory, scalars


@pytest.mark.parametrize(("preset", "changes"), [
    ("varshare_control", {}), ("varshare_sigma001", {"varshare.sigma_prior": 0.01}),
    ("varshare_unit_prior", {"varshare.sigma_prior": 1.0}),
    ("varshare_beta_annealed", {"varshare.controller": "annealed"}),
    ("varshare_beta_triggered", {"varshare.controller": "triggered"}),
    ("varshare_sigma_adaptive", {"varshare.controller": "sigma_adaptive"}),
    ("varshare_empirical_bayes", {"varshare.controller": "empirical_bayes"}),
    ("varshare_relevance", {"varshare.controller": "relevance"})])
def test_presets_differ_from_the_control_in_one_thing(preset, changes):
    assert C.with_presets(C.Config(), [preset]) == C.replace(C.Config(), changes)


def test_fixed_terms_are_the_configured_ones():
    controller, scalars = controller_of("fixed", **{"varshare.beta": 3.0})
    terms = controller.terms(LAYERS, {}, {}, scalars)
    np.testing.assert_allclose(terms.beta, [3.0] * M)
    np.testing.assert_allclose(terms.std["second"], [0.1] * M)
    np.testing.assert_array_equal(terms.hyperprior, 0.0)


def test_annealed_beta_rises_holds_and_rises():
    """T = 100, β₁ = 3: T_warm = 10, T_ramp = 80, β₂ = 6."""
    controller, scalars = controller_of("annealed", **{"varshare.beta": 3.0})
    state, step = controller.init(LAYERS, scalars), stepper(controller, scalars)
    found = [float(state["beta"])]
    for update in range(1, 101):
        state = step(state, update)
        found.append(float(controller.terms(LAYERS, {}, state, scalars).beta[0]))
    expected = [3 * t / 10 if t <= 10 else 3 if t <= 80 else 3 + 3 * (t - 80) / 20
                for t in range(101)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_triggered_beta_follows_the_smoothed_ratio_every_k_updates():
    """40 updates above the band, then 100 below: by hand, step for step."""
    controller, scalars = controller_of("triggered")
    state, step = controller.init(LAYERS, scalars), stepper(controller, scalars)
    beta, ema, ups, downs = 1.0, None, 0, 0
    for update in range(1, 141):
        ratio = 0.5 if update <= 40 else 0.01
        state = step(state, update, ratio)
        ema = ratio if ema is None else 0.95 * ema + 0.05 * ratio
        direction = 0
        if update % 20 == 0:
            direction = int(ema > 0.20) - int(ema < 0.05)
            beta *= 1.1**direction
            ups, downs = ups + (direction > 0), downs + (direction < 0)
        np.testing.assert_allclose(state["beta"], beta, rtol=1e-5)
        np.testing.assert_allclose(state["ema"]["ratio/second"], ema, rtol=1e-4)
        assert int(state["direction"]) == direction
    assert (int(state["ups"]), int(state["downs"])) == (ups, downs) == (2, 3)


@pytest.mark.parametrize(("ratio", "begin", "end"), [(9.0, 95.0, 100.0), (0.0, 1.05e-4, 1e-4)])
def test_triggered_beta_stays_within_its_bounds(ratio, begin, end):
    controller, scalars = controller_of("triggered", **{"varshare.beta": begin})
    state, step = controller.init(LAYERS, scalars), stepper(controller, scalars)
    for update in (20, 40):
        state = step(state, update, ratio)
    np.testing.assert_allclose(state["beta"], end, rtol=1e-6)


def test_sigma_adaptive_maps_smoothed_gaps_to_bounded_scales():
    controller, scalars = controller_of("sigma_adaptive")
    state, step = controller.init(LAYERS, scalars), stepper(controller, scalars)
    np.testing.assert_allclose(state["sigma_prior"], np.sqrt((0.01**2 + 0.3**2) / 2), rtol=1e-5)
    gaps, ema = {20: [0.0, 1.0, 2.0, 9.0], 40: [4.0, 1.0, 0.0, -1.0]}, None
    for update in range(1, 60):
        before = state
        gap = np.float32(gaps.get(update, [np.nan] * M))
        state = step(state, update, gap=jnp.array(gap))
        if update not in gaps:
            assert all(bool((a == b).all()) for a, b in zip(
                jax.tree.leaves(before), jax.tree.leaves(state), strict=True))
            continue
        ema = gap if ema is None else 0.95 * ema + 0.05 * gap
        centred = ema - np.median(ema)
        z = centred / (np.median(np.abs(centred)) + 1e-8)
        variance = 0.01**2 + (0.3**2 - 0.01**2) / (1 + np.exp(-z))
        np.testing.assert_allclose(state["gap"], gap)
        np.testing.assert_allclose(state["gap_ema"], ema, rtol=1e-5)
        np.testing.assert_allclose(state["gap_z"], z, rtol=1e-4)
        np.testing.assert_allclose(state["sigma_prior"], np.sqrt(variance), rtol=1e-4)
    assert np.argmax(state["sigma_prior"]) == 3, "the outlier has the widest prior"
    assert state["sigma_prior"].min() >= 0.01
    assert state["sigma_prior"].max() <= 0.3


def test_relevance_sets_each_prior_by_how_far_a_task_has_gone_in_a_layer():
    net = network(**{"varshare.controller": "relevance", "controller.sigma_max": 0.15})
    variables, memory, scalars = start(net)
    task = variables["task"]
    task["actor_head"] = jax.tree.map(lambda x: x * jnp.array([0.0, 1.0, 2.0, 9.0]).reshape(
        M, *(1,) * (x.ndim - 1)), task["actor_head"])
    for std in net.method.terms(variables, memory, scalars)["prior"].std.values():
        np.testing.assert_allclose(std, 0.01, rtol=1e-6)
    memory, _ = jit(lambda variables, memory: net.method.steer(
        memory, variables, Measured(jnp.int32(1), 9, {}, None), scalars))(variables, memory)
    found = net.method.terms(variables, memory, scalars)["prior"].std
    assert set(found) == set(layers(task, is_gaussian))
    for layer, posteriors in layers(task, is_gaussian).items():
        means = np.concatenate([np.reshape(q.mean, (M, -1)) for q in posteriors], 1)
        expected = np.sqrt(np.minimum(0.01**2 + (means**2).mean(1), 0.15**2))
        np.testing.assert_allclose(found[layer], expected, rtol=1e-5)
    np.testing.assert_allclose(found["actor_head"][jnp.array([0, 3])], [0.01, 0.15], rtol=1e-6)


def test_no_gradient_flows_through_the_update_of_sigma_prior():
    """σ_prior after an update has no gradient, and the penalty's is as if it were a constant."""
    net = network(**{"varshare.controller": "sigma_adaptive"})
    variables, memory, scalars = start(net)

    def steered(variables):
        gap = sum(jnp.sum(jnp.square(q.mean), tuple(range(1, q.mean.ndim)))
                  for q in jax.tree.leaves(variables["task"], is_leaf=is_gaussian))
        return net.method.steer(memory, variables, measured(20, gap=gap), scalars)[0]

    through = jit(jax.grad(lambda v: jnp.sum(steered(v)["controller"]["sigma_prior"])))(variables)
    assert all(not np.any(g) for g in jax.tree.leaves(through))
    constant = jit(steered)(variables)

    def paid(variables, remember):
        return net.penalty(variables, remember(variables), scalars, SAMPLES)[0].sum()

    one, other = (jit(jax.grad(functools.partial(paid, remember=remember)))(variables)
                  for remember in (steered, lambda v: constant))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_critic_gap_is_what_residuals_are_worth():
    """Targets that are the adapted values: the gap is the shared network's squared error."""
    config = C.replace(C.Config(), {"network.hidden": (4,), "ppo.num_envs": 2,
                                    "ppo.rollout_length": 4, "ppo.minibatches": 1})
    problem = Learner.make(config).problem
    tasks = problem.suite.num_tasks
    variables = jit(problem.network.init)(jax.random.key(0))
    bias = variables["task"]["critic_head"]["bias"]
    variables["task"]["critic_head"]["bias"] = bias.replace(
        mean=jnp.arange(tasks, dtype=jnp.float32)[:, None])
    shape = tasks, 2, 3, problem.suite.observation_size
    obs = jnp.float32(np.random.default_rng(0).normal(size=shape))
    value = jit(functools.partial(critic, problem.network))(variables, obs)
    batch = Batch(obs, None, None, None, None, value)
    error = jit(functools.partial(critic_error, problem, batch))
    gap = error(problem.network.without_residuals(variables)) - error(variables)
    np.testing.assert_allclose(gap, np.arange(tasks) ** 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("control", ["fixed", "empirical_bayes"])
def test_sigma_prior_is_used_in_both_places_of_the_kl(control):
    """∂KL/∂σ_prior = 1/σ_prior − (σ² + μ²)/σ_prior³: a term from the logarithm, one below."""
    net = network(**{"varshare.controller": control})
    variables, memory, scalars = start(net)

    def kl(std):
        if control == "fixed":
            return net.penalty(variables, memory, scalars | {"varshare.sigma_prior": std},
                               SAMPLES)[1]["kl"].sum()
        learned = dict.fromkeys(variables["prior"], jnp.log(std))
        return net.penalty(variables | {"prior": learned}, memory, scalars,
                           SAMPLES)[1]["kl"].sum()

    moments = [np.square(q.std) + np.square(q.mean)
               for q in jax.tree.leaves(variables["task"], is_leaf=is_gaussian)]
    slope = jit(jax.grad(kl))
    for std in (0.01, 0.1, 1.0):
        expected = sum(np.sum(1 / std - moment / std**3) for moment in moments)
        np.testing.assert_allclose(slope(std), expected, rtol=1e-3)


@pytest.mark.parametrize("detach", [False, True])
def test_empirical_bayes_settles_at_the_second_moment(detach):
    """Without a spring σ_prior² is the mean of μ² + σ², or of μ² where σ is left out."""
    net = network(**{"varshare.controller": "empirical_bayes", "controller.hyperprior": 0.0,
                     "controller.detach_sigma": detach})
    variables, memory, scalars = start(net)
    optimizer = optax.adam(0.1)

    def step(_, carry):
        prior, moments = carry
        grads = jax.grad(lambda p: net.penalty(variables | {"prior": p}, memory, scalars,
                                               SAMPLES)[0].sum())(prior)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(prior, updates), moments

    prior = variables["prior"]
    found, _ = jit(lambda p: jax.lax.fori_loop(0, 300, step, (p, optimizer.init(p))))(prior)
    for layer, log_std in found.items():
        side, _, name = layer.rpartition("_")
        node = variables["task"].get(layer) or variables["task"][side][name]
        posteriors = jax.tree.leaves(node, is_leaf=is_gaussian)
        count = sum(q.mean.size for q in posteriors)
        moment = sum(np.sum(np.square(q.mean) + np.square(q.std) * (not detach))
                     for q in posteriors) / count
        np.testing.assert_allclose(np.exp(2 * log_std), moment, rtol=0.02)


def test_empirical_bayes_spring_and_start():
    net = network(**{"varshare.controller": "empirical_bayes", "varshare.beta": 0.0})
    variables, memory, scalars = start(net)
    assert all(np.isclose(v, np.log(0.1)) for v in variables["prior"].values())
    moved = variables | {"prior": jax.tree.map(lambda v: v + 2.0, variables["prior"])}
    cost, metrics = jit(net.penalty)(moved, memory, scalars, SAMPLES)
    np.testing.assert_allclose(cost, 1e-3 * 4 * len(moved["prior"]), rtol=1e-4)
    np.testing.assert_allclose(metrics["hyperprior"], cost, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 1, 7), (2, 4, 10), (5, 1, 1)])
def test_medians_are_those_of_sorting(shape):
    x = np.random.default_rng(0).lognormal(size=shape).astype(np.float32)
    lower = np.percentile(x.reshape(shape[0], -1), 50, axis=-1, method="lower")
    np.testing.assert_allclose(jit(medians)(x)[:, 0], lower, rtol=1e-3)


def test_medians_of_sections_with_ties():
    x = np.float32([[0, 0, 0, 1, 5], [2, 2, 1, 1, 7]])
    np.testing.assert_allclose(jit(lambda x: medians(x, (3, 1, 1)))(x), [0, 1, 5], rtol=1e-3)
    np.testing.assert_allclose(jit(medians)(x[:, None, :]), [[0], [2]], rtol=1e-3)


@pytest.mark.parametrize("size", [1, 2**17, 2**17 + 1, 2**20])
def test_what_is_looked_at_of_many_is_bounded_and_odd(size):
    step = stride(size)
    assert step % 2 == 1
    assert size / step <= 2**17


def test_diagnosis_by_hand():
    """Noise-to-weight ratio over all tasks; the rest task by task."""
    rho = rho_of(jnp.array([[1.0, 2.0, 4.0], [4.0, 6.0, 7.0]]))
    q = Gaussian(jnp.array([[-1.0, 2.0, -3.0], [0.0, 0.0, 9.0]]), rho)
    theta = jnp.array([-2.0, 1.0, 8.0])
    found = jit(diagnose)({"layer": {"kernel": q}}, {"layer": {"kernel": theta}})
    np.testing.assert_allclose(found["sigma_median"], [2.0, 6.0], rtol=1e-3)
    np.testing.assert_allclose(found["abs_mu_median"], [2.0, 0.0], rtol=1e-3)
    np.testing.assert_allclose(found["log_sigma"][0], np.log(8) / 3, rtol=1e-5)
    for name in ("ratio", "ratio/layer"):
        np.testing.assert_allclose(found[name], 4.0 / 2.0, rtol=1e-3)


@pytest.mark.parametrize("bad", [{"controller.every": 0}, {"controller.ema": 1.5},
                                 {"controller.ratio_min": 0.3}, {"controller.warmup": 0.9},
                                 {"varshare.controller": "annealing"}])
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}"):
        C.replace(C.Config(), bad).validate()
