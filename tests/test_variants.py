"""VarShare's variants: low rank, horseshoe, trust region, recentring, draws, frozen σ."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import critic, network_of, policy
from scipy import stats

from varshare_jax import config as C
from varshare_jax.algorithms import descent
from varshare_jax.errors import UserError
from varshare_jax.learner import make_problem
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.methods.varshare_horseshoe import LogGammaScale, LogInverseGammaScale
from varshare_jax.playing.evaluation import consensus
from varshare_jax.types import Discrete
from varshare_jax.variational.controllers import Measured
from varshare_jax.variational.gaussian import is_gaussian, kl_divergence, rho_of

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, compiler_options=OPTIONS)
M, D = 3, 5
SAMPLES = 2048  # the n of the ELBO
CONFIG = C.replace(C.Config(), {"network.hidden": (6, 6), "lora.rank": 2})
SCALARS = {k: jnp.float32(v) for k, v in CONFIG.scalars().items()}


def network(method="varshare", **overrides) -> MultiTaskNetwork:
    config = C.replace(CONFIG, {"method": method, **overrides})
    return network_of(config, M, D, Discrete(2))


@functools.cache
def start(method="varshare"):
    """Variables of a new network; not to be changed."""
    return jit(network(method).init)(jax.random.key(0))


def observations():
    return jnp.float32(np.random.default_rng(1).normal(size=(M, 4, D)))


def with_noise(tree, scale=0.3):
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: x + jnp.float32(scale * rng.normal(size=x.shape)), tree)


@pytest.mark.parametrize("method", ["varshare_lora", "varshare_horseshoe"])
def test_residuals_have_the_moments_of_what_is_drawn(method):
    """φ = B A and φ = s φ̃: closed-form mean and variance against 4000 draws."""
    net = network(method)
    variables = with_noise(start(method))
    variables["task"] = jax.tree.map(lambda q: q.replace(rho=jnp.full_like(q.rho, rho_of(0.3))),
                                     variables["task"], is_leaf=is_gaussian)
    task = jax.tree.map(lambda x: x[0], variables["task"])
    zero = jax.tree.map(jnp.zeros_like, variables["shared"])
    draw = jit(jax.vmap(lambda key: net.method.compose(
        zero, net.method.sample(task, key), 0)["actor"]["1"]["kernel"]))
    drawn = draw(jax.random.split(jax.random.key(1), 4000))
    expected = net.method.residual(task)["actor"]["1"]["kernel"]
    np.testing.assert_allclose(drawn.mean(0), expected.mean, atol=0.06)
    np.testing.assert_allclose(drawn.std(0), expected.std, rtol=0.15)


@pytest.mark.parametrize("method", ["varshare_lora", "varshare_horseshoe",
                                    "varshare_trust_region"])
def test_every_task_starts_as_the_shared_network(method):
    net, variables = network(method), start(method)
    obs = jnp.broadcast_to(observations()[0], (M, 4, D))
    play = jit(functools.partial(critic, net))
    value = play(variables, obs)
    np.testing.assert_allclose(value, play(net.without_residuals(variables), obs), atol=1e-6)
    np.testing.assert_allclose(value, np.broadcast_to(value[0], value.shape), atol=1e-6)


def test_low_rank_factors_both_learn():
    """At the start the mean of `up` has a gradient; once it has moved so has that of `down`."""
    net = network("varshare_lora")
    variables = start("varshare_lora")
    obs = observations()

    def slope(variables):
        grads = jit(jax.grad(lambda v: jnp.sum(critic(net, v, obs) ** 2)))(variables)
        return grads["task"]["critic"]["1"]["kernel"]

    assert np.abs(slope(variables).up.mean).max() > 0
    assert np.abs(slope(with_noise(variables)).down.mean).max() > 0


def test_the_product_of_low_rank_factors_has_the_priors_scale():
    """Factors drawn from their priors, means over entries: σ_prior², as a full residual's."""
    net = network("varshare_lora", **{"lora.rank": 4, "network.hidden": (64, 64)})
    task = jax.tree.map(lambda x: x[0], jit(net.init)(jax.random.key(0))["task"])
    factors, rng = task["critic"]["1"]["kernel"], np.random.default_rng(0)
    stds = [net.method.prior_std(q, 0.1) for q in (factors.down, factors.up)]
    drawn = [(factors.down.mean + stds[0] * rng.normal(size=(64, 4)))
             @ (stds[1] * rng.normal(size=(4, 64))) for _ in range(400)]
    np.testing.assert_allclose(np.mean(np.square(drawn)), 0.1**2, rtol=0.1)


