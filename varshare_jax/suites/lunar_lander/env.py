"""LunarLander in JAX: one environment in the manner of gymnax, or any batch of them at once.

The dynamics, rewards and endings are those of Gymnasium's LunarLander-v3 (O. Klimov), whose Box2D
physics is solved here by the same constraints in the same order. All functions are pure and take
arrays with any trailing batch axes; `jax.vmap` works as well.
"""

import dataclasses
import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from varshare_jax.errors import UserError
from varshare_jax.suites.lunar_lander import contacts, flight, joints
from varshare_jax.suites.lunar_lander.batching import where_needed
from varshare_jax.suites.lunar_lander.bodies import (
    BODIES,
    CHUNKS,
    DT,
    HELIPAD_HEIGHT,
    HULL,
    HULL_ANCHOR,
    LEG_AWAY,
    LEG_DOWN,
    SCALE,
    SIDES,
    SKIN,
    SLEEP_RATE,
    SLEEP_SECONDS,
    SLEEP_SPEED,
    SPACING,
    WORLD,
)
from varshare_jax.suites.lunar_lander.collision import corners, height_of, separation
from varshare_jax.suites.lunar_lander.geometry import (
    Motion,
    Pose,
    Scalar,
    Vec,
    clip,
    stack,
    unstack,
)

OBSERVATION_SIZE, NUM_ACTIONS, ACTION_SIZE = 8, 4, 2
MAX_STEPS = 1000
_MAIN_POWER, _SIDE_POWER = 13.0, 0.6
_INITIAL_FORCE = 1000.0  # N
_FIRST_POSITION_ITERATIONS = 60
_IMPACT_DISTANCE = 0.00375  # m, from which Box2D's continuous collision counts as a touch
_MARGIN = 0.05  # m around a body within which the terrain is looked at closely


class Params(struct.PyTreeNode):
    """Parameters of a task; scalars or arrays with the batch axes.

    gravity: m/s², in (-12, 0). wind_power: N, recommended in [0, 20]. turbulence_power: N m,
    recommended in [0, 2]. Both do nothing unless enable_wind.
    """

    gravity: Scalar = -10.0
    enable_wind: Scalar = False
    wind_power: Scalar = 15.0
    turbulence_power: Scalar = 1.5
    max_steps_in_episode: Scalar = MAX_STEPS


class State(struct.PyTreeNode):
    """One lander; every leaf may have trailing batch axes.

    Poses and motions have leaves [3]: hull, leg 0 (the right one), leg 1. `shaping` is the
    potential whose change is the reward, `main` and `side` are the engines' powers
    in the last step (for pictures), `wind` the wind's force in it, N.
    """

    pose: Pose
    motion: Motion
    joint_impulses: joints.Impulses
    limits: jax.Array
    memories: contacts.Memory
    contact_flags: jax.Array
    terrain: jax.Array
    wind_index: jax.Array
    turbulence_index: jax.Array
    shaping: jax.Array
    still_seconds: jax.Array
    main: jax.Array
    side: jax.Array
    wind: jax.Array
    time: jax.Array


class Start(NamedTuple):
    """What is random about an episode's start, drawn as in the original.

    heights [12] of the terrain (m), force [2] on the hull in the first step (N), the indices of
    wind and turbulence.
    """

    heights: jax.Array
    force: jax.Array
    wind_index: jax.Array
    turbulence_index: jax.Array


class Outcome(NamedTuple):
    """What a step leads to; `landed` tells the one good ending."""

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    landed: jax.Array


