"""What stable-baselines3's PPO reaches on the classic control tasks, for docs/results/stage1.md.

    pip install stable-baselines3
    python -m varshare_jax.validation.classic_control --out=peer.json

Settings are those that rl-baselines3-zoo tuned for each task, budgets its own, in Gymnasium.
Scores are of 50 deterministic episodes with training's normalisation.
"""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

_OUT = flags.DEFINE_string("out", "peer.json", "file for the scores")
_SEEDS = flags.DEFINE_integer("num_seeds", 3, "seeds")
_TASKS = flags.DEFINE_list("tasks", [], "tasks to train; all by default")
_STEPS = flags.DEFINE_integer("total_steps", 0, "steps of each; 0: the zoo's")


class Task(NamedTuple):
    """The zoo's settings of a task; `decay` lets learning rate and clip range fall to zero."""

    total_steps: int
    num_envs: int
    normalize: bool
    settings: dict[str, Any]
    decay: tuple[str, ...] = ()


TASKS = {
    "CartPole-v1": Task(100_000, 8, False, {
        "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
        "ent_coef": 0.0, "learning_rate": 1e-3, "clip_range": 0.2},
        ("learning_rate", "clip_range")),
    "Pendulum-v1": Task(100_000, 4, False, {
        "n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "ent_coef": 0.0,
        "learning_rate": 1e-3, "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4}),
    "MountainCarContinuous-v0": Task(20_000, 1, True, {
        "n_steps": 8, "batch_size": 256, "gae_lambda": 0.9, "gamma": 0.9999, "n_epochs": 10,
        "ent_coef": 0.00429, "learning_rate": 7.77e-5, "clip_range": 0.1, "max_grad_norm": 5,
        "vf_coef": 0.19, "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False}}),
    "MountainCar-v0": Task(1_000_000, 16, True, {
        "n_steps": 16, "gae_lambda": 0.98, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0}),
    "Acrobot-v1": Task(1_000_000, 16, True, {
        "n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0}),
}


def score(name: str, task: Task, seed: int) -> float:
    """Trains one seed; the mean return of its evaluation."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    def make(num_envs: int, seed: int):
        env = make_vec_env(name, n_envs=num_envs, seed=seed)
        return VecNormalize(env, gamma=task.settings["gamma"]) if task.normalize else env

    env, evaluation = make(task.num_envs, seed), make(1, seed + 10_000)
    settings = task.settings | {key: _decaying(task.settings[key]) for key in task.decay}
    model = PPO("MlpPolicy", env, seed=seed, device="cpu", **settings)
    model.learn(_STEPS.value or task.total_steps)
    if task.normalize:
        evaluation.obs_rms, evaluation.training = env.obs_rms, False
        evaluation.norm_reward = False
    return float(evaluate_policy(model, evaluation, n_eval_episodes=50)[0])


def _decaying(start: float) -> Callable[[float], float]:
    return functools.partial(float.__mul__, start)


def main(argv: list[str]) -> None:
    del argv
    import torch

    torch.set_num_threads(1)
    scores = {}
    for name in _TASKS.value or TASKS:
        scores[name] = {"return": [], "seconds": []}
        for seed in range(_SEEDS.value):
            started = time.monotonic()
            scores[name]["return"].append(score(name, TASKS[name], seed))
            scores[name]["seconds"].append(round(time.monotonic() - started, 1))
            print(name, seed, scores[name]["return"][-1], scores[name]["seconds"][-1], flush=True)
            Path(_OUT.value).write_text(json.dumps(scores, indent=1) + "\n")
        print(f"| {name} | {np.mean(scores[name]['return']):.1f} |", flush=True)


if __name__ == "__main__":
    app.run(main)
