"""MT10, MT3 and single Meta-World tasks as a suite, whichever engine steps their scenes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from varshare_jax.suites.base import Suite
from varshare_jax.suites.compiling import compiler_options, jax_version
from varshare_jax.suites.metaworld import physics, render, scenes, snapshots, tasks
from varshare_jax.suites.metaworld.physics import Physics, State
from varshare_jax.suites.metaworld.scenes import Settings
from varshare_jax.suites.metaworld.settings import physics_here
from varshare_jax.suites.metaworld.tasks import Setup, Snapshot, Task
from varshare_jax.suites.settings import MetaWorldConfig
from varshare_jax.types import Continuous, Step

VERSIONS = {"mujoco": "3", "mjx": "6", "warp": "1"}  # of results, by engine
# For one env of a scene, measured on the CPU; of Warp the arrays that it asks for.
_BYTES_PER_ENV = {"mjx": 60_000, "mujoco": 10_000, "warp": 70_000}
_CANDIDATES = 16  # draws of a random vector; all lie too near each other once in 1e14 resets


class EnvState(NamedTuple):
    """One env: its physics, its episode and what it last showed."""

    physics: State
    setup: Setup
    frame: jax.Array  # [18], the previous frame of the next observation
    time: jax.Array  # [], steps of this episode
    limit: jax.Array  # [], steps after which it and those that follow it are truncated


class Placed(NamedTuple):
    """What the reset of a task needs, from the original scene once its hand has settled."""

    qpos: jax.Array
    qvel: jax.Array
    warmstart: jax.Array
    snapshot: Snapshot
    home: jax.Array  # [3], where the body that the task moves is in the XML


class TaskEnv:
    """One task in its scene; all methods are pure and for one env."""

    def __init__(self, task: Task, widths: tuple[int, int], options: MetaWorldConfig):
        self.task, self.widths, self.options = task, widths, options
        original = scenes.original(task.scene)
        self._probe = probe = snapshots.probe(task, original)
        self._free = original.nq - 7  # where a free object's position starts in qpos
        moves = _moves_with(original, task.body)[probe.bodies]
        self._moves = moves[probe.object:].astype(np.float32)[:, None]
        settled = scenes.settled(task.scene, task.hand)
        snapshot = probe.read(settled.positions, settled.quats, settled.qpos)
        home = original.body(task.body).pos if task.body else np.zeros(3)
        self._settled = Placed(*jax.tree.map(jnp.asarray, (
            settled.qpos, settled.qvel, settled.warmstart, snapshot, home)))
        rounded = settled.qpos, settled.qvel, settled.warmstart, task.hand
        self._rest = [jnp.asarray(physics.rounded_off(x)) for x in rounded]
        self._object_rest = physics.rounded_off(settled.positions[probe.bodies[probe.object]])

    def reset(self, key: jax.Array) -> tuple[EnvState, jax.Array]:
        """A new episode with a random vector of its own: (state, observation [39])."""
        return self.start(self.draw(key))

    def draw(self, key: jax.Array) -> jax.Array:
        """A random vector [K], uniform where its two points lie far enough apart."""
        low, high = jnp.array(self.task.low), jnp.array(self.task.high)
        count = _CANDIDATES if self.task.apart else 1
        drawn = jax.random.uniform(key, (count, low.size), minval=low, maxval=high)
        if not self.task.apart:
            return drawn[0]
        gap = tasks.norm(drawn[:, :2] - drawn[:, 3:5])
        return drawn[jnp.argmax(gap >= self.task.apart)]

    def start(self, vector: jax.Array) -> tuple[EnvState, jax.Array]:
        """The episode of a random vector [K]."""
        task, settled = self.task, self._settled
        place = vector[-3:] if task.body else settled.home
        snapshot, setup = self._settled_at(place), self.setup(vector)
        qpos, qvel = settled.qpos, settled.qvel
        rest = State._make([*self._rest, place, qpos[:0]])
        if task.joint:
            shown = jnp.array(task.shown_start)
            if task.start:
                joint = self._probe.joint
                qpos = qpos.at[joint].set(task.start)
                rest = rest._replace(qpos=rest.qpos.at[:, joint].set(
                    physics.rounded_off(task.start)))
        else:
            shown = setup.object - qpos[self._free:self._free + 3]
            qpos, qvel, rest = self._place_object(setup.object, qpos, qvel, rest)
        frame = task.observe(snapshot._replace(object=snapshot.object + shown))
        mocap = jnp.array(task.hand, qpos.dtype)
        moving = State(qpos, qvel, settled.warmstart, mocap, place, qpos[:0]).padded(self.widths)
        moving = moving._replace(rest=rest.padded(self.widths).packed)
        state = EnvState(moving, setup, frame, jnp.int32(0), jnp.int32(self.options.horizon))
        return state, self._observation(frame, frame, setup.target)

    def _place_object(self, where: jax.Array, qpos: jax.Array, qvel: jax.Array,
                      rest: State) -> tuple[jax.Array, jax.Array, State]:
        """Puts the free object at `where` [3], at rest."""
        place, moves = slice(self._free, self._free + 3), slice(self._free, self._free + 6)
        as_settled = where == self._settled.snapshot.object  # its height, in some tasks
        missing = jnp.where(as_settled, self._object_rest, 0.0)
        rest = rest._replace(qpos=rest.qpos.at[:, place].set(missing),
                             qvel=rest.qvel.at[:, moves].set(0))
        return qpos.at[place].set(where), qvel.at[moves].set(0), rest

    def setup(self, vector: jax.Array) -> Setup:
        """What the episode of a random vector [K] is about."""
        place = vector[-3:] if self.task.body else self._settled.home
        return self.task.setup(vector, self._settled_at(place))

    def finish(self, key: jax.Array, before: EnvState, moved: State, snapshot: Snapshot,
               action: jax.Array) -> tuple[EnvState, Step]:
        """The step that led from `before` to the physics `moved`, and a new episode if it ended.

        Physics that left the finite numbers is not followed: the episode is cut off there, with
        what was shown before and, as in Meta-World, without reward.
        """
        finite = jnp.all(jnp.isfinite(moved.qpos)) & jnp.all(jnp.isfinite(moved.qvel))
        moved = _where(finite, moved, before.physics)
        snapshot = _where(finite, snapshot, self._settled.snapshot)
        frame, time = jnp.where(finite, self.task.observe(snapshot), before.frame), before.time + 1
        reward, success = self.task.judge(self.options.reward, snapshot, action, before.setup)
        reward, success = jnp.where(finite, reward, 0.0), success & finite
        obs = self._observation(self.task.clip(frame), self.task.clip(before.frame),
                                self.task.goal(before.setup))
        done = (time >= before.limit) | ~finite
        after = before._replace(physics=moved, frame=frame, time=time)
        fresh, first = self.reset(key)
        state, next_obs = _where(done, (fresh._replace(limit=before.limit), first), (after, obs))
        return state, Step(next_obs, reward.astype(jnp.float32), jnp.zeros_like(done), done, obs,
                           success)

    def _observation(self, frame: jax.Array, previous: jax.Array, goal: jax.Array) -> jax.Array:
        goal = goal if self.options.observe_goal else jnp.zeros_like(goal)
        return jnp.concatenate([frame, previous, goal]).astype(jnp.float32)

    def _settled_at(self, place: jax.Array) -> Snapshot:
        """The settled scene with the body that the task moves, and all fixed to it, at `place`."""
        snapshot, by = self._settled.snapshot, place - self._settled.home
        return snapshot._replace(object=snapshot.object + self._moves[0] * by,
                                 landmarks=snapshot.landmarks + self._moves[1:] * by)


def _moves_with(model, body: str) -> np.ndarray:
    """[B], which bodies of a MuJoCo model are part of `body`."""
    if not body:
        return np.zeros(model.nbody, bool)
    root, parents = model.body(body).id, model.body_parentid
    moves = np.zeros(model.nbody, bool)
    for index in range(1, model.nbody):
        moves[index] = index == root or moves[parents[index]]
    return moves


class MetaWorldSuite(Suite):
    """Meta-World tasks. Auto-resets draw new goals and object positions.

    `options.physics` names the engine (`physics_here`); `settings` are MJX's. Raises UserError
    for an engine that the device cannot run, or more threads than there are cores.
    """

    has_success = True
    reference = "metaworld 3.0.0"

    def __init__(self, name: str, chosen: list[Task], options: MetaWorldConfig,
                 settings: Settings | None = None):
        self.name, self.options, self._settings = name, options, settings
        self.task_names = tuple(task.name for task in chosen)
        self.horizon = options.horizon
        self.action_space = Continuous(4)
        self.observation_size = tasks.OBSERVATION_SIZE + options.one_hot * len(chosen)
        self.physics = _physics(chosen, options, settings)
        self.version = f"{VERSIONS[self.physics.name]}-{self.physics.name}"
        self.compiler_options = compiler_options() if self.physics.name == "mjx" else {}
        self.envs = [TaskEnv(task, self.physics.widths, options) for task in chosen]

    def choose(self, tasks):
        """Made anew: scenes are padded to the largest of them."""
        return MetaWorldSuite(self.name, [self.envs[m].task for m in tasks], self.options,
                              self._settings)

    def divisible(self, seeds):
        """Not the tasks, which have programs of their own, nor seeds that MuJoCo steps in jax 0.11,
        of which XLA's compiler dies.
        """
        return (1 if self.physics.name == "mujoco" and jax_version() >= (0, 11) else seeds), 1

    def reset(self, keys):
        states, obs = zip(*(jax.vmap(env.reset)(k)
                            for env, k in zip(self.envs, keys, strict=True)), strict=True)
        return stack(states), self._identify(jnp.stack(obs))

    def begin(self, keys):
        keys, clocks = jnp.moveaxis(jax.vmap(jax.vmap(jax.random.split))(keys), -1, 0)
        state, obs = self.reset(keys)
        limit = min(self.options.training_horizon or self.horizon, self.horizon)
        latest = limit if self.options.stagger else 1
        time = jax.vmap(jax.vmap(lambda k: jax.random.randint(k, (), 0, latest)))(clocks)
        return state._replace(time=time, limit=jnp.full_like(state.limit, limit)), obs

    def step(self, keys, state, action):
        moved, seen = self.physics.step(state.physics, action)
        states, steps = zip(*(
            jax.vmap(env.finish)(keys[m], self.of_task(state, m), self.of_task(moved, m), seen[m],
                                 action[m])
            for m, env in enumerate(self.envs)), strict=True)
        steps = stack(steps)
        return stack(states), steps._replace(obs=self._identify(steps.obs),
                                             final_obs=self._identify(steps.final_obs))

    def bytes_per_env(self):
        return _BYTES_PER_ENV[self.physics.name]

    def render(self, state: EnvState, task: int, env: int = 0, *, width: int = 480,
               height: int = 480) -> np.ndarray:
        """A picture [height, width, 3] (uint8) of one env of `state`; see `render.picture`."""
        one = jax.tree.map(lambda x: np.asarray(x[env], float), self.of_task(state, task))
        drawn, own = self.envs[task].task, one.physics.cut(self.physics.sizes[task])
        return render.picture(drawn, own.qpos, own.placed, one.setup.target, width, height)

    @property
    def tracing(self) -> Callable[[str], None] | None:
        """Who hears how far JAX's tracing has come; MJX's takes long."""
        return getattr(self.physics, "tracing", None)

    @tracing.setter
    def tracing(self, told: Callable[[str], None] | None) -> None:
        self.physics.tracing = told

    def of_task(self, state: Any, m: int) -> Any:
        """The states [N, ...] of one task."""
        return jax.tree.map(lambda x: x[m], state)

    def one_hot(self, m: int) -> np.ndarray:
        """What is appended to observations of task m: its one-hot code [M] or nothing [0]."""
        width = self.num_tasks if self.options.one_hot else 0
        return (np.arange(width) == m).astype(np.float32)

    def _identify(self, obs: jax.Array) -> jax.Array:
        """Appends the one-hot codes to observations [M, N, 39]."""
        codes = jnp.stack([self.one_hot(m) for m in range(self.num_tasks)])
        codes = jnp.broadcast_to(codes[:, None], (*obs.shape[:2], codes.shape[-1]))
        return jnp.concatenate([obs, codes], -1)


def _physics(chosen: Sequence[Task], options: MetaWorldConfig,
             settings: Settings | None) -> Physics:
    engine = physics_here(options)
    if engine == "warp":
        from varshare_jax.suites.metaworld.warp_physics import WarpPhysics

        return WarpPhysics(chosen)
    if engine == "mjx":
        from varshare_jax.suites.metaworld.mjx_physics import MjxPhysics

        return MjxPhysics(chosen, settings)
    from varshare_jax.suites.metaworld.mujoco_physics import MujocoPhysics

    return MujocoPhysics(chosen, physics.threads(options))


def stack(trees: Sequence[Any]) -> Any:
    """Tasks' states or steps (leaves [N, ...]) as one, [M, N, ...]."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _where(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