@dataclasses.dataclass(frozen=True)
class LunarLander:
    """The environment with discrete actions, or with two continuous ones.

    `velocity_iterations` and `position_iterations` are Box2D's; see docs/lunar_lander.md for
    what fewer cost in agreement and save in time.
    """

    continuous: bool = False
    velocity_iterations: int = 180
    position_iterations: int = 60

    @property
    def default_params(self) -> Params:
        return Params()

    def reset(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        """key -> observation [8], state."""
        return self.begin(draw_start(key), params)

    def begin(self, start: Start, params: Params) -> tuple[jax.Array, State]:
        """The episode with that start: its first step is taken without engines."""
        state = _initial_state(start)
        zero = jnp.zeros_like(start.force[0])
        state, motions = _push(state, params, zero, zero, zero, jnp.stack([zero, zero]),
                               Vec(start.force[0], start.force[1]))
        # The joints start apart, so this needs many corrections; the ground is far.
        state, _ = self._fly(state, motions, _FIRST_POSITION_ITERATIONS)
        observation = observe(state)
        return observation, state.replace(shaping=_shaping(observation))

    def transition(self, state: State, action: jax.Array, dispersion: jax.Array,
                   params: Params) -> tuple[State, Outcome]:
        """One step without a reset. `dispersion` [2]: the engines' noise, uniform in [-1, 1]."""
        if self.continuous:
            main, side = action[0], clip(action[1], -1.0, 1.0)
            main = jnp.where(main > 0, 0.5 + 0.5 * clip(main, 0.0, 1.0), 0.0)
            side_power = jnp.where(jnp.abs(side) > 0.5, jnp.abs(side), 0.0)
            direction = jnp.sign(side)
        else:
            main = (action == 2).astype(jnp.float32)
            side_power = ((action == 1) | (action == 3)).astype(jnp.float32)
            direction = (action - 2).astype(jnp.float32)
        return self._advance(state, params, main, side_power, direction, dispersion)

    def step(self, key: jax.Array, state: State, action: jax.Array, params: Params):
        """One step; an ended episode starts anew, as in gymnax.

        key, state, action () or [2], params -> observation [8], state, reward, done, info with
        `terminated`, `truncated`, `landed` and `final_observation`, the one before the reset.
        """
        dispersion_key, reset_key = jax.random.split(key)
        state, out = self.transition(state, action, draw_dispersion(dispersion_key), params)
        done = out.terminated | out.truncated
        first = self.restart(done, reset_key, params, (out.observation, state))
        info = {"terminated": out.terminated, "truncated": out.truncated, "landed": out.landed,
                "final_observation": out.observation}
        return *first, out.reward, done, info

    def restart(self, done: jax.Array, keys: jax.Array, params: Params, otherwise):
        """`reset` where episodes are done, else `otherwise`: a pair (observation, state)."""
        params = jax.tree.map(lambda x: jnp.broadcast_to(x, done.shape), params)
        return where_needed(lambda given: self.reset(*given), done, (keys, params), otherwise)

    def _advance(self, state: State, params: Params, main: Scalar, side: Scalar,
                 direction: Scalar, dispersion: jax.Array) -> tuple[State, Outcome]:
        """Wind, engines, physics, then what the original computes from them."""
        state, motions = _push(state, params, main, side, direction, dispersion, Vec(0.0, 0.0))
        away, flies = self._fly(state, motions, 1)
        for body, start, end in zip(BODIES, unstack(state.pose, 3), unstack(away.pose, 3),
                                    strict=True):
            flies &= ~_may_touch(body, start, end, state.terrain)
        yes = jnp.ones_like(flies)
        new, solved, crashed = where_needed(
            self._touch, ~flies, state.replace(motion=stack(motions)), (away, yes, ~yes))
        still_seconds = jnp.where(_is_still(new.motion), state.still_seconds + DT, 0.0)
        asleep = (still_seconds >= SLEEP_SECONDS - 1e-4) & solved
        observation = observe(new)
        shaping = _shaping(observation)
        reward = shaping - state.shaping - 0.30 * main - 0.03 * side
        crashed |= jnp.abs(observation[0]) >= 1
        reward = jnp.where(asleep, 100.0, jnp.where(crashed, -100.0, reward))
        terminated, time = crashed | asleep, state.time + 1
        truncated = (time >= params.max_steps_in_episode) & ~terminated
        return (new.replace(shaping=shaping, still_seconds=still_seconds, time=time),
                Outcome(observation, reward, terminated, truncated, asleep))

    def _fly(self, state: State, motions: list[Motion], position_iterations: int):
        """The state after a step in the air. -> state, whether it may be believed."""
        poses = unstack(state.pose, 3)
        limits = [joints.limit_state(k, poses[0], poses[k + 1]) for k in (0, 1)]
        poses, motions, impulses, valid = flight.step(
            poses, motions, unstack(state.joint_impulses, 2), self.velocity_iterations,
            position_iterations)
        return state.replace(
            pose=stack(poses), motion=stack(motions), joint_impulses=stack(impulses),
            limits=jnp.stack(limits), memories=contacts.no_memory(state.memories.edge.shape),
            contact_flags=jnp.zeros_like(state.contact_flags)), valid

    def _touch(self, state: State):
        """A step near the ground. -> state, whether positions are solved, whether it crashed."""
        (hull, *legs), (hull_motion, *leg_motions) = unstack(state.pose, 3), unstack(state.motion,
                                                                                      3)
        crashed = _hull_touches(hull, state.terrain, SKIN)
        limits = [joints.limit_state(k, hull, legs[k]) for k in (0, 1)]
        poses, motions, impulses, memories, flags, solved = contacts.step(
            hull, stack(legs), hull_motion, stack(leg_motions), state.joint_impulses, state.limits,
            state.memories, state.contact_flags, state.terrain, self.velocity_iterations,
            self.position_iterations)
        crashed |= _hull_touches(poses[0], state.terrain, _IMPACT_DISTANCE)
        state = state.replace(
            pose=stack(poses), motion=stack(motions), joint_impulses=stack(impulses),
            limits=jnp.stack(limits), memories=memories, contact_flags=flags)
        return state, solved, crashed


def draw_start(keys: jax.Array) -> Start:
    """The random part of resets: keys [...] -> leaves [..., batch axes of the keys]."""
    def draw(key):
        heights, force, indices = jax.random.split(key, 3)
        first, second = jax.random.randint(indices, (2,), -9999, 9999)
        return Start(
            jax.random.uniform(heights, (CHUNKS + 1,), maxval=WORLD.y / 2),
            jax.random.uniform(force, (2,), minval=-_INITIAL_FORCE, maxval=_INITIAL_FORCE),
            first, second)

    return _for_each(draw, keys)


def draw_dispersion(keys: jax.Array) -> jax.Array:
    """The engines' noise of a step: keys [...] -> [2, ...]."""
    return _for_each(lambda key: jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0), keys)