def test_low_rank_factors_pay_nothing_for_where_they_start():
    net, variables = network("varshare_lora"), start("varshare_lora")
    _, memory = net.method.init_memory(variables["task"], SCALARS)
    pay = jit(lambda v: net.penalty(v, memory, SCALARS, SAMPLES)[1])
    assert all(not m.any() for name, m in pay(variables).items() if name.startswith("shift/"))
    moved = pay(variables | {"task": with_noise(variables["task"])})
    assert all(m.all() for name, m in moved.items() if name.startswith("shift/"))


def test_low_rank_is_a_tenth_of_the_full_residuals():
    """Ten tasks, hidden layers of 256, rank 4."""
    counts = {}
    for method in ("varshare", "varshare_lora"):
        config = C.replace(C.Config(method=method), {"network.hidden": (256, 256)})
        net = network_of(config, 10, 4, Discrete(2))
        shapes = jax.eval_shape(net.init, jax.random.key(0))
        counts[method] = sum(x.size for x in jax.tree.leaves(shapes["task"]))
    assert counts["varshare_lora"] <= 0.1 * counts["varshare"]


@pytest.mark.parametrize(("mean", "std", "tau"), [(0.0, 0.01, 0.1), (-2.0, 0.5, 0.1),
                                                  (1.0, 1.0, 1.0)])
def test_horseshoe_kl_equals_quadrature(mean, std, tau):
    """E_q[log q − log p] over u = log s by Gauss-Hermite, against scipy's Gamma densities."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    u, weights = mean + std * nodes, weights / weights.sum()
    log_q = stats.norm(mean, std).logpdf(u)
    method = network("varshare_horseshoe").method
    for kind, prior in ((LogGammaScale, stats.gamma(0.5, scale=tau**2)),
                        (LogInverseGammaScale, stats.invgamma(0.5))):
        expected = np.sum(weights * (log_q - prior.logpdf(np.exp(u)) - u))
        found = method.nats(kind(jnp.float32(mean), rho_of(std)), jnp.float32(tau))
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_product_of_the_two_scales_is_half_cauchy():
    rng = np.random.default_rng(0)
    s = np.sqrt(stats.gamma(0.5, scale=0.2**2).rvs(200_000, random_state=rng)
                * stats.invgamma(0.5).rvs(200_000, random_state=rng))
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(s, quantiles), stats.halfcauchy(
        scale=0.2).ppf(quantiles), rtol=0.03)


def test_trust_region_pays_for_moving_and_nothing_else():
    net = network("varshare_trust_region", **{"varshare.beta": 0.0})
    variables = start("varshare_trust_region")
    scalars = SCALARS | {"varshare.beta": jnp.float32(0), "trust_region.eta": jnp.float32(2)}
    _, memory = net.method.init_memory(variables["task"], scalars)
    pay = jit(net.penalty)
    cost, metrics = pay(variables, memory, scalars, SAMPLES)
    np.testing.assert_allclose(cost, 0.0, atol=1e-6)
    moved = variables | {"task": with_noise(variables["task"], 0.1)}
    cost, metrics = pay(moved, memory, scalars, SAMPLES)
    pairs = zip(*(jax.tree.leaves(v["task"], is_leaf=is_gaussian) for v in (moved, variables)),
                strict=True)
    kls = [distrax.Normal(q.mean, q.std).kl_divergence(distrax.Normal(old.mean, old.std))
           for q, old in pairs]
    total = sum(kl.reshape(M, -1).sum(1) for kl in kls)
    np.testing.assert_allclose(cost, 2 * total / SAMPLES, rtol=1e-3)
    np.testing.assert_allclose(metrics["trust_kl"], total / sum(kl[0].size for kl in kls),
                               rtol=1e-3)


def test_trust_region_adapts_each_tasks_eta_and_takes_the_new_posterior():
    """ε = 0.05: 0.2 is above 1.5 ε, 0.05 within, 0.01 below ε / 1.5."""
    net = network("varshare_trust_region")
    variables = start("varshare_trust_region")
    _, memory = net.method.init_memory(variables["task"], SCALARS)
    moved = variables | {"task": with_noise(variables["task"])}
    measured = Measured(jnp.int32(1), 10, {"trust_kl": jnp.array([0.2, 0.05, 0.01])}, None)
    steer = jit(lambda memory: net.method.steer(memory, moved, measured, SCALARS)[0])
    after = steer(memory)
    np.testing.assert_allclose(after["eta"], [1.5, 1.0, 1 / 1.5], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(after["task"]), jax.tree.leaves(moved["task"]), strict=True):
        np.testing.assert_array_equal(a, b)
    for _ in range(30):
        after = steer(after)
    np.testing.assert_allclose(after["eta"], [1e3, 1.0, 1e-3], rtol=1e-5)


def test_recentring_by_a_common_shift_changes_no_tasks_function():
    net = network(**{"varshare.recenter": "shift"})
    variables = with_noise(start())
    obs = observations()
    scalars = SCALARS | {"varshare.recenter_rate": jnp.float32(1.0)}
    after = net.method.after_update(variables, None, scalars, None)
    logits, value = jit(lambda v: policy(net, v, obs).logits), jit(lambda v: critic(net, v, obs))
    for outputs in (logits, value):
        np.testing.assert_allclose(outputs(after), outputs(variables), atol=1e-6)
    for q in jax.tree.leaves(after["task"], is_leaf=is_gaussian):
        np.testing.assert_allclose(q.mean.mean(0), 0.0, atol=1e-6)
    _, memory = net.method.init_memory(variables["task"], scalars)
    cost = jit(lambda v: net.penalty(v, memory, scalars, SAMPLES)[0].sum())
    assert cost(after) < cost(variables)


def test_recentring_as_in_the_notes_adds_each_tasks_shift_in_turn():
    """The notes' loop, by hand: θ += α μ_m, μ_m −= α μ_m, task after task."""
    net = network(**{"varshare.recenter": "literal"})
    variables = with_noise(start())
    scalars = SCALARS | {"varshare.recenter_rate": jnp.float32(0.25)}
    after = net.method.after_update(variables, None, scalars, None)
    mu, theta = (v["critic"]["1"]["kernel"] for v in (variables["task"], variables["shared"]))
    np.testing.assert_allclose(after["task"]["critic"]["1"]["kernel"].mean, 0.75 * mu.mean,
                               rtol=1e-5)
    np.testing.assert_array_equal(after["task"]["critic"]["1"]["kernel"].rho, mu.rho)
    for residual in np.array(mu.mean):
        theta = theta + 0.25 * residual
    np.testing.assert_allclose(after["shared"]["critic"]["1"]["kernel"], theta, rtol=1e-5)


