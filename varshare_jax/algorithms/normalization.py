"""Running per-task statistics, as in gym's NormalizeObservation/NormalizeReward wrappers."""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from varshare_jax.types import lead


class RunningStats(struct.PyTreeNode):
    """Mean and variance [M, ...] of all samples so far, and their count [M]."""

    mean: jax.Array
    var: jax.Array
    count: jax.Array

    @property
    def std(self) -> jax.Array:
        return jnp.sqrt(self.var + 1e-8)


def initial_stats(num_tasks: int, *shape: int) -> RunningStats:
    """Mean 0, variance 1, no samples: normalising with it changes nothing."""
    return RunningStats(jnp.zeros((num_tasks, *shape)), jnp.ones((num_tasks, *shape)),
                        jnp.zeros(num_tasks))


def update_stats(stats: RunningStats, samples: jax.Array) -> RunningStats:
    """Merges samples [T, M, N, ...] (Chan et al. 1983, the parallel variance formula)."""
    chex.assert_equal(samples.ndim, stats.mean.ndim + 2)
    new_count = samples.shape[0] * samples.shape[2]
    mean = samples.mean((0, 2))
    var = samples.var((0, 2))
    count = stats.count.reshape(stats.count.shape + (1,) * (mean.ndim - 1))
    total = count + new_count
    delta = mean - stats.mean
    merged = (stats.var * count + var * new_count
              + jnp.square(delta) * count * new_count / total) / total
    return RunningStats(stats.mean + delta * new_count / total, merged,
                        stats.count + new_count)


def with_pooled(stats: RunningStats, learns: jax.Array, count: float) -> RunningStats:
    """`stats` in which tasks that do not learn have those of all that do, taken together.

    `learns` is [M]; each of these tasks counts as much as any other. `count` is that of the result.
    """
    mask = lead(learns, stats.mean)
    mean = jnp.mean(stats.mean, 0, where=mask, keepdims=True)
    square = jnp.mean(stats.var + jnp.square(stats.mean - mean), 0, where=mask, keepdims=True)
    return RunningStats(jnp.where(mask, stats.mean, mean), jnp.where(mask, stats.var, square),
                        jnp.where(learns, stats.count, count))


def normalize(stats: RunningStats, x: jax.Array, clip: float = 10.0) -> jax.Array:
    """Standardises observations [M, ..., D] with per-task statistics [M, D], clipped."""
    between = (1,) * (x.ndim - stats.mean.ndim)
    shape = (stats.mean.shape[0], *between, *stats.mean.shape[1:])
    return jnp.clip((x - stats.mean.reshape(shape)) / stats.std.reshape(shape), -clip, clip)
