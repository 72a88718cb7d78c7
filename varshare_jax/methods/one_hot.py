"""Vanilla multi-task PPO: one network for all, told its task by a one-hot vector.

Yu et al. 2020, "Meta-World", arXiv 1910.10897, section 5.1 (multi-task PPO).
"""

import jax

from varshare_jax.methods.contextual import Contextual


class OneHot(Contextual):
    """The network's input is [observation, one-hot of m]; no parameter belongs to a task."""

    offers = ""

    @property
    def context_size(self):
        return self.num_tasks

    def context(self, task, index):
        return jax.nn.one_hot(index, self.num_tasks)

    def split(self, params, key):
        return params, {}
