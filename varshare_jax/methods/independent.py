"""Independent learning: one whole network per task, the single-task oracle."""

from varshare_jax.methods.base import Method


class Independent(Method):
    """Nothing shared, no interference: the upper bound of plasticity."""

    shares = False

    def split(self, params, key):
        return {}, params

    def compose(self, shared, task, index):
        return task
