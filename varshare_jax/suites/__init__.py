"""The registry of suites: by name, or by a family's name before a colon."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from varshare_jax.errors import unknown
from varshare_jax.settings import Registry, Section, replace
from varshare_jax.suites import (
    cartpole,
    cartpole_conflict,
    cartpole_family,
    cartpole_hard,
    gymnax,
    lunar_lander,
    metaworld,
)
from varshare_jax.suites.base import Suite
from varshare_jax.suites.metaworld.settings import MetaWorldConfig


def _metaworld(name: str, config: Any) -> Suite:
    return metaworld.make(name, config.metaworld if config else MetaWorldConfig())


SUITES: Registry = Registry("suites", {
    "cartpole10": lambda config: cartpole.CartPoleSuite("cartpole10", cartpole.TASKS),
    "cartpole": lambda config: cartpole.CartPoleSuite("cartpole", (cartpole.NOMINAL,)),
    "cartpole10_hard": lambda config: cartpole_hard.make(),
    "cartpole_conflict": lambda config: cartpole_conflict.make(),
    "cartpole_family": lambda config: cartpole_family.make("cartpole_family"),
    "lunar_lander20": lambda config: lunar_lander.LunarLanderSuite(
        "lunar_lander20", lunar_lander.TASKS),
    "lunar_lander20_continuous": lambda config: lunar_lander.LunarLanderSuite(
        "lunar_lander20_continuous", lunar_lander.TASKS, continuous=True),
    "lunar_lander": lambda config: lunar_lander.LunarLanderSuite(
        "lunar_lander", (lunar_lander.NOMINAL,)),
    "mt10": lambda config: _metaworld("mt10", config),
    "mt3": lambda config: _metaworld("mt3", config),
})
"""A name -> its suite, from the whole tree of settings or None for the defaults."""

FAMILIES: Mapping[str, tuple[str, Callable[[str, Any], Suite]]] = {
    "mt1": ("<task>", _metaworld),
    "cartpole_family": ("tasks=…,spread=…,seed=…",
                        lambda name, config: cartpole_family.make(name)),
    "gymnax": ("<id>", lambda name, config: gymnax.single(name.partition(":")[2])),
}
"""A prefix -> what follows its colon, and the suite of a whole name."""

__all__ = ["FAMILIES", "SUITES", "Suite", "make", "names", "sections", "settle"]


def settle(config: Any, required: bool = True) -> Any:
    """`config` with what depends on the machine made explicit: the engine of Meta-World's scenes.

    Raises UserError for one that JAX's device cannot run; if not `required` it takes another.
    """
    if not metaworld.owns(config.suite):
        return config
    physics = metaworld.physics_here(config.metaworld, required)
    return replace(config, {"metaworld.physics": physics})


def make(name: str, config: Any = None) -> Suite:
    """The suite of that name; raises UserError for an unknown one."""
    family, _, member = name.partition(":")
    if member and family in FAMILIES:
        return FAMILIES[family][1](name, config)
    if name not in SUITES:
        raise unknown("--suite", name, names())
    return SUITES[name](config)


def names() -> list[str]:
    """What `--suite` may be."""
    return [*SUITES, *(f"{family}:{member}" for family, (member, _) in FAMILIES.items())]


def sections() -> tuple[type[Section], ...]:
    """Sections of settings that suites read; what a package registers has its own as `settings`."""
    others = (getattr(suite, "settings", ()) for suite in SUITES.values())
    return MetaWorldConfig, *itertools.chain(*others)
