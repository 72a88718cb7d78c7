"""Contextual policy: one network for all, given a learned embedding of the task.

Sodhani et al. 2021, "Multi-Task Reinforcement Learning with Context-based Representations",
arXiv 2102.06177, without its text metadata: z_m is learned from scratch.
"""

import jax

from varshare_jax.methods.base import Method
from varshare_jax.methods.settings import ContextualConfig
from varshare_jax.networks.heads import is_head
from varshare_jax.networks.layers import fold_context


class Contextual(Method):
    """The network's input is [observation, z_m]; only z_m belongs to the task."""

    settings = (ContextualConfig,)
    offers = "an embedding"

    @property
    def context_size(self):
        return self.config.contextual.size

    def context(self, task, index: jax.Array) -> jax.Array:
        """What the network is told about task `index`, [C]."""
        return task["embedding"]

    def split(self, params, key):
        return params, {"embedding": jax.random.normal(key, (self.context_size,))}

    def compose(self, shared, task, index):
        context = self.context(task, index)
        return shared | {name: shared[name] | {"0": fold_context(shared[name]["0"], context)}
                         for name in shared if not is_head(name)}
