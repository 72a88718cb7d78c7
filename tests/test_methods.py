"""One test parameterised over every registered method, and the identities between methods."""

import dataclasses
import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import critic, network_of, policy

from varshare_jax import config as C
from varshare_jax.methods import METHODS
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.types import Continuous, Discrete
from varshare_jax.variational.gaussian import Gaussian, is_gaussian

M, D, B = 3, 5, 7
SAMPLES = 2048  # the n of the ELBO
SPACES = {"discrete": Discrete(4), "continuous": Continuous(2)}
ALL = sorted(METHODS)


def network(method: str, space="discrete", **overrides) -> MultiTaskNetwork:
    config = C.replace(C.Config(method=method), {"network.hidden": (8, 8), "lora.rank": 2,
                                                **overrides})
    return network_of(config, M, D, SPACES[space])


def observations():
    return jax.random.normal(jax.random.key(9), (M, B, D))


@functools.partial(jax.jit, static_argnums=0)
def fresh(net: MultiTaskNetwork):
    """Variables as they begin, by one program: operation by operation it would be dozens."""
    return net.init(jax.random.key(0))


def randomised(net: MultiTaskNetwork):
    """Variables with every leaf random, so that nothing is zero by initialisation."""
    noise = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(x + 0.3 * noise.normal(size=x.shape), jnp.float32),
        jax.device_get(fresh(net)))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ALL)
def test_shapes_under_jit_and_vmap_over_seeds(method, space):
    net = network(method, space)

    @jax.jit
    def play(keys):
        outputs = jax.vmap(net.apply, (0, None))(jax.lax.map(net.init, keys), observations())
        action = outputs["actor"].sample(seed=jax.random.key(0))
        return outputs, action, outputs["actor"].log_prob(action)

    outputs, action, log_prob = play(jax.random.split(jax.random.key(0), 2))
    acts = outputs["actor"]
    assert isinstance(acts, distrax.Distribution)
    assert acts.batch_shape == (2, M, B)
    assert outputs["critic"].shape == (2, M, B, 1)
    assert action.shape == ((2, M, B) if space == "discrete" else (2, M, B, 2))
    assert bool(jnp.isfinite(log_prob).all())


@pytest.mark.parametrize("method", ALL)
def test_task_leaves_lead_with_tasks_and_their_gradients_stay_apart(method):
    """A loss of task 0 alone reaches the task variables of task 0 and of no other."""
    net = network(method)
    variables = randomised(net)

    def loss(variables):
        outputs = net.apply(variables, observations())
        return outputs["actor"].logits[0].sum() + outputs["critic"][0].sum()

    grads = jax.jit(jax.grad(loss))(variables)
    for leaf in jax.tree.leaves(grads["task"]):
        assert leaf.shape[0] == M
        np.testing.assert_array_equal(leaf[1:], 0)
    own = jax.tree.leaves(grads["task"])
    assert any(np.abs(leaf[0]).max() > 0 for leaf in own) or (method == "one_hot" and not own)


@pytest.mark.parametrize("method", ALL)
def test_mean_weights_are_deterministic(method):
    net, obs = network(method), observations()
    variables = randomised(net)
    np.testing.assert_array_equal(policy(net, variables, obs).logits,
                                  policy(net, variables, obs).logits)
    np.testing.assert_array_equal(critic(net, variables, obs), critic(net, variables, obs))


@pytest.mark.parametrize("method", ALL)
def test_tasks_see_their_own_observations_alone(method):
    net, obs = network(method), observations()
    variables = randomised(net)
    changed = critic(net, variables, obs.at[0].add(1.0))
    before = critic(net, variables, obs)
    assert np.abs(changed[0] - before[0]).max() > 1e-3
    np.testing.assert_array_equal(changed[1:], before[1:])


def sizes():
    """Parameters of a trunk and of the heads of one task's network (D=5, 8, 8 -> 4 and 1)."""
    trunk = 2 * ((D + 1) * 8 + 9 * 8)
    return trunk, 9 * 4 + 9 * 1


