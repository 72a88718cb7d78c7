"""The registry of methods: a new one is one file and one line here, or an entry point elsewhere."""

from typing import Any, NamedTuple

from varshare_jax.errors import unknown
from varshare_jax.methods.base import Method
from varshare_jax.methods.contextual import Contextual
from varshare_jax.methods.hard_sharing import HardSharing
from varshare_jax.methods.independent import Independent
from varshare_jax.methods.l2_soft import L2Soft
from varshare_jax.methods.lifting import MultiTaskNetwork
from varshare_jax.methods.one_hot import OneHot
from varshare_jax.methods.paco import PaCo
from varshare_jax.methods.soft_modularization import SoftModularization
from varshare_jax.methods.varshare import VarShare
from varshare_jax.methods.varshare_horseshoe import VarShareHorseshoe
from varshare_jax.methods.varshare_lora import VarShareLoRA
from varshare_jax.methods.varshare_trust_region import VarShareTrustRegion
from varshare_jax.settings import Registry


class Entry(NamedTuple):
    """A class, and the combiner of gradients that makes it another method."""

    method: type[Method]
    combiner: str = "mean"


METHODS: Registry = Registry("methods", {
    "varshare": Entry(VarShare),
    "independent": Entry(Independent),
    "hard_sharing": Entry(HardSharing),
    "contextual": Entry(Contextual),
    "one_hot": Entry(OneHot),
    "l2_soft": Entry(L2Soft),
    "paco": Entry(PaCo),
    "soft_modularization": Entry(SoftModularization),
    "pcgrad": Entry(HardSharing, "pcgrad"),  # Yu et al. 2020, arXiv 2001.06782
    "cagrad": Entry(HardSharing, "cagrad"),  # Liu et al. 2021, arXiv 2110.14048
    # The two on one shared network that is told the task, in place of one with a head for each.
    "contextual_pcgrad": Entry(Contextual, "pcgrad"),
    "contextual_cagrad": Entry(Contextual, "cagrad"),
    "varshare_lora": Entry(VarShareLoRA),
    "varshare_horseshoe": Entry(VarShareHorseshoe),
    "varshare_trust_region": Entry(VarShareTrustRegion),
}, adopt=lambda name, method: Entry(method))

__all__ = ["METHODS", "Entry", "Method", "MultiTaskNetwork", "make"]


def make(config: Any, num_tasks: int) -> Method:
    """The method that `config` names; raises UserError for an unknown or impossible one."""
    if config.method not in METHODS:
        raise unknown("--method", config.method, METHODS)
    entry = METHODS[config.method]
    method = entry.method(config, num_tasks, config.method, entry.combiner)
    method.validate()
    return method
