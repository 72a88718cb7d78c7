"""What uniformly random actions earn: the zero of a suite's normalised scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.base import Suite
from varshare_jax.types import Discrete


def random_returns(suite: Suite, key: jax.Array, episodes: int) -> tuple[float, ...]:
    """Mean returns [M] of uniformly random actions over whole episodes, to a tenth.

    For suites of discrete actions, of which each task takes its own. A task's episodes depend on
    its index and not on the number of tasks.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(suite.num_tasks))
    returns = _play(suite, keys, episodes)
    return tuple(round(float(x), 1) for x in np.asarray(returns, np.float64).mean(1))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _play(suite: Suite, keys: jax.Array, episodes: int) -> jax.Array:
    """keys [M] -> returns [M, E] of one episode each."""

    assert isinstance(suite.action_space, Discrete)
    actions = jnp.array(suite.action_sizes)

    def draw(key, actions):
        action_key, step_key = jax.random.split(key)
        return (jax.random.randint(action_key, (episodes,), 0, actions),
                jax.random.split(step_key, episodes))

    def unfinished(carry):
        _, _, done, t = carry
        return jnp.any(~done) & (t < suite.horizon)

    def step(carry):
        state, total, done, t = carry
        action, step_keys = jax.vmap(draw)(_fold(keys, t), actions)
        state, out = suite.step(step_keys, state, action)
        return (state, total + jnp.where(done, 0.0, out.reward),
                done | out.terminated | out.truncated, t + 1)

    reset_keys = jax.vmap(lambda key: jax.random.split(key, episodes))(_fold(keys, suite.horizon))
    state, _ = suite.reset(reset_keys)
    shape = reset_keys.shape
    start = state, jnp.zeros(shape), jnp.zeros(shape, bool), 0
    return jax.lax.while_loop(unfinished, step, start)[1]


def _fold(keys: jax.Array, step: jax.Array | int) -> jax.Array:
    """Keys [M] of a step, 0 … horizon - 1, or of the reset, horizon."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, step)