@pytest.mark.parametrize("method", ALL)
def test_parameter_counts(method):
    """(active, merged, stored), counted by hand."""
    trunk, heads = sizes()
    plain, context = trunk + heads, 2 * 8 * M  # rows of a one-hot or of an embedding of size M
    router = 2 * (2 * 72 + (8 * 4 + 4) + (4 * 8 + 8) + (8 * 2 + 2))  # g, modules' weights
    modules = 2 * 2 * 2 * 72  # sides × layers × modules, each 8 × 8 and a bias
    # μ and ρ of rank-2 factors of the 8 × 8, 5 × 8 and 8 × 4 kernels, of all else one by one
    lora = 2 * (2 * 2 * (8 + 8) + 2 * 2 * (5 + 8) + 2 * (8 + 4) + 4 * 8 + 4 + 8 + 1)
    scales = 2 * 2 * (2 * 2 * 8 + 4 + 1)  # μ and ρ of s_a and s_b for every unit
    soft = plain + router - 2 * 72 + modules
    expected = {
        "independent": (plain, plain, M * plain),
        "hard_sharing": (plain, plain, trunk + M * heads),
        "feature_sharing": (plain, plain, 2 * 9 * 8 + M * (plain - 2 * 9 * 8)),
        "pcgrad": (plain, plain, trunk + M * heads),
        "cagrad": (plain, plain, trunk + M * heads),
        "l2_soft": (2 * plain, plain, (1 + M) * plain),
        "varshare": (3 * plain, plain, (1 + 2 * M) * plain),
        "one_hot": (plain + context, plain, plain + context),
        "contextual": (plain + context + M, plain, plain + context + M * M),
        "contextual_pcgrad": (plain + context + M, plain, plain + context + M * M),
        "contextual_cagrad": (plain + context + M, plain, plain + context + M * M),
        "varshare_trust_region": (3 * plain, plain, (1 + 2 * M) * plain),
        "varshare_lora": (plain + lora, plain, plain + M * lora),
        "varshare_horseshoe": (3 * plain + scales, plain, plain + M * (2 * plain + scales)),
        "paco": (5 * plain + 5, plain, 5 * plain + M * 5),
        "soft_modularization": (soft + 16, soft + 16, soft + M * 16),
    }
    net = network(method, **{"contextual.size": M})
    counts = net.num_parameters(jax.eval_shape(net.init, jax.random.key(0)))
    assert (counts["active"], counts["merged"], counts["stored"]) == expected[method]


@pytest.mark.parametrize("method", ALL)
def test_merged_parameters_play_alone(method):
    """What `merge` returns is a plain network of each task, whose mean weights act the same."""
    net, obs = network(method), observations()
    variables = randomised(net)

    @jax.jit
    def alone(variables):
        merged = net.merge(variables)
        return [net.module.apply({"params": jax.tree.map(lambda x, m=task: x[m], merged)},
                                 obs[task], ("actor",))["actor"].logits for task in range(M)]

    np.testing.assert_allclose(jnp.stack(alone(variables)), policy(net, variables, obs).logits,
                               rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["hard_sharing", "varshare", "paco", "one_hot"])
