"""CAGrad on hard sharing: the gradient near the mean that serves the worst task best.

Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning", arXiv 2110.14048.
The algorithm is `gradients.cagrad`; `--gradients.combine=cagrad` puts it on any other method.
"""

from varshare_jax.methods.hard_sharing import HardSharing


class CAGrad(HardSharing):
    """Hard sharing whose trunk descends the conflict-averse gradient."""

    name = "cagrad"
    combines_by = "cagrad"
