"""Hard sharing: one trunk for all tasks, an output head for each (Caruana 1997)."""

from varshare_jax.methods.base import Method
from varshare_jax.networks.heads import is_head


class HardSharing(Method):
    """Multi-head network: fewest parameters, fully exposed to conflicting gradients."""

    offers = "output heads"

    def split(self, params, key):
        heads = {name: branch for name, branch in params.items() if is_head(name)}
        return {name: params[name] for name in params if name not in heads}, heads

    def compose(self, shared, task, index):
        return shared | task
