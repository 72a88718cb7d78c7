"""Compares our LunarLander with Gymnasium's, episode by episode on the same random numbers.

    python -m varshare_jax.validation.lunar_lander --seeds=1000

Free flight under random actions must agree step by step. Under the original's own heuristic
controller a first touch of the ground amplifies the last digit, so whole episodes are compared by
their statistics and by how often a seed ends the same way in both.
"""

import functools
import multiprocessing
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy import stats

from varshare_jax.runs import provenance
from varshare_jax.suites import lunar_lander

_SEEDS = flags.DEFINE_integer("seeds", 1000, "episodes of each configuration")
_FIRST = flags.DEFINE_integer("first_seed", 10_000, "the first seed; the others follow")
_VELOCITY = flags.DEFINE_integer("velocity_iterations", 180, "iterations of the velocity solver")
_POSITION = flags.DEFINE_integer("position_iterations", 60, "iterations of the position solver")
_ONLY = flags.DEFINE_list("only", [], "names of configurations; all by default")
_ACTIONS = flags.DEFINE_list("actions", ["discrete", "continuous"], "kinds of actions")

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "windy": {"enable_wind": True},
    "gravity -3": {"gravity": -3.0},
    "gravity -11.9": {"gravity": -11.9},
    "gravity -3, wind 20": {"gravity": -3.0, "enable_wind": True, "wind_power": 20.0,
                            "turbulence_power": 2.0},
}
MAX_STEPS = lunar_lander.Params.max_steps_in_episode


Array = jax.Array | np.ndarray


class Episodes(NamedTuple):
    """One entry per seed [N]."""

    total: Array
    length: Array
    landed: Array
    truncated: Array

    @property
    def outcome(self) -> np.ndarray:
        """0 crashed, 1 landed, 2 truncated."""
        return np.where(self.landed, 1, np.where(self.truncated, 2, 0))


def streams(seeds: range, wind: bool) -> tuple[lunar_lander.Start, np.ndarray]:
    """The random numbers that Gymnasium draws for these seeds: starts, dispersion [T, 2, N]."""
    from gymnasium.utils.seeding import np_random

    heights, force, indices, dispersion = [], [], [], []
    for seed in seeds:
        generator, _ = np_random(seed)
        heights.append(generator.uniform(0, 400 / 60, size=12))
        force.append([generator.uniform(-1000, 1000) for _ in range(2)])
        indices.append([int(generator.integers(-9999, 9999)) if wind else 0 for _ in range(2)])
        dispersion.append(generator.uniform(-1, 1, size=(MAX_STEPS + 1, 2)))
    wind_index, turbulence_index = np.array(indices, np.int32).T
    drawn: Any = (np.array(heights, np.float32).T, np.array(force, np.float32).T, wind_index,
                  turbulence_index)
    start = lunar_lander.Start(*drawn)
    return start, np.array(dispersion, np.float32).transpose(1, 2, 0)[1:]  # reset used the first


def heuristic(obs: jax.Array, continuous: bool) -> jax.Array:
    """Gymnasium's demonstration controller on observations [8, N]."""
    x, y, vx, vy, angle, rate, right, left = obs
    contact = (right > 0) | (left > 0)
    wanted = jnp.clip(0.5 * x + vx, -0.4, 0.4)
    turn = jnp.where(contact, 0.0, (wanted - angle) * 0.5 - rate)
    hover = jnp.where(contact, -0.5 * vy, (0.55 * jnp.abs(x) - y) * 0.5 - 0.5 * vy)
    if continuous:
        return jnp.clip(jnp.stack([hover * 20 - 1, -turn * 20]), -1, 1)
    side = jnp.where(turn < -0.05, 3, jnp.where(turn > 0.05, 1, 0))
    return jnp.where((hover > jnp.abs(turn)) & (hover > 0.05), 2, side)


@functools.partial(jax.jit, static_argnums=0)
def play(env: lunar_lander.LunarLander, params: lunar_lander.Params, start: lunar_lander.Start,
         dispersion: jax.Array) -> Episodes:
    """The heuristic's episodes, all at once until the last has ended."""
    obs, state = env.begin(start, params)
    zero = jnp.zeros(obs.shape[1:])
    nothing = Episodes(zero, zero, zero > 0, zero > 0)

    def step(carry):
        t, obs, state, episodes, playing = carry
        state, out = env.transition(state, heuristic(obs, env.continuous), dispersion[t], params)
        episodes = Episodes(
            episodes.total + jnp.where(playing, out.reward, 0.0), episodes.length + playing,
            episodes.landed | (playing & out.landed),
            episodes.truncated | (playing & out.truncated))
        return t + 1, out.observation, state, episodes, playing & ~(out.terminated | out.truncated)

    carry = 0, obs, state, nothing, jnp.ones_like(zero, bool)
    return jax.lax.while_loop(lambda c: (c[0] < MAX_STEPS) & c[4].any(), step, carry)[3]