def test_gradients_of_copies_sum_to_the_shared_gradient(method):
    """With `shared_axis=0` every task has a copy; its gradient is that task's alone."""
    net, obs = network(method), observations()
    variables = randomised(net)
    apart = dataclasses.replace(net, shared_axis=0)
    copies = jax.tree.map(lambda p: jnp.broadcast_to(p, (M, *p.shape)), variables["shared"])

    def loss(net, shared, tasks):
        return jnp.sum(tasks[:, None] * critic(net, {**variables, "shared": shared}, obs) ** 2)

    every = jnp.ones(M)
    gradient = jax.jit(jax.grad(loss, 1), static_argnums=0)
    of_copies = gradient(apart, copies, every)
    whole = gradient(net, variables["shared"], every)
    second = gradient(net, variables["shared"], jnp.eye(M)[1])
    for copy, total, one in zip(*map(jax.tree.leaves, (of_copies, whole, second)), strict=True):
        np.testing.assert_allclose(copy.sum(0), total, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(copy[1], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["contextual", "one_hot"])
@pytest.mark.parametrize("torso", ["mlp", "bronet"])
def test_context_is_an_input(method, torso):
    """Folding the context into biases equals concatenating it to the observation."""
    net, obs = network(method, **{"network.torso": torso}), observations()
    variables = randomised(net)
    for task in range(M):
        context = (jax.nn.one_hot(task, M) if method == "one_hot"
                   else variables["task"]["embedding"][task])
        told = jnp.concatenate([obs[task], jnp.broadcast_to(context, (B, context.size))], -1)
        plain = net.module.apply({"params": variables["shared"]}, told, ("actor",))["actor"]
        np.testing.assert_allclose(plain.logits, policy(net, variables, obs).logits[task],
                                   rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["contextual", "one_hot"])
def test_context_is_an_input_of_what_values_actions(method):
    """Behind the action and the observation, where folding finds it."""
    net, obs = network(method, "continuous", algorithm="sac"), observations()
    variables, action = randomised(net), jax.random.normal(jax.random.key(9), (M, B, 2))
    for task in range(M):
        context = (jax.nn.one_hot(task, M) if method == "one_hot"
                   else variables["task"]["embedding"][task])
        told = jnp.concatenate([obs[task], jnp.broadcast_to(context, (B, context.size))], -1)
        plain = net.module.apply({"params": variables["shared"]}, told, ("critic_twin",),
                                 action[task])
        np.testing.assert_allclose(
            plain["critic_twin"], net.apply(variables, obs, "critic_twin",
                                            action=action)["critic_twin"][task],
            rtol=1e-5, atol=1e-5)


def test_paco_with_one_hot_coefficients_is_k_networks():
    """w_m = e_m: task m plays base m, a network of its own."""
    paco, independent = network("paco", **{"paco.bases": M}), network("independent")
    bases = randomised(paco)["shared"]
    variables = {"shared": bases, "task": {"coefficients": jnp.eye(M)}}
    for read in (policy, critic):
        a = read(paco, variables, observations())
        b = read(independent, {"shared": {}, "task": bases}, observations())
        for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)


def test_paco_leaves_extreme_tasks_out_and_draws_them_again():
    net = network("paco", **{"paco.loss_threshold": 10.0})
    variables, scalars = fresh(net), {"paco.loss_threshold": jnp.float32(10)}
    losses = jnp.array([1.0, 50.0, -2.0])
    np.testing.assert_array_equal(net.method.weigh(losses, scalars), [1.0, 0.0, -2.0])
    old = variables["task"]["coefficients"]
    new = net.method.after_update(variables, losses, scalars, jax.random.key(1))
    new = new["task"]["coefficients"]
    np.testing.assert_array_equal(new[jnp.array([0, 2])], old[jnp.array([0, 2])])
    share = np.linalg.lstsq(np.stack([old[0], old[2]], 1), np.asarray(new[1]), rcond=None)[0]
    np.testing.assert_allclose(share.sum(), 1.0, rtol=1e-4)
    assert (share > 0).all()
    for everything in (jnp.full(M, 99.0), jnp.full(M, jnp.nan)):
        kept = net.method.after_update(variables, everything, scalars, jax.random.key(1))
        np.testing.assert_array_equal(kept["task"]["coefficients"], old)
        np.testing.assert_array_equal(net.method.weigh(everything, scalars), 0.0)


def test_soft_modularization_with_uniform_routing_is_the_mean_of_modules():
    """With the router's last weights at zero, every layer averages its modules."""
    net, obs = network("soft_modularization"), observations()
    variables = randomised(net)
    side = variables["shared"]["actor"]
    for name in ("router_0", "router_1"):
        side[name] = jax.tree.map(jnp.zeros_like, side[name])
    for task in range(M):
        x = obs[task]
        for layer in ("0", "1"):
            x = jnp.tanh(x @ side["base"][layer]["kernel"] + side["base"][layer]["bias"])
        for layer in range(2):
            modules = [side[f"module_{layer}_{n}"] for n in range(2)]
            x = jnp.tanh(sum(x @ dense["kernel"] + dense["bias"] for dense in modules) / 2)
        head = variables["shared"]["actor_head"]
        logits = x @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(logits - jax.nn.logsumexp(logits, -1, keepdims=True),
                                   policy(net, variables, obs).logits[task], rtol=1e-4, atol=1e-4)


