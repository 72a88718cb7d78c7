"""The original scenes in MJX's second engine, MuJoCo Warp: made for NVIDIA's GPUs."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.metaworld import scenes, snapshots
from varshare_jax.suites.metaworld.mjx_physics import MjxPhysics, MjxScene, load_mjx
from varshare_jax.suites.metaworld.physics import Group, State
from varshare_jax.suites.metaworld.tasks import Task

_CONTACTS = 64  # per env, of a store that all envs share
_ROWS = 250  # of constraints, per env: contacts' friction included


class WarpPhysics(MjxPhysics):
    """Original scenes side by side; they need none of MJX's stand-ins for shapes."""

    name = "warp"

    def make_scene(self, group, chosen, settings):
        return WarpScene(group, chosen)


class WarpScene(MjxScene):
    """One original scene. What a task places is a mocap body, as it is for MuJoCo."""

    def __init__(self, group: Group, chosen: Sequence[Task]):
        import mujoco
        import warp  # before MJX, which tells at length that it has started it

        warp.config.log_level = warp.LOG_WARNING
        self.group, self._mjx = group, load_mjx()
        self.model = scenes.plain(group.scene, group.body, ())
        # Warp never starts over by itself, and refuses the flag that says so.
        self.model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        with warnings.catch_warnings():  # that capsules and meshes meet in one point only
            warnings.simplefilter("ignore")
            self._model = self._mjx.put_model(self.model, impl="warp")
        self._data = self._scratch(1)
        bodies = [self.model.body(name).id for name in ("mocap", group.body) if name]
        self._mocap = self.model.body_mocapid[bodies]
        self._quats = np.zeros((self.model.nmocap, 4), np.float32)
        self._quats[self._mocap] = self.model.body_quat[bodies]
        self.probes = snapshots.probes(chosen, scenes.original(group.scene), self.model)

    def step_all(self, state, action):
        """As of MJX. Contacts of all envs share one store, so a further vmap joins the envs."""
        @jax.custom_batching.custom_vmap
        def step_all(state: State, action: jax.Array) -> State:
            return jax.vmap(functools.partial(self.step, self._scratch(len(action))))(state, action)

        @step_all.def_vmap
        def joined(size: int, batched: Any, *args: Any) -> tuple[State, Any]:
            each = jax.tree.map(lambda x, own: x if own else jnp.broadcast_to(
                x, (size, *x.shape)), args, tuple(batched))
            envs = each[1].shape[1]
            flat = jax.tree.map(lambda x: x.reshape(size * envs, *x.shape[2:]), each)
            moved = jax.tree.map(lambda x: x.reshape(size, envs, *x.shape[1:]), step_all(*flat))
            return moved, jax.tree.map(lambda _: True, moved)

        return step_all(state, action)

    def located(self, data, mocap, placed):
        places = jnp.zeros((len(self._quats), 3)).at[self._mocap].set(
            jnp.stack([mocap, placed][:len(self._mocap)]))
        return self._model, data.replace(mocap_pos=places, mocap_quat=jnp.asarray(self._quats))

    def _scratch(self, envs: int) -> Any:
        return self._mjx.make_data(self.model, impl="warp", naconmax=_CONTACTS * envs, njmax=_ROWS)
