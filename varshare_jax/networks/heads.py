"""Heads: what a network's features become."""

import dataclasses
from typing import Any, ClassVar, Protocol

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from varshare_jax.networks.critics import CategoricalCritic, ScalarCritic
from varshare_jax.networks.layers import parameter, per_example
from varshare_jax.networks.squashed import SquashedNormal
from varshare_jax.types import Continuous, Discrete

ALLOWED = "allowed"
"""Among a network's outputs where tasks have unlike actions: which the task has, [..., A]."""
NEVER = -1e9
"""Logit and value of an action that its task does not have: finite, so that 0 · NEVER is 0."""
LOG_STD = "log_std"
LOG_STD_RANGE = -10.0, 2.0
"""Where the logarithms of state-dependent deviations are clipped."""


class Head(Protocol):
    """A linear layer of `outputs` and orthogonal `gain`, and what its outputs mean."""

    @property
    def outputs(self) -> int: ...

    @property
    def gain(self) -> float: ...

    def setup(self, module: nn.Module) -> None:
        """Adds parameters beyond the linear layer's to `module`."""

    def read(self, module: nn.Module, outputs: jax.Array) -> Any:
        """The linear layer's outputs [..., A] as losses and policies read them."""


@dataclasses.dataclass(frozen=True)
class PolicyHead:
    """A distribution over actions; Gaussians have one standard deviation for each action."""

    action_space: Discrete | Continuous
    initial_log_std: float
    gain: float = 0.01

    @property
    def chooses(self) -> bool:
        return isinstance(self.action_space, Discrete)

    @property
    def outputs(self) -> int:
        return self.action_space.outputs

    def setup(self, module: nn.Module) -> None:
        if isinstance(self.action_space, Continuous):
            init = nn.initializers.constant(self.initial_log_std)
            setattr(module, LOG_STD, parameter(module, LOG_STD, init, (self.outputs,)))

    def read(self, module: nn.Module, outputs: jax.Array) -> distrax.Distribution:
        """[..., A] -> distribution with batch shape [...]."""
        if isinstance(self.action_space, Discrete):
            return distrax.Categorical(logits=outputs)
        scale = jnp.exp(per_example(module, getattr(module, LOG_STD), outputs.shape))
        return distrax.Independent(
            distrax.Normal(outputs, jnp.broadcast_to(scale, outputs.shape)), 1)


@dataclasses.dataclass(frozen=True)
class SquashedPolicyHead:
    """A `SquashedNormal` whose deviations depend on the state, as its means do."""

    size: int
    initial_log_std: float
    gain: float = 0.01

    @property
    def outputs(self) -> int:
        return 2 * self.size

    def setup(self, module: nn.Module) -> None: ...

    def read(self, module: nn.Module, outputs: jax.Array) -> SquashedNormal:
        """[..., 2A] -> distribution with batch shape [...]."""
        loc, log_std = jnp.split(outputs, 2, axis=-1)
        return SquashedNormal(loc, jnp.exp(jnp.clip(log_std + self.initial_log_std,
                                                    *LOG_STD_RANGE)))


@dataclasses.dataclass(frozen=True)
class DeterministicPolicyHead:
    """An action in (-1, 1), [..., A]."""

    outputs: int
    gain: float = 0.01

    def setup(self, module: nn.Module) -> None: ...

    def read(self, module: nn.Module, outputs: jax.Array) -> jax.Array:
        return jnp.tanh(outputs)


@dataclasses.dataclass(frozen=True)
class ValueHead:
    """What a critic of states puts out, to be read by `critic`."""

    critic: ScalarCritic | CategoricalCritic
    gain: float = 1.0

    @property
    def outputs(self) -> int:
        return self.critic.outputs

    def setup(self, module: nn.Module) -> None: ...

    def read(self, module: nn.Module, outputs: jax.Array) -> jax.Array:
        return outputs


@dataclasses.dataclass(frozen=True)
class ActionValueHead:
    """A value for each of the discrete actions, [..., A]."""

    outputs: int
    gain: float = 1.0
    chooses: ClassVar[bool] = True

    def setup(self, module: nn.Module) -> None: ...

    def read(self, module: nn.Module, outputs: jax.Array) -> jax.Array:
        return outputs


@dataclasses.dataclass(frozen=True)
class ContinuousActionValueHead:
    """The value of the action of `action_size` numbers that its torso reads as well, [...]."""

    action_size: int
    outputs: int = 1
    gain: float = 1.0

    def setup(self, module: nn.Module) -> None: ...

    def read(self, module: nn.Module, outputs: jax.Array) -> jax.Array:
        return outputs[..., 0]


def action_size(head: Head) -> int:
    """Numbers of an action that a head's torso reads before the observation."""
    return getattr(head, "action_size", 0)


def chooses(head: Head) -> bool:
    """Whether each output of a head stands for one discrete action."""
    return getattr(head, "chooses", False)


def is_head(name: str) -> bool:
    """Whether a top-level parameter of a network turns features into outputs; others are torsos."""
    return name.endswith("_head") or name == LOG_STD
