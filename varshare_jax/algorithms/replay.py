"""Replay of every task's newest steps: a ring in time for each env, as pure functions.

Steps lie as they were taken, leaves [M, N, L, ...], so n-step returns are formed when they are
sampled. `insert` and `sample` trace; under jit with the replay donated, or carried by a loop,
`insert` writes in place.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Experience(NamedTuple):
    """One step of acting; `final_obs` is what followed the action, before any reset."""

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_obs: jax.Array


class Replay(struct.PyTreeNode):
    """The last L steps of every env.

    `steps`: leaves [M, N, L, ...]. `position` [M]: where the next step goes; the oldest is there
    once the ring is full. `filled` [M]: how many steps of each env there are. Both are the same
    for all tasks, and have a task axis so that a replay is split over devices like its steps.
    """

    steps: Experience
    position: jax.Array
    filled: jax.Array


class Batch(NamedTuple):
    """Sampled n-step transitions, leaves [M, B, ...].

    The target of Q(`obs`, `action`) is `reward` + `discount` · V(`final_obs`): `reward` is the
    discounted sum over the steps included, `final_obs` follows the last of them, and `discount`
    is γ to their number, or 0 where the last one terminated.
    """

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    final_obs: jax.Array


def create(example: Experience, num_tasks: int, num_envs: int, length: int) -> Replay:
    """An empty replay for `length` steps of each env; `example` is one step of one env."""
    shape = num_tasks, num_envs, length
    steps = jax.tree.map(lambda x: jnp.zeros(shape + x.shape, x.dtype), example)
    return Replay(steps, jnp.zeros(num_tasks, jnp.int32), jnp.zeros(num_tasks, jnp.int32))


def num_bytes(example: Experience, num_tasks: int, num_envs: int, length: int) -> int:
    """The memory that `create` would take."""
    step = sum(math.prod(x.shape) * x.dtype.itemsize for x in example)
    return num_tasks * (num_envs * length * step + 2 * jnp.int32.dtype.itemsize)


def size(replay: Replay) -> jax.Array:
    """Transitions stored of each task, [M]."""
    return replay.filled * replay.steps.reward.shape[1]


def insert(replay: Replay, rollout: Experience) -> Replay:
    """Writes a rollout, leaves [T, M, N, ...] with T ≤ L, over the oldest steps."""
    new, length = rollout.reward.shape[0], replay.steps.reward.shape[2]
    if new > length:
        raise ValueError(f"a rollout of {new} steps does not fit a replay of {length}")
    slots = (replay.position[:, None] + jnp.arange(new)) % length

    def write(stored, slots, steps):
        return stored.at[:, slots].set(steps, mode="promise_in_bounds", unique_indices=True)

    steps = jax.tree.map(lambda stored, x: jax.vmap(write)(stored, slots,
                                                           jnp.moveaxis(x, 0, 2)),
                         replay.steps, rollout)
    return Replay(steps, (replay.position + new) % length,
                  jnp.minimum(replay.filled + new, length))


def sample(replay: Replay, key: jax.Array, batch: int, n_step: int,
           discount: jax.Array | float) -> Batch:
    """`batch` transitions of every task, with replacement, each stored step as likely to be first.

    At most `n_step` consecutive steps of an env are included: fewer where an episode terminates
    or is truncated, or where the newest step is reached. The replay must not be empty.
    """
    steps, filled = replay.steps, replay.filled[:, None]
    num_tasks, num_envs, length = steps.reward.shape
    drawn = jax.random.randint(key, (num_tasks, batch), 0, num_envs * filled)
    env, age = drawn // filled, drawn % filled  # 0 is the oldest step
    ages = age[..., None] + jnp.arange(n_step)
    oldest = (replay.position[:, None] - filled)[..., None]
    slots = env[..., None] * length + (oldest + ages) % length  # [M, B, n]

    ended = _take(steps.terminated, slots) | _take(steps.truncated, slots)
    ended_before = jnp.cumsum(ended, -1) - ended > 0
    included = (ages < filled[..., None]) & ~ended_before
    count = included.sum(-1)
    reward = jnp.where(included, _take(steps.reward, slots), 0.0) @ discount ** jnp.arange(n_step)
    first = slots[..., 0]
    last = jnp.take_along_axis(slots, count[..., None] - 1, -1)[..., 0]
    return Batch(_take(steps.obs, first), _take(steps.action, first), reward,
                 jnp.where(_take(steps.terminated, last), 0.0, discount ** count),
                 _take(steps.final_obs, last))


def _take(stored: jax.Array, slots: jax.Array) -> jax.Array:
    """Entries of [M, N, L, ...] at `slots` [M, ...], which count through N · L."""
    flat = stored.reshape(stored.shape[0], -1, *stored.shape[3:])
    return jax.vmap(lambda x, i: x.at[i].get(mode="promise_in_bounds"))(flat, slots)