def gymnasium_episode(seed: int, options: dict) -> tuple[float, int, bool, bool]:
    """The same episode in the original: return, length, landed, truncated."""
    import gymnasium
    from gymnasium.envs.box2d.lunar_lander import heuristic as original

    env = gymnasium.make("LunarLander-v3", **options)
    obs, _ = env.reset(seed=seed)
    total, length = 0.0, 0
    while True:
        obs, reward, terminated, truncated, _ = env.step(original(env, obs))
        total, length = total + float(reward), length + 1
        if terminated or truncated:
            return total, length, bool(terminated and reward == 100), bool(truncated)


def gymnasium_episodes(seeds: range, options: dict) -> Episodes:
    """All of them, on every core."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        played = pool.map(functools.partial(gymnasium_episode, options=options), seeds, 20)
    return Episodes(*map(np.array, zip(*played, strict=True)))


def free_flight_error(options: dict, seeds: range, steps: int = 300) -> tuple[float, float]:
    """Largest difference of an observation at ≤ 30 steps and until a first touch (or end)."""
    import gymnasium

    env = lunar_lander.LunarLander()
    params = params_of(options, len(seeds))
    start, dispersion = streams(seeds, options.get("enable_wind", False))
    obs, state = jax.jit(env.begin)(start, params)
    originals = [gymnasium.make("LunarLander-v3", **options) for _ in seeds]
    expected = np.stack([e.reset(seed=s)[0] for s, e in zip(seeds, originals, strict=True)], 1)
    errors, playing = [np.abs(obs - expected).max()], np.ones(len(seeds), bool)
    step = jax.jit(env.transition)
    actions = np.random.default_rng(0).integers(0, 4, (steps, len(seeds)))
    for t, action in enumerate(actions):
        state, out = step(state, action, dispersion[t], params)
        obs, worst = np.asarray(out.observation), 0.0
        for i in np.flatnonzero(playing):
            there, _, terminated, _, _ = originals[i].step(int(action[i]))
            touches = there[6:].any() or obs[6:, i].any()
            playing[i] = not (touches or terminated or out.terminated[i])
            if playing[i]:
                worst = max(worst, float(np.abs(there - obs[:, i]).max()))
        errors.append(worst)
    return max(errors[:31]), max(errors)


def params_of(options: dict, count: int) -> lunar_lander.Params:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count,)), lunar_lander.Params(
        **{name: value for name, value in options.items() if name != "continuous"}))


def compare(ours: Episodes, theirs: Episodes) -> str:
    """A row of the table: figures of the original → ours, then how far they are apart."""
    return (f"{theirs.landed.mean():.3f} → {ours.landed.mean():.3f} | "
            f"{theirs.total.mean():.1f} → {ours.total.mean():.1f} | "
            f"{stats.ks_2samp(ours.total, theirs.total).statistic:.3f} | "
            f"{(ours.outcome == theirs.outcome).mean():.3f} | "
            f"{theirs.truncated.mean():.3f} → {ours.truncated.mean():.3f}")


def main(argv: list[str]) -> None:
    del argv
    provenance.use_compile_cache("auto")
    seeds = range(_FIRST.value, _FIRST.value + _SEEDS.value)
    names = _ONLY.value or list(CONFIGURATIONS)
    print("| free flight, 20 seeds | ≤ 30 steps | until a touch |\n|---|---|---|")
    for name in names:
        early, late = free_flight_error(CONFIGURATIONS[name], seeds[:20])
        print(f"| {name} | {early:.1e} | {late:.1e} |", flush=True)
    print("\n| heuristic | actions | landing rate | mean return | KS | same outcome | truncated |"
          "\n|---|---|---|---|---|---|---|")
    for name in names:
        for actions in _ACTIONS.value:
            options = CONFIGURATIONS[name] | {"continuous": actions == "continuous"}
            env = lunar_lander.LunarLander(actions == "continuous", _VELOCITY.value,
                                           _POSITION.value)
            start, dispersion = streams(seeds, options.get("enable_wind", False))
            ours = Episodes(*map(np.asarray, play(env, params_of(options, len(seeds)), start,
                                                  dispersion)))
            theirs = gymnasium_episodes(seeds, options)
            print(f"| {name} | {actions} | {compare(ours, theirs)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