def _for_each(draw, keys: jax.Array):
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1).reshape(*x.shape[1:], *keys.shape),
                        jax.vmap(draw)(keys.reshape(-1)))


def check_params(gravity: float, wind_power: float, turbulence_power: float) -> None:
    """Gymnasium's own bounds: raises UserError outside the hard ones, else warns."""
    if not -12.0 < gravity < 0.0:
        raise UserError(f"gravity={gravity}: must lie between -12 and 0, both excluded")
    for name, value, most in (("wind_power", wind_power, 20.0),
                              ("turbulence_power", turbulence_power, 2.0)):
        if not math.isfinite(value):
            raise UserError(f"{name}={value}: must be a finite number")
        if not 0.0 <= value <= most:
            warnings.warn(f"{name}={value}: recommended between 0 and {most}", stacklevel=3)


def observe(state: State) -> jax.Array:
    """The observation [8]: position of the hull's origin, velocity, angle, rate, contacts."""
    hull = Pose(Vec(state.pose.at.x[0], state.pose.at.y[0]), state.pose.angle[0])
    origin = hull.at + HULL_ANCHOR.turned(hull.direction)
    half_width, half_height = WORLD.x / 2, WORLD.y / 2
    return jnp.stack([
        (origin.x - half_width) / half_width,
        (origin.y - (HELIPAD_HEIGHT + LEG_DOWN)) / half_height,
        state.motion.linear.x[0] * half_width * DT,
        state.motion.linear.y[0] * half_height * DT,
        hull.angle,
        20.0 * DT * state.motion.angular[0],
        state.contact_flags[0].astype(jnp.float32),
        state.contact_flags[1].astype(jnp.float32)])


