"""Actor and critic of one task with separate trunks."""

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from varshare_jax.networks.layers import Dense, Parametrization
from varshare_jax.types import Continuous, Discrete
from varshare_jax.variational.gaussian import Gaussian

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "silu": nn.silu, "gelu": nn.gelu}


class ActorCritic(nn.Module):
    """Policy and value of one task.

    Outputs are orthogonal with gain 0.01 (policy) and 1 (value), hidden layers √2, as in
    Andrychowicz et al. 2021, "What Matters in On-Policy Reinforcement Learning", section 3.
    """

    action_space: Discrete | Continuous
    parametrize: Parametrization
    hidden: tuple[int, ...]
    activation: str
    initial_log_std: float

    def setup(self) -> None:
        self.actor = [Dense(width, self.parametrize) for width in self.hidden]
        self.actor_head = Dense(self.action_space.outputs, self.parametrize, 0.01, head=True)
        self.critic = [Dense(width, self.parametrize) for width in self.hidden]
        self.critic_head = Dense(1, self.parametrize, 1.0, head=True)
        if isinstance(self.action_space, Continuous):
            init = nn.initializers.constant(self.initial_log_std)
            shape = (self.action_space.size,)
            self.log_std = self.parametrize(self, "log_std", init, shape, True)

    def __call__(self, obs: jax.Array) -> tuple[distrax.Distribution, jax.Array]:
        """[..., D] -> action distribution over [...], value [...]."""
        return self.policy(obs), self.value(obs)

    def policy(self, obs: jax.Array) -> distrax.Distribution:
        """[..., D] -> distribution with batch shape [...]."""
        outputs = self.actor_head(self._trunk(self.actor, obs))
        if isinstance(self.action_space, Discrete):
            return distrax.Categorical(logits=outputs)
        scale = jnp.exp(self._log_std(outputs.shape))
        return distrax.Independent(distrax.Normal(outputs, scale), 1)

    def value(self, obs: jax.Array) -> jax.Array:
        """[..., D] -> [...]."""
        return self.critic_head(self._trunk(self.critic, obs))[..., 0]

    def _log_std(self, shape: tuple[int, ...]) -> jax.Array:
        if not isinstance(self.log_std, Gaussian):
            return jnp.broadcast_to(self.log_std, shape)
        log_std = jnp.broadcast_to(self.log_std.mean, shape)
        if self.has_rng("noise"):
            log_std += self.log_std.std * jax.random.normal(self.make_rng("noise"), shape)
        return log_std

    def _trunk(self, layers: list[Dense], x: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        for layer in layers:
            x = activation(layer(x))
        return x
