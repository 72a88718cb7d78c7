"""What a critic's outputs mean: values, and the error that training minimises."""

import dataclasses

import jax
import jax.numpy as jnp

from varshare_jax.networks.settings import NetworkConfig


@dataclasses.dataclass(frozen=True)
class ScalarCritic:
    """One output, the value itself; half the squared error, clipped as PPO's policy is."""

    outputs: int = 1

    def value(self, output: jax.Array) -> jax.Array:
        """[..., 1] -> [...]."""
        return output[..., 0]

    def error(self, output: jax.Array, target: jax.Array, old: jax.Array,
              clip: jax.Array | None) -> jax.Array:
        """Error per sample [...]; `old` is the value before the update, `clip` None for none."""
        value = self.value(output)
        error = jnp.square(value - target)
        if clip is not None:
            clipped = old + jnp.clip(value - old, -clip, clip)
            error = jnp.maximum(error, jnp.square(clipped - target))
        return 0.5 * error


@dataclasses.dataclass(frozen=True)
class CategoricalCritic:
    """Logits over equally spaced values in [-bound, bound]; cross-entropy with two-hot targets.

    Farebrother et al. 2024, "Stop Regressing", arXiv 2403.03950, section 3.1.
    """

    outputs: int
    bound: float

    @property
    def atoms(self) -> jax.Array:
        """The support, [A]."""
        return jnp.linspace(-self.bound, self.bound, self.outputs)

    def value(self, output: jax.Array) -> jax.Array:
        """The mean of the distribution: [..., A] -> [...]."""
        return jax.nn.softmax(output) @ self.atoms

    def project(self, target: jax.Array) -> jax.Array:
        """Two-hot probabilities whose mean is `target`, clipped: [...] -> [..., A]."""
        position = (jnp.clip(target / self.bound, -1, 1) + 1) / 2 * (self.outputs - 1)
        distance = jnp.abs(position[..., None] - jnp.arange(self.outputs))
        return jnp.maximum(0.0, 1.0 - distance)

    def error(self, output: jax.Array, target: jax.Array, old: jax.Array,
              clip: jax.Array | None) -> jax.Array:
        """Cross-entropy per sample [...]; there is nothing to clip in it."""
        return -jnp.sum(self.project(target) * jax.nn.log_softmax(output), -1)


def make_critic(settings: NetworkConfig) -> ScalarCritic | CategoricalCritic:
    """The critic that the settings ask for."""
    if settings.critic == "categorical":
        return CategoricalCritic(settings.atoms, settings.value_bound)
    return ScalarCritic()
