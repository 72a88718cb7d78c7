"""Learning tasks that a method has not seen: every task by itself, from shared parameters of its
own.

M tasks are M agents here. Each has a copy of shared parameters that others have learned and, new,
what its method offers a task. In the regime `residual` the copy is frozen and only what is offered
learns; in `full` both do; in `scratch` both do, from a new network; `unfreeze` is `residual` for
some updates and `full` after them (D'Eramo et al. 2020 unfreeze so).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.errors import UserError
from varshare_jax.methods.base import Method
from varshare_jax.methods.settings import AdaptConfig
from varshare_jax.types import lead

RESIDUAL, UNFREEZE = "residual", "unfreeze"


@dataclasses.dataclass(frozen=True)
class Adapting(Method):
    """A method of class `kind` whose tasks share nothing any more.

    A task's parameters are `shared`, `own` and `trains`, which is 1 where its `shared` learn, 0
    where they are frozen, and -k where they will learn after k updates: regimes are data, and stand
    side by side in one program. What waits has its gradient and its moments meanwhile, since Adam's
    first steps would be several learning rates after a long time without. Whatever the method does
    to several tasks at once it does to each alone.
    """

    kind: type[Method] = Method

    settings = (AdaptConfig,)
    shares = False

    @functools.cached_property
    def _whole(self) -> Method:
        """The method among all tasks: what it makes of one of them, and what that one is told."""
        return self.kind(self.config, self.num_tasks, self.name)

    @functools.cached_property
    def _alone(self) -> Method:
        """The method of a single task."""
        return self.kind(self.config, 1, self.name)

    def split(self, params, key):
        shared, own = self._whole.split(params, key)
        return {}, {"shared": shared, "own": own, "trains": jnp.ones(())}

    def compose(self, shared, task, index):
        hold = jax.lax.stop_gradient
        if self.config.adapt.regime == RESIDUAL:  # no other in the program: no gradient to pay for
            theta = hold(task["shared"])
        else:
            trains = hold(task["trains"]) != 0
            theta = jax.tree.map(lambda p: jnp.where(trains, p, hold(p)), task["shared"])
        return self._whole.compose(theta, task["own"], index)

    def sample(self, task, key):
        return task | {"own": self._whole.sample(task["own"], key)}

    def residual(self, task):
        return self._whole.residual(task["own"])

    def penalty(self, task, terms, scalars, samples):
        return self._whole.penalty(task["own"], terms, scalars, samples)

    def curvature(self, task, terms, scalars, samples):
        own = self._whole.curvature(task["own"], terms, scalars, samples)
        if own is None:
            return None
        return {"shared": jax.tree.map(lambda p: None, task["shared"]), "own": own, "trains": None}

    def settle(self, task, curvature, terms, samples):
        return task | {"own": self._whole.settle(task["own"], curvature["own"], terms, samples)}

    def init_memory(self, task, scalars):
        return {}, jax.vmap(lambda own: self._alone.init_memory(_one(own), scalars)[1])(
            task["own"])

    def terms(self, variables, memory, scalars):
        def of(task, memory):
            return _first(self._alone.terms(_only(task), memory, scalars))

        return jax.vmap(of)(variables["task"], memory)

    def steer(self, memory, variables, measured, scalars):
        def of(memory, task, metrics):
            after, found = self._alone.steer(memory, _only(task), measured._replace(
                metrics=_one(metrics)), scalars)
            return after, _first(found)

        return jax.vmap(of)(memory, variables["task"], measured.metrics)

    def rates(self, scalars):
        return self._whole.rates(scalars)

    def weigh(self, losses, scalars):
        return self._whole.weigh(losses, scalars)

    def hold(self, variables, updates):
        if UNFREEZE not in self.config.adapt.regimes:  # nothing waits
            return updates
        moves, task = variables["task"]["trains"] > 0, updates["task"]
        shared = jax.tree.map(lambda u: jnp.where(lead(moves, u), u, 0), task["shared"])
        return updates | {"task": task | {"shared": shared}}

    def after_update(self, variables, losses, scalars, key):
        """What moves parameters between a task and what it shares does so where both learn."""
        def of(task, loss, key):
            after = self._alone.after_update(_only(task), loss[None], scalars, key)
            new = {"shared": after["shared"], "own": _first(after["task"])}
            old = {name: task[name] for name in new}
            kept = jax.tree.map(lambda n, o: jnp.where(task["trains"] > 0, n, o), new, old)
            return task | kept | {"trains": _counted(task["trains"])}

        keys = jax.random.split(key, self.num_tasks)
        return variables | {"task": jax.vmap(of)(variables["task"], losses, keys)}

    def torso(self):
        return self._whole.torso()

    @property
    def context_size(self):
        return self._whole.context_size

    @property
    def draws(self):  # type: ignore[override]  # of the method's settings, not of a class
        return self._whole.draws

    def validate(self):
        super().validate()
        self._whole.validate()
        if {RESIDUAL, UNFREEZE} & set(self.config.adapt.regimes) and not self.kind.offers:
            raise UserError(f"--adapt.regime={self.config.adapt.regime}: method {self.name} offers "
                            "a new task no parameters of its own; use scratch, full")
        steered = self.config.varshare.controller in ("sigma_adaptive", "empirical_bayes")
        if steered and hasattr(self._whole, "controller"):
            raise UserError(f"--varshare.controller={self.config.varshare.controller}: sets the "
                            "prior by several tasks, and each adapts alone; use fixed")
        if (rate := self.config.learning.task_rate) != 1:
            raise UserError(f"--{self.config.algorithm}.task_rate={rate}: in adaptation all "
                            "parameters are a task's own and learn at one rate; use 1")


def trains_at_first(adapt: AdaptConfig) -> float:
    """`trains` of a member that begins with what others have learned; `adapt` names its regime."""
    return {RESIDUAL: 0.0, UNFREEZE: -float(adapt.unfreeze_after)}.get(adapt.regime, 1.0)


def _counted(trains: jax.Array) -> jax.Array:
    """`trains` an update later: what has waited for its last one learns."""
    return jnp.where(trains == -1, 1.0, jnp.where(trains < 0, trains + 1, trains))


def _only(task: Any) -> Any:
    """One task's parameters as the variables of a suite of one task."""
    return {"shared": task["shared"], "task": _one(task["own"])}


def _one(tree: Any) -> Any:
    """Leaves [...] -> [1, ...]."""
    return jax.tree.map(lambda x: x[None], tree)


def _first(tree: Any) -> Any:
    """Leaves [1, ...] -> [...]."""
    return jax.tree.map(lambda x: x[0], tree)