def _initial_state(start: Start) -> State:
    shape = start.force.shape[1:]

    def full(value, *lead):
        return jnp.full((*lead, *shape), value, jnp.float32)

    flat = np.isin(np.arange(CHUNKS + 1), range(CHUNKS // 2 - 2, CHUNKS // 2 + 3))
    heights = [full(HELIPAD_HEIGHT) if level else start.heights[i] for i, level in enumerate(flat)]
    terrain = jnp.stack([0.33 * (heights[i - 1] + heights[i] + heights[i + 1])
                         for i in range(CHUNKS)])
    x, y = WORLD.x / 2, WORLD.y
    hull = Pose(Vec(full(x), full(y + HULL.centre.y)), full(0.0))
    legs = [Pose(Vec(full(x - i * LEG_AWAY), full(y)), full(0.05 * i)) for i in SIDES]
    return State(
        pose=stack([hull, *legs]), motion=Motion(Vec(full(0.0, 3), full(0.0, 3)), full(0.0, 3)),
        joint_impulses=joints.Impulses(Vec(full(0.0, 2), full(0.0, 2)), full(0.0, 2),
                                       full(0.0, 2)),
        limits=full(0.0, 2), memories=contacts.no_memory((2, 2, *shape)),
        contact_flags=jnp.zeros((2, *shape), bool), terrain=terrain,
        wind_index=start.wind_index, turbulence_index=start.turbulence_index,
        shaping=full(0.0), still_seconds=full(0.0), main=full(0.0), side=full(0.0),
        wind=full(0.0), time=jnp.zeros(shape, jnp.int32))


def _push(state: State, params: Params, main: Scalar, side: Scalar, direction: Scalar,
          dispersion: jax.Array, force: Vec) -> tuple[State, list[Motion]]:
    """Motions after wind, engines, gravity and another force (N) on the hull."""
    hull, *legs = unstack(state.motion, 3)
    state, wind, torque = _blow(state, params)
    hull = hull.pushed(HULL, (force + Vec(wind, 0.0)) * DT, Vec(0.0, 0.0), torque * DT)
    hull = _fire(unstack(state.pose, 3)[0], hull, main, side, direction, dispersion)
    fall = Vec(0.0, params.gravity * DT)
    motions = [motion.replace(linear=motion.linear + fall) for motion in (hull, *legs)]
    return state.replace(main=main, side=side * direction, wind=wind), motions


def _blow(state: State, params: Params) -> tuple[State, Scalar, Scalar]:
    """Wind (N) and turbulence (N m), which rest while a leg has contact."""
    blows = params.enable_wind & ~(state.contact_flags[0] | state.contact_flags[1])

    def gust(index, power):
        wave = jnp.tanh(jnp.sin(0.02 * index) + jnp.sin(math.pi * 0.01 * index))
        return jnp.where(blows, wave * power, 0.0)

    wind = gust(state.wind_index, params.wind_power)
    torque = gust(state.turbulence_index, params.turbulence_power)
    return state.replace(wind_index=state.wind_index + blows,
                         turbulence_index=state.turbulence_index + blows), wind, torque


def _fire(pose: Pose, hull: Motion, main: Scalar, side: Scalar, direction: Scalar,
          dispersion: jax.Array) -> Motion:
    """The hull's motion after the engines, with the original's peculiar points of attack."""
    turn = pose.direction
    up, left = Vec(turn.y, turn.x), Vec(-turn.x, turn.y)  # "tip" and "side", mirrored as there
    origin = HULL_ANCHOR.turned(turn)
    along, across = dispersion[0] / SCALE, dispersion[1] / SCALE
    shift = 4 / SCALE + 2 * along
    offset = Vec(up.x * shift + left.x * across, -up.y * shift - left.y * across)
    hull = hull.pushed(HULL, offset * (-_MAIN_POWER * main), origin + offset)
    shift = 3 * across + direction * 12 / SCALE
    offset = Vec(up.x * along + left.x * shift, -up.y * along - left.y * shift)
    nozzle = Vec(-up.x * 17 / SCALE, up.y * 14 / SCALE)
    return hull.pushed(HULL, offset * (-_SIDE_POWER * side), origin + offset + nozzle)


def _may_touch(body, start: Pose, end: Pose, terrain: jax.Array) -> Scalar:
    """Whether a body's bounding box over a step, widened a little, reaches the terrain."""
    ends = [corners(body, pose)[0] for pose in (start, end)]
    low, bottom = (jnp.minimum(one.min(0), two.min(0)) - _MARGIN
                   for one, two in ((ends[0].x, ends[1].x), (ends[0].y, ends[1].y)))
    high = jnp.maximum(ends[0].x.max(0), ends[1].x.max(0)) + _MARGIN
    places = SPACING * jnp.arange(CHUNKS, dtype=jnp.float32).reshape(-1, *(1,) * low.ndim)
    peaks = jnp.where((low <= places) & (places <= high), terrain, -jnp.inf).max(0)
    highest = jnp.maximum(jnp.maximum(_ground(terrain, low), _ground(terrain, high)), peaks)
    return bottom <= highest


def _ground(terrain: jax.Array, x: Scalar) -> Scalar:
    """Height of the terrain at x."""
    index = clip(jnp.floor(x / SPACING), 0, CHUNKS - 2)
    left, right = height_of(terrain, index), height_of(terrain, index + 1)
    return left + (right - left) * clip(x / SPACING - index, 0.0, 1.0)


def _hull_touches(hull: Pose, terrain: jax.Array, distance: float) -> Scalar:
    _, edges = contacts.nearest_edges(terrain, hull)
    return (separation(HULL, hull, edges) <= distance).any(0)


def _is_still(motion: Motion) -> Scalar:
    speed = motion.linear.dot(motion.linear)
    return jnp.all((speed <= SLEEP_SPEED**2) & (jnp.abs(motion.angular) <= SLEEP_RATE), axis=0)


def _shaping(observation: jax.Array) -> Scalar:
    """The potential whose change is the reward."""
    x, y, vx, vy, angle, _, right, left = observation
    return (-100 * jnp.sqrt(x * x + y * y) - 100 * jnp.sqrt(vx * vx + vy * vy)
            - 100 * jnp.abs(angle) + 10 * right + 10 * left)
