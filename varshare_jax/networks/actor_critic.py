"""Actor and critic of one task."""

from collections.abc import Callable

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from varshare_jax.config import NetworkConfig
from varshare_jax.networks.critics import CategoricalCritic, ScalarCritic
from varshare_jax.networks.layers import Dense, parameter, per_example
from varshare_jax.types import Continuous, Discrete

HEADS = ("actor_head", "critic_head", "log_std")
"""Parameters that turn features into outputs; the rest belongs to torsos."""

TORSO_NAMES = ("trunk", "actor", "critic")


def make_critic(settings: NetworkConfig) -> ScalarCritic | CategoricalCritic:
    """The critic that the settings ask for."""
    if settings.critic == "categorical":
        return CategoricalCritic(settings.atoms, settings.value_bound)
    return ScalarCritic()


class ActorCritic(nn.Module):
    """Policy and critic of one task, on torsos of their own or on one `trunk`.

    Outputs are orthogonal with gain 0.01 (policy) and 1 (critic), hidden layers √2, as in
    Andrychowicz et al. 2021, "What Matters in On-Policy Reinforcement Learning", section 3.
    """

    action_space: Discrete | Continuous
    settings: NetworkConfig
    torso: Callable[[], nn.Module]
    estimator: str = "flipout"

    def setup(self) -> None:
        outputs = make_critic(self.settings).outputs
        self.actor_head = Dense(self.action_space.outputs, 0.01, self.estimator)
        self.critic_head = Dense(outputs, 1.0, self.estimator)
        if self._one_trunk:
            self.trunk = self.torso()
        else:
            self.actor, self.critic = self.torso(), self.torso()
        if isinstance(self.action_space, Continuous):
            init = nn.initializers.constant(self.settings.initial_log_std)
            self.log_std = parameter(self, "log_std", init, (self.action_space.size,))

    def __call__(self, obs: jax.Array) -> tuple[distrax.Distribution, jax.Array]:
        """[..., D] -> action distribution over [...], critic outputs [..., A]."""
        features = self._features("actor", obs)
        of_critic = features if self._one_trunk else self._features("critic", obs)
        return self._distribution(features), self.critic_head(of_critic)

    def policy(self, obs: jax.Array) -> distrax.Distribution:
        """[..., D] -> distribution with batch shape [...]."""
        return self._distribution(self._features("actor", obs))

    def critic_outputs(self, obs: jax.Array) -> jax.Array:
        """[..., D] -> [..., A]."""
        return self.critic_head(self._features("critic", obs))

    @property
    def _one_trunk(self) -> bool:
        return self.settings.trunk == "shared"

    def _features(self, side: str, obs: jax.Array) -> jax.Array:
        return getattr(self, "trunk" if self._one_trunk else side)(obs)

    def _distribution(self, features: jax.Array) -> distrax.Distribution:
        outputs = self.actor_head(features)
        if isinstance(self.action_space, Discrete):
            return distrax.Categorical(logits=outputs)
        scale = jnp.exp(per_example(self, self.log_std, outputs.shape))
        return distrax.Independent(
            distrax.Normal(outputs, jnp.broadcast_to(scale, outputs.shape)), 1)
