"""Hard sharing: one trunk for all tasks, an output head for each (Caruana 1997)."""

from varshare_jax.methods.base import Method
from varshare_jax.networks.actor_critic import HEADS


class HardSharing(Method):
    """Multi-head network: fewest parameters, fully exposed to conflicting gradients."""

    name = "hard_sharing"

    def split(self, params, key):
        heads = {name: params[name] for name in HEADS if name in params}
        return {name: params[name] for name in params if name not in heads}, heads

    def compose(self, shared, task, index):
        return shared | task