@pytest.mark.parametrize(("method", "flag", "value"), [
    ("varshare_lora", "estimator", "flipout"), ("varshare_lora", "recenter", "shift"),
    ("varshare_horseshoe", "estimator", "local"), ("varshare_horseshoe", "recenter", "literal"),
    ("varshare_trust_region", "recenter", "shift")])
def test_what_does_not_go_together_is_refused(method, flag, value):
    with pytest.raises(UserError, match=f"--varshare.{flag}={value}.*--method=varshare"):
        network(method, **{f"varshare.{flag}": value})


def test_sigma_that_is_not_learned_has_no_gradient():
    net = network(**{"varshare.learn_sigma": False})
    variables = with_noise(start())
    _, memory = net.method.init_memory(variables["task"], SCALARS)
    obs = observations()

    def loss(variables):
        drawn = net.sample(variables, jax.random.key(2))
        cost, _ = net.penalty(variables, memory, SCALARS, SAMPLES)
        return jnp.sum(critic(net, drawn, obs) ** 2) + cost.sum()

    for q in jax.tree.leaves(jit(jax.grad(loss))(variables)["task"], is_leaf=is_gaussian):
        assert np.abs(q.mean).max() > 0
        np.testing.assert_array_equal(q.rho, 0)


def test_several_draws_average_gradients():
    problem = make_problem(C.replace(CONFIG, {"varshare.draws": 3}))
    average = descent._over_draws(
        problem, lambda network, scale, key: scale * jax.random.normal(key, (2,)))
    key = jax.random.key(4)
    each = [2.0 * jax.random.normal(k, (2,)) for k in jax.random.split(key, 3)]
    np.testing.assert_allclose(average(None, 2.0, key), np.mean(each, 0), rtol=1e-5)


def test_several_policies_act_by_their_mean():
    """Two draws are sure of action 1, narrowly; the third, very sure of 0, outvotes them."""
    logits = jnp.log(jnp.array([[0.45, 0.55], [0.45, 0.55], [0.99, 0.01]]))[:, None]
    assert consensus(distrax.Categorical(logits=logits)).tolist() == [0]
    assert consensus(distrax.Categorical(logits=logits[:2])).tolist() == [1]
    normal = distrax.Independent(distrax.Normal(jnp.array([[1.0], [2.0], [6.0]]), 1.0), 1)
    np.testing.assert_allclose(consensus(normal), [3.0])


def test_kl_between_gaussians_equals_distrax():
    q = start()["task"]["actor"]["0"]["kernel"]
    expected = distrax.Normal(q.mean, q.std).kl_divergence(distrax.Normal(0.3, 0.2))
    np.testing.assert_allclose(kl_divergence(q, 0.2, 0.3), expected, rtol=1e-4)
