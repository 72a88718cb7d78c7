"""Scenes in MJX: compiled by XLA for whatever device JAX computes on."""

import contextlib
import functools
import io
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from varshare_jax.suites.metaworld import collisions, scenes, snapshots
from varshare_jax.suites.metaworld.physics import ACTION_SCALE, Group, Physics, State
from varshare_jax.suites.metaworld.scenes import FRAME_SKIP, Settings
from varshare_jax.suites.metaworld.snapshots import Probe
from varshare_jax.suites.metaworld.tasks import HAND_HIGH, HAND_LOW, Snapshot, Task


@functools.cache
def load_mjx() -> Any:
    """MJX, without what it prints when it is imported."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that warp is not installed
        from mujoco import mjx
    return mjx


class MjxPhysics(Physics):
    """Reduced scenes side by side in one program, each with the envs of all its tasks."""

    name = "mjx"

    def __init__(self, chosen: Sequence[Task], settings: Settings | None = None):
        super().__init__(chosen)
        self.scenes = [self.make_scene(group, [chosen[m] for m in group.tasks], settings)
                       for group in self.groups]

    def make_scene(self, group: Group, chosen: Sequence[Task],
                   settings: Settings | None) -> "MjxScene":
        """One scene of those that stand side by side."""
        return MjxScene(group, chosen, settings or Settings())

    def step(self, state, action):
        states, seen = {}, {}
        for count, scene in enumerate(self.scenes, 1):
            if self.tracing:
                self.tracing(f"scene {count} of {len(self.scenes)}: {scene.group.scene}")
            moved = scene.step_tasks(state, action)
            for m, (one, snapshot) in zip(scene.group.tasks, moved, strict=True):
                states[m], seen[m] = one.padded(self.widths), snapshot
        ordered = [states[m] for m in range(len(states))]
        return (jax.tree.map(lambda *x: jnp.stack(x), *ordered),
                [seen[m] for m in range(len(seen))])


class MjxScene:
    """One reduced scene; `settings` are those of `scenes.reduced`."""

    def __init__(self, group: Group, chosen: Sequence[Task], settings: Settings):
        mjx = load_mjx()
        self.group, self.settings = group, settings
        self.model = scenes.reduced(group.scene, group.body, settings)
        with collisions.ours():
            self._mjx, self._model = mjx, mjx.put_model(self.model)
            self._data = mjx.make_data(self.model)
        self._body = self.model.body(group.body).id if group.body else None
        self.probes = snapshots.probes(chosen, scenes.original(group.scene), self.model)

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

    def step_tasks(self, state: State, action: jax.Array) -> list[tuple[State, Snapshot]]:
        """Steps the envs of all tasks of this scene as one batch: of each task, [N, ...].

        state [M, N, ...] and action [M, N, 4] are those of all tasks of the suite.
        """
        own = [jax.tree.map(lambda x, m=m: x[m], state).cut(self.group.sizes)
               for m in self.group.tasks]
        batch = jax.tree.map(lambda *x: jnp.concatenate(x), *own)
        batch = self.step_all(batch, jnp.concatenate([action[m] for m in self.group.tasks]))
        moved, count = [], action.shape[1]
        for i, probe in enumerate(self.probes):
            one = jax.tree.map(lambda x, i=i: x[i * count:(i + 1) * count], batch)
            moved.append((one, jax.vmap(functools.partial(self.read, probe))(one)))
        return moved

    def step_all(self, state: State, action: jax.Array) -> State:
        """Envs side by side, [B, ...], their states without padding."""
        return jax.vmap(functools.partial(self.step, self._data))(state, action)

    def step(self, data: Any, state: State, action: jax.Array) -> State:
        """One env; what it does not set of MJX's `data` is scratch."""
        action = jnp.clip(action, -1, 1)
        mocap = jnp.clip(state.mocap + ACTION_SCALE * action[:3], HAND_LOW, HAND_HIGH)
        grip = jnp.stack([action[3], -action[3]])
        model, data = self.located(data, mocap, state.placed)

        def substep(_, now: tuple[jax.Array, jax.Array, jax.Array]):
            qpos, qvel, warmstart = now
            with collisions.ours():
                moved = self._mjx.step(model, data.replace(
                    qpos=qpos, qvel=qvel, qacc_warmstart=warmstart, ctrl=grip))
            return moved.qpos, moved.qvel, moved.qacc_warmstart

        moved = jax.lax.fori_loop(0, FRAME_SKIP, substep, state[:3])
        return State._make([*moved, mocap, state.placed, state.rest])

    def read(self, probe: Probe, state: State) -> Snapshot:
        """The snapshot of one env."""
        model, data = self.located(self._data, state.mocap, state.placed)
        data = self._mjx.kinematics(model, data.replace(qpos=state.qpos))
        return probe.read(data.xpos, data.xquat, state.qpos)

    def located(self, data: Any, mocap: jax.Array, placed: jax.Array) -> tuple[Any, Any]:
        """MJX's model and data where the hand is pulled to `mocap` and the task's body stands."""
        model = self._model
        if self._body is not None:
            model = model.replace(body_pos=model.body_pos.at[self._body].set(placed))
        return model, data.replace(
            mocap_pos=mocap[None], mocap_quat=jnp.asarray(scenes.MOCAP_QUAT, jnp.float32)[None])
