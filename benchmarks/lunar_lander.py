"""LunarLander's throughput against Gymnasium's, in one process and in turns.

    python -m benchmarks.lunar_lander --envs=2048

Both are flown by the original's heuristic controller, whose cost counts: inside the program here,
in numpy over the batch there. A round measures every competitor once; the figures are medians.
"""

import statistics
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.sharding import PartitionSpec

from varshare_jax import suites
from varshare_jax.runs.devices import use_cpu_cores
from varshare_jax.validation.lunar_lander import heuristic

_ENVS = flags.DEFINE_integer("envs", 2048, "environments of ours, stepped in parallel")
_STEPS = flags.DEFINE_integer("steps", 200, "steps per call of ours")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds")
_SECONDS = flags.DEFINE_float("seconds", 3.0, "seconds of a measurement of Gymnasium's")


def ours():
    """(steps/s of one call, seconds that compiling a single step took).

    Every device, of a CPU every core, has its share of the landers, as in training.
    """
    suite = suites.make("lunar_lander")
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))
    split, whole = PartitionSpec(None, "devices"), PartitionSpec()
    shape = 1, _ENVS.value // mesh.size

    def step(carry, key):
        state, obs = carry
        action = heuristic(jnp.moveaxis(obs, -1, 0), False)
        state, out = suite.step(jax.random.split(key, shape), state, action)
        return (state, out.obs), None

    def roll(carry, key):
        return jax.lax.scan(step, carry, jax.random.split(key, _STEPS.value))[0]

    roll = jax.jit(jax.shard_map(roll, mesh=mesh, in_specs=(split, whole), out_specs=split,
                                 check_vma=False))
    keys = jax.random.split(jax.random.key(0), (1, _ENVS.value))
    carry = jax.jit(suite.reset)(keys)
    started = time.perf_counter()
    jax.jit(suite.step).lower(keys, carry[0], jnp.zeros(keys.shape, jnp.int32)).compile()
    seconds = time.perf_counter() - started
    carry = jax.device_put(carry, jax.sharding.NamedSharding(mesh, split))
    carry = jax.block_until_ready(roll(carry, jax.random.key(1)))  # episodes fall out of step

    def measure() -> float:
        nonlocal carry
        started = time.perf_counter()
        carry = jax.block_until_ready(roll(carry, jax.random.key(2)))
        return _ENVS.value * _STEPS.value / (time.perf_counter() - started)

    return measure, seconds


def theirs(envs, count: int):
    """Steps/s of a Gymnasium vector environment under the heuristic."""
    obs, _ = envs.reset(seed=0)

    def measure() -> float:
        nonlocal obs
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < _SECONDS.value:
            action = np.asarray(_heuristic(obs.T))
            obs, *_ = envs.step(action)
            steps += count
        return steps / (time.perf_counter() - started)

    return measure


def _heuristic(obs: np.ndarray) -> np.ndarray:
    """The controller in numpy, so that the comparison does not pay for calls of a device."""
    x, y, vx, vy, angle, rate, right, left = obs
    contact = (right > 0) | (left > 0)
    turn = np.where(contact, 0.0, (np.clip(0.5 * x + vx, -0.4, 0.4) - angle) * 0.5 - rate)
    hover = np.where(contact, -0.5 * vy, (0.55 * np.abs(x) - y) * 0.5 - 0.5 * vy)
    side = np.where(turn < -0.05, 3, np.where(turn > 0.05, 1, 0))
    return np.where((hover > np.abs(turn)) & (hover > 0.05), 2, side)


def main(argv: list[str]) -> None:
    del argv
    use_cpu_cores()
    make = [lambda: gymnasium.make("LunarLander-v3")]
    measure, compile_seconds = ours()
    competitors = {
        "ours": measure,
        "SyncVectorEnv 64": theirs(gymnasium.vector.SyncVectorEnv(make * 64), 64),
        "AsyncVectorEnv 2": theirs(gymnasium.vector.AsyncVectorEnv(make * 2), 2),
    }
    speeds = {name: [] for name in competitors}
    for _ in range(_ROUNDS.value):
        for name, run in competitors.items():
            speeds[name].append(run())
    for name, values in speeds.items():
        print(f"{name:<18}{statistics.median(values):>12,.0f} steps/s")
    ratios = [mine / max(others) for mine, *others in zip(*speeds.values(), strict=True)]
    print(f"ratio to the faster of Gymnasium's, median of {len(ratios)} rounds: "
          f"{statistics.median(ratios):.1f}; one step compiles in {compile_seconds:.1f} s")


if __name__ == "__main__":
    app.run(main)
