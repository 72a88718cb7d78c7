"""Stepping one scene in MJX, from and to the few arrays that are its state."""

import contextlib
import functools
import io
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.metaworld import scenes, snapshots
from varshare_jax.suites.metaworld.scenes import FRAME_SKIP, Settings
from varshare_jax.suites.metaworld.tasks import HAND_HIGH, HAND_LOW, Snapshot

_ACTION_SCALE = 0.01  # m per step


class State(NamedTuple):
    """What one env's physics remembers between steps."""

    qpos: jax.Array  # [Q]
    qvel: jax.Array  # [V]
    warmstart: jax.Array  # [V], the last acceleration, where the solver starts
    mocap: jax.Array  # [3], where the hand is pulled to
    placed: jax.Array  # [3], position of the body that the task moves


@functools.cache
def _mjx() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that warp is not installed
        from mujoco import mjx
    return mjx


class Physics:
    """One scene in MJX; all methods are pure and for one env.

    `body` names what a task moves at its resets ('' for nothing). `scene` and `settings` are
    those of `scenes.reduced`.
    """

    def __init__(self, scene: str, body: str, settings: Settings):
        mjx = _mjx()
        self.scene, self.settings = scene, settings
        self.model = scenes.reduced(scene, body, settings)
        self._mjx, self._model = mjx, mjx.put_model(self.model)
        self._data = mjx.make_data(self.model)
        self._body = self.model.body(body).id if body else None
        self.home = self.model.body_pos[self._body].copy() if body else np.zeros(3)

    def collision_groups(self) -> dict[str, int]:
        """Pairs of geoms that are tested, by their two kinds."""
        import mujoco
        from mujoco.mjx._src.collision_driver import geom_pairs

        kinds = [mujoco.mjtGeom(kind).name.removeprefix("mjGEOM_").lower()
                 for kind in self.model.geom_type]
        pairs = [f"{kinds[a]}-{kinds[b]}" for a, b, _ in geom_pairs(self.model)]
        return {pair: pairs.count(pair) for pair in dict.fromkeys(pairs)}

    @property
    def num_contacts(self) -> int:
        """Contacts that are kept in every substep."""
        return self._data._impl.contact.dist.shape[0]

    @property
    def num_rows(self) -> int:
        """Rows of constraints that the solver works on."""
        return self._data._impl.efc_J.shape[0]

    def step(self, state: State, action: jax.Array) -> State:
        """Meta-World's step: the hand is pulled on by `action` [4] in [-1, 1] for five substeps."""
        action = jnp.clip(action, -1, 1)
        mocap = jnp.clip(state.mocap + _ACTION_SCALE * action[:3], HAND_LOW, HAND_HIGH)
        model = self._placed(state.placed)
        grip = jnp.stack([action[3], -action[3]])

        def substep(_, now: tuple[jax.Array, jax.Array, jax.Array]):
            data = self._mjx.step(model, self._load(*now, mocap, grip))
            return data.qpos, data.qvel, data.qacc_warmstart

        moved = jax.lax.fori_loop(0, FRAME_SKIP, substep, state[:3])
        return State(*moved, mocap, state.placed)

    def read(self, probe: snapshots.Probe, state: State) -> Snapshot:
        """The snapshot of a state."""
        data = self._mjx.kinematics(self._placed(state.placed),
                                    self._data.replace(qpos=state.qpos))
        return probe.read(data.xpos, data.xquat, state.qpos)

    def _placed(self, position: jax.Array) -> Any:
        if self._body is None:
            return self._model
        moved = self._model.body_pos.at[self._body].set(position)
        return self._model.replace(body_pos=moved)

    def _load(self, qpos, qvel, warmstart, mocap, grip) -> Any:
        return self._data.replace(
            qpos=qpos, qvel=qvel, qacc_warmstart=warmstart, ctrl=grip, mocap_pos=mocap[None],
            mocap_quat=jnp.asarray(scenes.MOCAP_QUAT, jnp.float32)[None])
