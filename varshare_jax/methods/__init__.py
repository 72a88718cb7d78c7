"""The registry of methods: a new one is one file, its section in `settings` and one line here, or
an entry point elsewhere.
"""

import itertools
from typing import Any, NamedTuple

from varshare_jax.errors import unknown
from varshare_jax.methods.settings import SECTIONS
from varshare_jax.settings import At, Registry, Section


class Entry(NamedTuple):
    """A subclass of `Method`, and the combiner of gradients that makes it another method."""

    method: Any
    combiner: str = "mean"


METHODS: Registry = Registry("methods", {
    "varshare": At("varshare_jax.methods.varshare:VarShare"),
    "independent": At("varshare_jax.methods.independent:Independent"),
    "hard_sharing": At("varshare_jax.methods.hard_sharing:HardSharing"),
    "feature_sharing": At("varshare_jax.methods.feature_sharing:FeatureSharing"),
    "contextual": At("varshare_jax.methods.contextual:Contextual"),
    "one_hot": At("varshare_jax.methods.one_hot:OneHot"),
    "l2_soft": At("varshare_jax.methods.l2_soft:L2Soft"),
    "paco": At("varshare_jax.methods.paco:PaCo"),
    "soft_modularization": At("varshare_jax.methods.soft_modularization:SoftModularization"),
    # Yu et al. 2020, arXiv 2001.06782; Liu et al. 2021, arXiv 2110.14048
    "pcgrad": At("varshare_jax.methods.hard_sharing:HardSharing", combiner="pcgrad"),
    "cagrad": At("varshare_jax.methods.hard_sharing:HardSharing", combiner="cagrad"),
    # The two on one shared network that is told the task, in place of one with a head for each.
    "contextual_pcgrad": At("varshare_jax.methods.contextual:Contextual", combiner="pcgrad"),
    "contextual_cagrad": At("varshare_jax.methods.contextual:Contextual", combiner="cagrad"),
    "varshare_lora": At("varshare_jax.methods.varshare_lora:VarShareLoRA"),
    "varshare_horseshoe": At("varshare_jax.methods.varshare_horseshoe:VarShareHorseshoe"),
    "varshare_trust_region": At("varshare_jax.methods.varshare_trust_region:VarShareTrustRegion"),
}, adopt=lambda name, method, **options: Entry(method, **options))
"""A name -> its `Entry`."""


def sections() -> tuple[type[Section], ...]:
    """Sections of settings of all methods, in the order of their flags."""
    others = (entry.method.settings for entry in METHODS.registered())
    return *SECTIONS, *itertools.chain(*others)


def make(config: Any, num_tasks: int) -> Any:
    """The `Method` that `config` names; raises UserError for an unknown or impossible one."""
    if config.method not in METHODS:
        raise unknown("--method", config.method, METHODS)
    entry = METHODS[config.method]
    if config.adapt.regime:
        from varshare_jax.methods.adapting import Adapting

        method = Adapting(config, num_tasks, config.method, kind=entry.method)
    else:
        method = entry.method(config, num_tasks, config.method, entry.combiner)
    method.validate()
    return method
