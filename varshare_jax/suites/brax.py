"""Suites of brax environments (Freeman et al. 2021): one robot with different physics per task.

Brax's wrappers for episodes are not used: theirs restart every env from the one state in which it
began, and tell a time limit only beside the end.
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.errors import UserError, unknown
from varshare_jax.suites import installed
from varshare_jax.suites.base import Suite
from varshare_jax.suites.compiling import compiler_options
from varshare_jax.types import Continuous, Step

VERSION = "1"
LEAST = 0, 14, 2  # version of brax
HORIZON = 1000  # brax's default for every environment
INSTALL = "pip install 'varshare_jax[brax]'"
_GENERALIZED = ("swimmer",)  # what `spring` refuses
_NOT_A_ROBOT = ("fast",)  # what brax tests itself with


class EnvState(NamedTuple):
    """One env: brax's state, whose `obs` is what was last shown, and the steps of its episode."""

    brax: Any
    time: jax.Array


class BraxSuite(Suite):
    """M copies of a brax environment, each with its own physics, in one program.

    `physics` has fields of brax's System by their dotted names, values leading with [M]; what it
    leaves out is the same for all tasks. Actions in [-1, 1] are brax's own, which it scales by
    gears and ranges of the robot's motors. Physics that left the finite numbers is not followed:
    the episode is cut off there, with what was shown before and without reward.
    """

    def __init__(self, name: str, version: str, env: Any, physics: Mapping[str, jax.Array],
                 task_names: tuple[str, ...], reference: str):
        self.name, self.version, self.task_names = name, version, task_names
        self.reference, self.horizon = reference, HORIZON
        self._env, self._physics = env, dict(physics)
        self.action_space = Continuous(env.action_size)
        self.observation_size = jax.eval_shape(env.reset, jax.random.key(0)).obs.shape[-1]
        self.compiler_options = compiler_options()

    def choose(self, tasks):
        chosen = super().choose(tasks)
        chosen._physics = {field: x[jnp.array(tasks)] for field, x in self._physics.items()}
        return chosen

    def reset(self, keys):
        state = jax.vmap(jax.vmap(self._reset_one, (0, None)))(keys, self._physics)
        return state, state.brax.obs

    def step(self, keys, state, action):
        over_envs = jax.vmap(self._step_one, (0, 0, 0, None))
        return jax.vmap(over_envs)(keys, state, action, self._physics)

    def _with(self, physics: Mapping[str, jax.Array]) -> Any:
        """Brax's environment of one task; its methods read physics from `sys` alone."""
        env = copy.copy(self._env)
        env.sys = env.sys.tree_replace(physics)
        return env

    def _reset_one(self, key, physics) -> EnvState:
        return EnvState(self._with(physics).reset(key), jnp.int32(0))

    def _step_one(self, key, state, action, physics):
        after = self._with(physics).step(state.brax, jnp.clip(action, -1.0, 1.0))
        finite = jnp.isfinite(after.obs).all() & jnp.isfinite(after.reward)
        obs = jnp.where(finite, after.obs, state.brax.obs)
        reward = jnp.where(finite, after.reward, 0.0)
        terminated = finite & (after.done > 0)
        time = state.time + 1
        truncated = ((time >= self.horizon) | ~finite) & ~terminated
        state = jax.tree.map(lambda first, x: jnp.where(terminated | truncated, first, x),
                             self._reset_one(key, physics), EnvState(after, time))
        return state, Step(state.brax.obs, jnp.float32(reward), terminated, truncated, obs)

    def render(self, state: Any, task: int) -> np.ndarray:
        """A picture of the first env of a task, RGB uint8; `state` is what `step` returned."""
        from varshare_jax.suites.brax_drawing import draw

        links = state.brax.pipeline_state.x
        return draw(self._env.sys, np.asarray(links.pos[task, 0]), np.asarray(links.rot[task, 0]))


def single(env_id: str) -> BraxSuite:
    """A registered brax environment as a suite of one task.

    Raises UserError where brax has no such environment or is not installed.
    """
    env = environment(env_id)
    return BraxSuite(f"brax:{env_id}", VERSION, env, {}, (env_id,), f"brax {env_id}")


def environment(env_id: str) -> Any:
    """Brax's environment of that name on the engine `spring`, the one that compiles and steps the
    fastest (docs/suites.md); raises UserError as `single` does."""
    envs = _envs()
    robots = [name for name in envs._envs if name not in _NOT_A_ROBOT]  # brax lists them nowhere
    if env_id not in robots:
        raise unknown("--suite", f"brax:{env_id}", [f"brax:{name}" for name in robots])
    with _quietly():
        return envs.get_environment(
            env_id, backend="generalized" if env_id in _GENERALIZED else "spring")


def _envs() -> Any:
    """The module `brax.envs`."""
    need = f"brax's suites need brax>={'.'.join(map(str, LEAST))}"
    found = installed.version("brax", need, INSTALL)
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < LEAST:
        raise UserError(f"{need} but {found} is installed: {INSTALL}")
    with _quietly():
        from brax import envs
    return envs


@contextlib.contextmanager
def _quietly():
    """Without what MJX prints when it is imported, brax's warning that its engines are not
    maintained, and MuJoCo's of old attributes in brax's files, which it also writes to a file."""
    import mujoco

    mujoco.set_mju_user_warning(lambda text: None)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mujoco.set_mju_user_warning(None)
