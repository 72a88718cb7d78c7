"""PCGrad on hard sharing: tasks' conflicting gradients are projected off one another.

Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782.
The algorithm is `gradients.pcgrad`; `--gradients.combine=pcgrad` puts it on any other method.
"""

from varshare_jax.methods.hard_sharing import HardSharing


class PCGrad(HardSharing):
    """Hard sharing whose trunk descends the mean of the projected gradients."""

    name = "pcgrad"
    combines_by = "pcgrad"
