"""Measures another library once, in a fresh process of an environment of its own.

`<python of that environment> -m benchmarks.peers '<spec as JSON>'`. The libraries run unchanged
on the devices and threads that JAX gives them by default. Each compiled call is a whole training
of `updates` updates, including its initialisation (milliseconds); compiling and one call before
the window are excluded.
"""

import hashlib
import importlib
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.timing import answer, compile_timed, seconds_per_call, versions

ROLLOUT_LENGTH = 128
# Modules that purejaxrl's wrappers import for environments that are not measured here.
_UNUSED = ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix")


def purejaxrl(spec: dict[str, Any]) -> dict[str, Any]:
    """PPO of the purejaxrl checkout in `spec["path"]` on one CartPole-v1."""
    shims = _add_tree_map() + _stub_unused()
    folder = Path(spec["path"]) / "purejaxrl"
    sys.path.insert(0, str(folder))
    ppo = importlib.import_module("ppo")
    envs, updates = spec["settings"]["num_envs"], spec["settings"]["updates"]
    train = ppo.make_train({
        "ENV_NAME": "CartPole-v1", "NUM_ENVS": envs, "NUM_STEPS": ROLLOUT_LENGTH,
        "TOTAL_TIMESTEPS": updates * ROLLOUT_LENGTH * envs, "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4, "ACTIVATION": "tanh", "LR": 2.5e-4, "ANNEAL_LR": True,
        "GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2, "ENT_COEF": 0.01, "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5, "DEBUG": False})
    source = hashlib.sha256((folder / "ppo.py").read_bytes()).hexdigest()
    return _measure(train, spec, ROLLOUT_LENGTH) | {
        "shims": shims, "source_sha256": source,
        "versions": versions("jax", "flax", "gymnax", "distrax")}


def rejax(spec: dict[str, Any]) -> dict[str, Any]:
    """rejax's PPO on CartPole-v1, without its evaluations."""
    shims = _add_tree_map()
    library = importlib.import_module("rejax")
    envs, updates = spec["settings"]["num_envs"], spec["settings"]["updates"]
    steps = updates * ROLLOUT_LENGTH * envs
    algorithm = library.PPO.create(
        env="CartPole-v1", num_envs=envs, num_steps=ROLLOUT_LENGTH, num_epochs=4,
        num_minibatches=4, total_timesteps=steps, eval_freq=steps, learning_rate=2.5e-4,
        skip_initial_evaluation=True, max_grad_norm=0.5,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)})
    algorithm = algorithm.replace(eval_callback=lambda *_: ())
    return _measure(algorithm.train, spec, ROLLOUT_LENGTH) | {
        "shims": shims, "versions": versions("jax", "flax", "gymnax", "distrax", "rejax")}


def rejax_dqn(spec: dict[str, Any]) -> dict[str, Any]:
    """rejax's double DQN on CartPole-v1, without its evaluations.

    An update is one step of every env and `gradient_steps` batches. Learning starts as soon as
    a batch is full, so a call holds hardly any update without it.
    """
    shims = _add_tree_map()
    library = importlib.import_module("rejax")
    settings = spec["settings"]
    steps = settings["updates"] * settings["num_envs"]
    algorithm = library.DQN.create(
        env="CartPole-v1", num_envs=settings["num_envs"], num_epochs=settings["gradient_steps"],
        batch_size=settings["batch_size"], buffer_size=settings["replay"],
        fill_buffer=settings["batch_size"], total_timesteps=steps, eval_freq=steps,
        skip_initial_evaluation=True, learning_rate=1e-3, max_grad_norm=10.0, polyak=0.98,
        agent="QNetwork", agent_kwargs={"activation": "tanh"})
    algorithm = algorithm.replace(eval_callback=lambda *_: ())
    return _measure(algorithm.train, spec, 1) | {
        "shims": shims, "versions": versions("jax", "flax", "gymnax", "distrax", "rejax")}


def _measure(train: Callable[[jax.Array], Any], spec: dict[str, Any],
             rollout_length: int) -> dict[str, Any]:
    """Steps per second of train(key), compiled ahead of time."""
    if spec["cache"]:
        jax.config.update("jax_compilation_cache_dir", spec["cache"])
    keys = (jax.random.PRNGKey(seed) for seed in itertools.count())
    compiled, compile_seconds = compile_timed(lambda: jax.jit(train).lower(next(keys)).compile())
    jax.block_until_ready(compiled(next(keys)))
    seconds, calls = seconds_per_call(lambda: jax.block_until_ready(compiled(next(keys))),
                                      spec["window"])
    settings, first = spec["settings"], jax.devices()[0]
    updates = settings["updates"]
    return {"steps_per_second": updates * rollout_length * settings["num_envs"] / seconds,
            "seconds_per_update": seconds / updates, "compile_seconds": compile_seconds,
            "calls": calls, "device": {"platform": first.platform, "kind": first.device_kind,
                                       "count": jax.device_count()}}


def _add_tree_map() -> list[str]:
    """Gives back the alias that gymnax 0.0.9 uses and JAX has dropped."""
    if hasattr(jax, "tree_map"):
        return []
    jax.tree_map = jax.tree.map
    return ["jax.tree_map = jax.tree.map"]


def _stub_unused() -> list[str]:
    """Empty modules in place of missing ones that purejaxrl imports but CartPole does not need."""
    missing = [name for name in _UNUSED if importlib.util.find_spec(name.split(".")[0]) is None]
    for name in missing:
        module = sys.modules[name] = types.ModuleType(name)
        module.EpisodeWrapper = module.AutoResetWrapper = module.envs = None
    return [f"empty module {name}" for name in missing]


if __name__ == "__main__":
    answer({"purejaxrl": purejaxrl, "rejax": rejax, "rejax_dqn": rejax_dqn})
