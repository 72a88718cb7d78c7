"""PopArt: critics predict standardised returns, and statistics move without changing values.

van Hasselt et al. 2016, "Learning values across many orders of magnitude", arXiv 1602.07714;
per task: Hessel et al. 2018, "Multi-task Deep RL with PopArt", arXiv 1809.04474.
The layer that they rescale is the critic's last. Here it is one more scale and shift per task
behind it, so that methods whose last layer is shared by all tasks can use PopArt as well.
"""

import jax
import jax.numpy as jnp
from flax import struct

from varshare_jax.types import lead


class ValueStats(struct.PyTreeNode):
    """Moving mean and mean square of each task's value targets, [M]."""

    mean: jax.Array
    square: jax.Array

    @property
    def std(self) -> jax.Array:
        return jnp.sqrt(jnp.maximum(self.square - jnp.square(self.mean), 1e-8))

    def standardize(self, x: jax.Array) -> jax.Array:
        """[M, ...] in units of return -> standardised."""
        return (x - lead(self.mean, x)) / lead(self.std, x)

    def restore(self, x: jax.Array) -> jax.Array:
        """Inverse of `standardize`."""
        return x * lead(self.std, x) + lead(self.mean, x)


def initial_value_stats(num_tasks: int) -> ValueStats:
    """Mean 0 and deviation 1: standardising changes nothing."""
    return ValueStats(jnp.zeros(num_tasks), jnp.ones(num_tasks))


def initial_layer(num_tasks: int) -> dict[str, jax.Array]:
    """The scale and shift of each task, [M], doing nothing at first."""
    return {"scale": jnp.ones(num_tasks), "shift": jnp.zeros(num_tasks)}


def apply_layer(layer: dict[str, jax.Array], output: jax.Array) -> jax.Array:
    """Critic outputs [M, ...] -> standardised values [M, ...]."""
    return output * lead(layer["scale"], output) + lead(layer["shift"], output)


def follow(stats: ValueStats, layer: dict[str, jax.Array], targets: jax.Array,
           rate: jax.Array) -> tuple[ValueStats, dict[str, jax.Array]]:
    """Moves the statistics towards `targets` [M, ...] and the layer so that no value changes."""
    def moved(old, sample):
        return old + rate * (sample.reshape(old.size, -1).mean(1) - old)

    new = ValueStats(moved(stats.mean, targets), moved(stats.square, jnp.square(targets)))
    return new, {"scale": layer["scale"] * stats.std / new.std,
                 "shift": (stats.std * layer["shift"] + stats.mean - new.mean) / new.std}
