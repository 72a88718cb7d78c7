"""The network of one task: named heads, on torsos of their own or on one trunk."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from varshare_jax.networks.heads import ALLOWED, NEVER, Head, action_size, chooses
from varshare_jax.networks.layers import Dense

Heads = tuple[tuple[str, Head], ...]
"""The networks that an algorithm needs, such as ("actor", …), ("critic", …)."""


class TaskNetwork(nn.Module):
    """Heads on torsos; parameters are those of `<name>` (or `trunk`) and of `<name>_head`.

    Heads are orthogonal with the gain that they ask for, hidden layers √2, as in Andrychowicz et
    al. 2021, "What Matters in On-Policy Reinforcement Learning", section 3.
    """

    heads: Heads
    one_trunk: bool
    torso: Callable[[], nn.Module]
    estimator: str

    def setup(self) -> None:
        for name, head in self.heads:
            setattr(self, f"{name}_head", Dense(head.outputs, head.gain, self.estimator))
            head.setup(self)
        for name in ("trunk",) if self.one_trunk else dict(self.heads):
            setattr(self, name, self.torso())

    def __call__(self, obs: jax.Array, names: tuple[str, ...] = (),
                 action: jax.Array | None = None,
                 num_actions: jax.Array | None = None) -> dict[str, Any]:
        """[..., D] -> what the heads of these names (all by default) read of it.

        Heads of actions' values need an `action` [..., A] beside the observation. With
        `num_actions` the task has only so many of the discrete actions: the others are `NEVER`
        taken, and the outputs tell which it has, as `ALLOWED`.
        """
        wanted = {name: head for name, head in self.heads if name in names or not names}
        trunk = self.trunk(obs) if self.one_trunk else None
        outputs = {}
        for name, head in wanted.items():
            # The action comes first: methods know an observation's context by its last rows.
            seen = obs if action is None or not action_size(head) else jnp.concatenate(
                [action, obs], -1)
            features = trunk if self.one_trunk else getattr(self, name)(seen)
            read = getattr(self, f"{name}_head")(features)
            if num_actions is not None and chooses(head):
                allowed = jnp.arange(read.shape[-1]) < num_actions
                read = jnp.where(allowed, read, NEVER)
                outputs[ALLOWED] = jnp.broadcast_to(allowed, read.shape)
            outputs[name] = head.read(self, read)
        return outputs