def test_soft_modularization_routes_by_task_and_state():
    net = network("soft_modularization")
    variables = randomised(net)
    obs = jnp.broadcast_to(observations()[0], (M, B, D))
    logits = policy(net, variables, obs).logits
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_l2_soft_tends_to_sharing():
    """Fitting tasks to different targets: the residuals left shrink as 1/λ, towards one network."""
    net, obs = network("l2_soft"), observations()
    targets = jnp.array([-1.0, 0.0, 2.0])[:, None]

    def distance(penalty):
        def loss(variables):
            fit = jnp.mean((critic(net, variables, obs) - targets) ** 2)
            return fit + net.penalty(variables, {}, {"l2_soft.penalty": penalty}, 1)[0].sum()

        @jax.jit
        def fit(variables):
            rate = 0.1 / (1 + penalty)
            return jax.lax.fori_loop(0, 400, lambda _, v: jax.tree.map(
                lambda p, g: p - rate * g, v, jax.grad(loss)(v)), variables)

        after = fit(fresh(net))
        return np.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(after["task"])))

    free, tied, tight = (distance(penalty) for penalty in (0.0, 10.0, 1000.0))
    assert free > 10 * tied > 100 * tight


def test_zero_residuals_are_one_shared_network():
    """VarShare with μ = 0 and L2-soft with φ = 0: every task plays θ, so tasks agree."""
    obs = jnp.broadcast_to(observations()[0], (M, B, D))
    for method in ("varshare", "l2_soft"):
        net = network(method)
        logits = policy(net, fresh(net), obs).logits
        np.testing.assert_allclose(logits, np.broadcast_to(logits[0], logits.shape), atol=1e-6)


def test_varshare_drawn_is_l2_soft_with_that_residual():
    """Sampling turns VarShare's variables into a tree that plays exactly like L2-soft."""
    varshare, l2_soft = network("varshare"), network("l2_soft")
    variables = randomised(varshare)
    drawn = varshare.sample(variables, jax.random.key(5))
    assert not any(map(is_gaussian, jax.tree.leaves(drawn, is_leaf=is_gaussian)))
    np.testing.assert_array_equal(policy(varshare, drawn, observations()).logits,
                                  policy(l2_soft, drawn, observations()).logits)


def test_varshare_without_noise_samples_its_mean():
    net = network("varshare", **{"varshare.sigma_init": 1e-12})
    variables = fresh(net)
    drawn = net.sample(variables, jax.random.key(5))
    np.testing.assert_allclose(critic(net, drawn, observations()),
                               critic(net, variables, observations()), atol=1e-5)


def test_varshare_draws_differ_between_tasks_and_keys():
    net = network("varshare")
    variables = fresh(net)
    first, second = (net.sample(variables, jax.random.key(k))["task"]["actor"]["0"]["kernel"]
                     for k in (1, 2))
    assert np.abs(first[0] - first[1]).max() > 1e-3
    assert np.abs(first - second).max() > 1e-3


def test_shared_gradient_is_the_sum_over_tasks_of_the_residuals():
    """∂RL/∂θ = Σ_m ∂RL/∂μ_m, and ∂KL/∂θ = 0."""
    net, obs = network("varshare"), observations()
    variables = randomised(net)
    grads = jax.jit(jax.grad(lambda v: jnp.sum(critic(net, v, obs) ** 2)))(variables)
    residuals = jax.tree.leaves(grads["task"], is_leaf=is_gaussian)
    for g, residual in zip(jax.tree.leaves(grads["shared"]), residuals, strict=True):
        np.testing.assert_allclose(g, residual.mean.sum(0), rtol=2e-4, atol=2e-4)
    scalars = {k: jnp.float32(v) for k, v in net.method.config.scalars().items()}
    _, memory = net.method.init_memory(variables["task"], scalars)
    kl_grads = jax.jit(jax.grad(
        lambda v: net.penalty(v, memory, scalars, SAMPLES)[0].sum()))(variables)
    assert all(not g.any() for g in jax.tree.leaves(kl_grads["shared"]))


