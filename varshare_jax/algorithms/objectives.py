"""The losses of the algorithms, as functions of arrays that lead with the axis of tasks, [M, ...].

What is defined for a sample has a value for each sample, [M, ...]; what is defined for a set of
samples (V-MPO's weights are a softmax over them) has one for each task, [M].

V-MPO: Song et al. 2020, "V-MPO: On-Policy Maximum a Posteriori Policy Optimization for Discrete
and Continuous Control", arXiv 1909.12238. Its losses of the policy, the temperature and the KL
add up; each task has duals of its own.
"""

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import optax

from varshare_jax.types import lead

_SMALLEST_DUAL = 1e-8  # η divides advantages


def dual(parameter: jax.Array) -> jax.Array:
    """The Lagrange multiplier of an unconstrained parameter: softplus(parameter) + 1e-8 > 0."""
    return jax.nn.softplus(parameter) + _SMALLEST_DUAL


def dual_parameter(multiplier: jax.Array | float) -> jax.Array:
    """The parameter whose `dual` is `multiplier`, which must be above 1e-8."""
    multiplier = jnp.asarray(multiplier) - _SMALLEST_DUAL
    return multiplier + jnp.log(-jnp.expm1(-multiplier))


def top_half(advantage: jax.Array) -> jax.Array:
    """Each task's samples with the larger advantages: [M, ...] -> mask of the same shape.

    Of K samples these are the ⌊K/2⌋ largest (of one, the one), and whatever equals the smallest
    of them: the choice does not depend on the order of samples.
    """
    flat = advantage.reshape(advantage.shape[0], -1)
    smallest = _kth_largest(flat, max(1, flat.shape[1] // 2))
    return advantage >= lead(smallest, advantage)


def vmpo_policy_loss(log_prob: jax.Array, advantage: jax.Array, selected: jax.Array,
                     temperature: jax.Array) -> jax.Array:
    """V-MPO's weighted maximum likelihood, [M, ...] -> [M].

    −Σ ψ log π(a|s), where ψ = softmax(A / η) over the `selected` of the advantages A, their
    `top_half`. `temperature` η is [M]. ψ is a constant: only `log_prob` is differentiated.
    """
    scaled = jnp.where(selected, advantage / lead(temperature, advantage), -jnp.inf)
    weights = jax.nn.softmax(scaled, axis=_samples(scaled))
    return -jnp.sum(jax.lax.stop_gradient(weights) * log_prob, axis=_samples(scaled))


def vmpo_temperature_loss(advantage: jax.Array, selected: jax.Array, temperature: jax.Array,
                          epsilon: jax.Array | float) -> jax.Array:
    """V-MPO's dual of the temperature, [M, ...] -> [M].

    η ε + η log(1/|D| Σ exp(A / η)), the sum over D, the `selected`. It is convex in η [M]; at
    its minimum KL(ψ ‖ uniform over D) is ε.
    """
    scaled = advantage / lead(temperature, advantage)
    log_sum = jax.nn.logsumexp(scaled, axis=_samples(scaled), where=selected)
    log_mean = log_sum - jnp.log(selected.sum(_samples(selected)))
    return temperature * (epsilon + log_mean)


def mpo_weights(q: jax.Array, log_prior: jax.Array,
                temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """MPO's E-step, [M, ..., K] -> weights of K actions [M, ..., K], and their KL [M, ...].

    ψ = p exp(Q / η) / Σ p exp(Q / η), where p = exp(`log_prior`) are the target policy's
    probabilities of all actions, or 1/K each of K that were drawn from it; η is [M]. With KL(ψ ‖ p)
    ε − KL is the slope in η of the temperature's dual, η ε + η log Σ p exp(Q / η)
    (Abdolmaleki et al. 2018, "Maximum a Posteriori Policy Optimisation", arXiv 1806.06920,
    equation 9). Both are constants.
    """
    scaled = jax.lax.stop_gradient(q / lead(temperature, q))
    log_prior = jax.lax.stop_gradient(log_prior)
    log_weights = jax.nn.log_softmax(log_prior + scaled)
    weights = jnp.exp(log_weights)
    return weights, (weights * (log_weights - log_prior)).sum(-1)


def kl_penalty(kl: jax.Array, multiplier: jax.Array, epsilon: jax.Array | float) -> jax.Array:
    """A bound on a KL as a Lagrangian, [M, ...] -> [M, ...].

    α (ε − sg[KL]) + sg[α] KL, where sg stops the gradient: descending it moves the policy
    against α times the KL, and α [M] up where the KL is above ε.
    """
    multiplier, hold = lead(multiplier, kl), jax.lax.stop_gradient
    return multiplier * (epsilon - hold(kl)) + hold(multiplier) * kl


def kl_parts(target: distrax.Distribution, policy: distrax.Distribution) -> dict[str, jax.Array]:
    """What bounds a policy's distance from its target: KLs of batch shape by name.

    Discrete actions: `policy`, KL(target ‖ policy). Gaussians: `mean` and `covariance`
    (`gaussian_kl_parts`), which have multipliers of their own; squashing them changes no KL.
    """
    if isinstance(policy, distrax.Categorical):
        return {"policy": target.kl_divergence(policy)}
    old, new = target.distribution, policy.distribution
    mean, covariance = gaussian_kl_parts(old.loc, old.scale, new.loc, new.scale)
    return {"mean": mean, "covariance": covariance}


def gaussian_kl_parts(target_mean: jax.Array, target_std: jax.Array, mean: jax.Array,
                      std: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The decoupled KL of diagonal Gaussians, [..., D] -> two of [...].

    (μₜ − μ)ᵀ Σₜ⁻¹ (μₜ − μ) / 2 = KL(N(μₜ, Σₜ) ‖ N(μ, Σₜ)), and
    (tr(Σ⁻¹ Σₜ) − D + log |Σ| / |Σₜ|) / 2 = KL(N(μₜ, Σₜ) ‖ N(μₜ, Σ)):
    Abdolmaleki et al. 2018, "Relative Entropy Regularized Policy Iteration", arXiv 1812.02256.
    The first has no gradient to σ, the second none to μ.
    """
    of_mean = jnp.square((target_mean - mean) / target_std).sum(-1) / 2
    ratio = jnp.square(target_std / std)
    return of_mean, (ratio - 1 - jnp.log(ratio)).sum(-1) / 2


def q_target(reward: jax.Array, discount: jax.Array, target_q: jax.Array,
             online_q: jax.Array | None = None) -> jax.Array:
    """Targets of Q-learning, [M, ...]; Q values of the observation reached are [M, ..., A].

    r + γ max Q⁻(s′, ·), where Q⁻ is the target network (Mnih et al. 2015); with `online_q`
    r + γ Q⁻(s′, argmax Q(s′, ·)), double Q-learning (van Hasselt et al. 2016, arXiv 1509.06461).
    For n steps `reward` is Σ γᵏ rₖ and `discount` γⁿ, or 0 after a termination, as
    `replay.sample` returns them. Targets are constants.
    """
    choice = target_q if online_q is None else online_q
    value = action_value(target_q, choice.argmax(-1))
    return jax.lax.stop_gradient(reward + discount * value)


def smoothed(action: jax.Array, noise: jax.Array, std: jax.Array | float,
             bound: jax.Array | float) -> jax.Array:
    """Actions in [-1, 1] with Gaussian noise of that deviation, itself clipped to ±`bound`.

    TD3's target policy smoothing (Fujimoto et al. 2018, arXiv 1802.09477, equation 14); `noise` is
    standard normal, all [..., A].
    """
    return jnp.clip(action + jnp.clip(std * noise, -bound, bound), -1.0, 1.0)


def soft_value(probability: jax.Array, log_probability: jax.Array, q: jax.Array,
               temperature: jax.Array) -> jax.Array:
    """Σ_a π(a|s) (Q(s, a) − α log π(a|s)), [M, ..., A] -> [M, ...]; α [M].

    What soft actor-critic values a state by, exactly (Christodoulou 2019, arXiv 1910.07207).
    """
    return (probability * (q - lead(temperature, q) * log_probability)).sum(-1)


def temperature_slope(entropy: jax.Array, target: jax.Array | float) -> jax.Array:
    """Derivative by log α of log α (H − H̄): the temperature falls where the policy's entropy H is
    above its target H̄.

    Haarnoja et al. 2018, arXiv 1812.05905, equation 18, divided by α, so that steps of log α do not
    depend on α.
    """
    return entropy - target


def polyak(target: Any, online: Any, share: jax.Array | float) -> Any:
    """A slower copy of a tree, moved by that share towards it."""
    return jax.tree.map(lambda old, new: old + share * (new - old), target, online)


def action_value(q: jax.Array, action: jax.Array) -> jax.Array:
    """Q(s, a): [..., A] and [...] -> [...]."""
    return jnp.take_along_axis(q, action[..., None], axis=-1)[..., 0]


def q_loss(q: jax.Array, action: jax.Array, target: jax.Array) -> jax.Array:
    """Huber's loss of the TD error δ, [M, ..., A] -> [M, ...]: δ²/2, from |δ| = 1 on |δ| − ½."""
    return optax.losses.huber_loss(action_value(q, action), target)


def _kth_largest(x: jax.Array, k: int) -> jax.Array:
    """The k-th largest of every row, [M, K] -> [M], without XLA's slow sort on CPUs.

    Unsigned integers can be made of floats that have their order; the one sought is found from
    its highest bit down, by counting what is not below.
    """
    bits, sign = jax.lax.bitcast_convert_type(x, jnp.uint32), jnp.uint32(1 << 31)
    ordered = jnp.where(bits < sign, bits | sign, ~bits)

    def settle(step, found):
        candidate = found | (sign >> step.astype(jnp.uint32))
        return jnp.where(jnp.sum(ordered >= candidate[:, None], 1) >= k, candidate, found)

    found = jax.lax.fori_loop(0, 32, settle, jnp.zeros(x.shape[0], jnp.uint32))
    return jax.lax.bitcast_convert_type(jnp.where(found < sign, ~found, found ^ sign), jnp.float32)


def _samples(x: jax.Array) -> tuple[int, ...]:
    """All axes but that of tasks."""
    return tuple(range(1, x.ndim))
