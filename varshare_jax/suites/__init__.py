"""The registry of suites: by name, or by a family's name before a colon.

Suites import JAX, and some an engine, so each is imported when it is made.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from varshare_jax.errors import UserError, unknown
from varshare_jax.settings import Registry, Section, replace
from varshare_jax.suites.settings import MetaWorldConfig

if TYPE_CHECKING:
    from varshare_jax.suites.base import Suite


def _cartpole(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import cartpole

    tasks = cartpole.TASKS if name == "cartpole10" else (cartpole.NOMINAL,)
    return cartpole.CartPoleSuite(name, tasks)


def _cartpole_hard(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import cartpole_hard

    return cartpole_hard.make()


def _cartpole_conflict(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import cartpole_conflict

    return cartpole_conflict.make()


def _cartpole_family(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import cartpole_family

    return cartpole_family.make(name)


def _classic5(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import classic5

    return classic5.make()


def _lunar_lander(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import lunar_lander

    tasks = (lunar_lander.NOMINAL,) if name == "lunar_lander" else lunar_lander.TASKS
    return lunar_lander.LunarLanderSuite(name, tasks, continuous=name.endswith("_continuous"))


def _metaworld(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import metaworld

    return metaworld.make(name, config.metaworld if config else MetaWorldConfig())


def _gymnax(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import gymnax

    return gymnax.single(name.partition(":")[2])


def _brax(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import brax

    return brax.single(name.partition(":")[2])


def _brax_halfcheetah(name: str, config: Any) -> "Suite":
    from varshare_jax.suites import brax_halfcheetah

    return brax_halfcheetah.make()


_MAKERS = {
    "cartpole10": _cartpole, "cartpole": _cartpole, "cartpole10_hard": _cartpole_hard,
    "cartpole_conflict": _cartpole_conflict, "classic5": _classic5,
    "cartpole_family": _cartpole_family,
    "lunar_lander20": _lunar_lander, "lunar_lander20_continuous": _lunar_lander,
    "lunar_lander": _lunar_lander, "mt10": _metaworld, "mt3": _metaworld,
    "brax_halfcheetah9": _brax_halfcheetah}

SUITES: Registry = Registry("suites", {
    name: functools.partial(maker, name) for name, maker in _MAKERS.items()})
"""A name -> its suite, from the whole tree of settings or None for the defaults."""

FAMILIES: Mapping[str, tuple[str, Callable[[str, Any], "Suite"]]] = {
    "mt1": ("<task>", _metaworld),
    "cartpole_family": ("tasks=…,spread=…,seed=…", _cartpole_family),
    "gymnax": ("<id>", _gymnax),
    "brax": ("<id>", _brax),
}
"""A prefix -> what follows its colon, and the suite of a whole name."""


def settle(config: Any, required: bool = True) -> Any:
    """`config` with what depends on the machine or the suite made explicit: the engine of
    Meta-World's scenes, the tasks of all folds.

    Raises UserError for one that JAX's device cannot run; if not `required` it takes another.
    """
    from varshare_jax.suites import metaworld

    config = name_folds(config)
    if not metaworld.owns(config.suite):
        return config
    physics = metaworld.physics_here(config.metaworld, required)
    return replace(config, {"metaworld.physics": physics})


def settle_as(config: Any, made: Any) -> Any:
    """The same for a machine of which nothing is known but the settings of a run `made` there."""
    from varshare_jax.suites import metaworld

    if not metaworld.owns(config.suite) or config.metaworld.physics != "auto":
        return config
    return replace(config, {"metaworld.physics": made.metaworld.physics})


def name_folds(config: Any) -> Any:
    """`config` with the tasks that it leaves out by name; raises UserError where it has none such.
    """
    if config.leave_out == "none":
        return config
    tasks = make(config.suite, config).task_names
    named = tasks if config.leave_out == "all" else tuple(config.leave_out.split(","))
    for each in named:
        if each not in tasks:
            raise unknown("--leave_out", each, ("none", "all", *tasks))
    if len(set(named)) < len(named):
        raise UserError(f"--leave_out={config.leave_out}: names a task twice")
    if len(tasks) < 2:
        raise UserError(f"--leave_out={config.leave_out}: {config.suite} has no other task to "
                        "learn")
    return replace(config, {"leave_out": ",".join(named)})


def make(name: str, config: Any = None) -> "Suite":
    """The suite of that name with the tasks that `config` asks for; raises UserError for an
    unknown suite or task."""
    suite = _whole(name, config)
    if not config or not (config.tasks or config.without):
        return suite
    named = {flag: getattr(config, flag) for flag in ("tasks", "without")}
    chosen = {flag: text.split(",") if text else [] for flag, text in named.items()}
    for flag, tasks in chosen.items():
        for each in tasks:
            if each not in suite.task_names:
                raise unknown(f"--{flag}", each, suite.task_names)
    kept = [m for m, task in enumerate(suite.task_names) if task not in chosen["without"]
            and task in (chosen["tasks"] or suite.task_names)]
    if not kept:
        raise UserError(f"--without={config.without}: leaves no task of {name}")
    return suite.choose(kept)


def _whole(name: str, config: Any) -> "Suite":
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
    others = (getattr(suite, "settings", ()) for suite in SUITES.registered())
    return MetaWorldConfig, *itertools.chain(*others)