def test_varshare_penalty_is_beta_kl_over_samples():
    """By hand: every parameter at N(0, sigma_init²) under N(0, σ_prior²)."""
    net = network("varshare", **{"varshare.beta": 3.0, "varshare.sigma_prior": 0.2,
                                 "varshare.sigma_init": 0.05})
    config = net.method.config
    scalars = {k: jnp.float32(v) for k, v in config.scalars().items()}
    variables = fresh(net)
    _, memory = net.method.init_memory(variables["task"], scalars)
    cost, metrics = net.penalty(variables, memory, scalars, SAMPLES)
    each = np.log(0.2 / 0.05) + 0.05**2 / (2 * 0.2**2) - 0.5
    size = sum(sizes())
    np.testing.assert_allclose(metrics["kl"], each * size, rtol=1e-4)
    np.testing.assert_allclose(cost, 3.0 * each * size / SAMPLES, rtol=1e-4)
    layers = sum(v for k, v in metrics.items() if k.startswith("kl/"))
    np.testing.assert_allclose(layers, metrics["kl"], rtol=1e-5)
    assert all(not v.any() for k, v in metrics.items() if k.startswith("shift/")), "μ is 0"


def test_l2_soft_penalty_is_the_squared_norm():
    net = network("l2_soft", **{"l2_soft.penalty": 0.5})
    variables = randomised(net)
    scalars = {"l2_soft.penalty": jnp.float32(0.5)}
    cost, metrics = net.penalty(variables, {}, scalars, SAMPLES)
    norm = sum(np.sum(np.square(x), tuple(range(1, x.ndim)))
               for x in jax.tree.leaves(variables["task"]))
    np.testing.assert_allclose(metrics["l2"], norm, rtol=1e-5)
    np.testing.assert_allclose(cost, 0.5 * norm, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["shared", "flipout", "local"])
def test_estimators_reach_every_posterior_parameter(estimator):
    """Kernels and biases, actor and critic: each ρ has a gradient from the loss's noise."""
    net = network("varshare", "continuous", **{"varshare.estimator": estimator})
    variables = randomised(net)

    def loss(variables):
        noise = jax.random.key(3) if net.method.draws.per_example else None
        learning = variables if noise is not None else net.sample(variables, jax.random.key(3))
        outputs = net.apply(learning, observations(), noise=noise)
        return (jnp.sum(outputs["actor"].log_prob(jnp.ones((M, B, 2))))
                + jnp.sum(outputs["critic"]**2))

    for q in jax.tree.leaves(jax.jit(jax.grad(loss))(variables)["task"], is_leaf=is_gaussian):
        assert isinstance(q, Gaussian)
        assert np.abs(q.mean).max() > 0
        assert np.abs(q.rho).max() > 0


def test_task_vectors_are_what_tasks_do_to_the_shared_weights():
    def size(method):
        net = network(method)
        shapes = jax.eval_shape(lambda key: net.task_vectors(net.init(key)), jax.random.key(0))
        return shapes.shape

    trunks = 2 * ((D * 8 + 8) + (8 * 8 + 8))
    heads = (8 * 4 + 4) + (8 + 1)
    assert size("independent") == (M, 0)
    assert size("hard_sharing") == (M, heads)
    assert size("l2_soft") == size("varshare") == (M, trunks)


def test_task_vectors_hold_the_means_of_their_own_task():
    net = network("varshare", "continuous")
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape),
                             jax.eval_shape(net.init, jax.random.key(0)))
    q = Gaussian(jnp.zeros((M, 8)).at[1].set(5.0), jnp.full((M, 8), 9.0))
    variables["task"]["actor"]["0"]["bias"] = q
    vectors = net.task_vectors(variables)
    assert (vectors == 5.0).sum(axis=1).tolist() == [0, 8, 0]
    assert not (vectors == 9.0).any()
