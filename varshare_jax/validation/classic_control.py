"""What stable-baselines3's PPO and DQN reach on the classic control tasks.

    pip install stable-baselines3
    python varshare_jax/validation/classic_control.py --algorithm=ppo --out=peer_ppo
    python varshare_jax/validation/classic_control.py --algorithm=dqn --num_seeds=5 --episodes=100 \
        --out=peer_dqn

Settings are those that rl-baselines3-zoo tuned for each task, budgets its own, in Gymnasium.
Scores are of deterministic episodes of the final policy, with training's normalisation. Every
seed leaves `<task>_<seed>.json` in the folder; those that are there are not trained again.
"""

import functools
import importlib.metadata
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

_ALGORITHM = flags.DEFINE_enum("algorithm", "ppo", ["ppo", "dqn"], "what trains")
_OUT = flags.DEFINE_string("out", "peer", "folder for the scores")
_SEEDS = flags.DEFINE_integer("num_seeds", 3, "seeds")
_TASKS = flags.DEFINE_list("tasks", [], "tasks to train; all by default")
_STEPS = flags.DEFINE_integer("total_steps", 0, "steps of each; 0: the zoo's")
_EPISODES = flags.DEFINE_integer("episodes", 50, "episodes of a score")


class Task(NamedTuple):
    """The zoo's settings of a task; `decay` lets learning rate and clip range fall to zero."""

    total_steps: int
    num_envs: int
    normalize: bool
    settings: dict[str, Any]
    decay: tuple[str, ...] = ()


_WIDE = {"policy_kwargs": {"net_arch": [256, 256]}}
TASKS = {"ppo": {
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
}, "dqn": {
    "CartPole-v1": Task(50_000, 1, False, {
        "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "gamma": 0.99,
        "learning_starts": 1000, "target_update_interval": 10, "train_freq": 256,
        "gradient_steps": 128, "exploration_fraction": 0.16, "exploration_final_eps": 0.04,
        **_WIDE}),
    "Acrobot-v1": Task(100_000, 1, False, {
        "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000, "gamma": 0.99,
        "learning_starts": 0, "target_update_interval": 250, "train_freq": 4,
        "gradient_steps": -1, "exploration_fraction": 0.12, "exploration_final_eps": 0.1,
        **_WIDE}),
    "MountainCar-v0": Task(120_000, 1, False, {
        "learning_rate": 4e-3, "batch_size": 128, "buffer_size": 10_000, "gamma": 0.98,
        "learning_starts": 1000, "target_update_interval": 600, "train_freq": 16,
        "gradient_steps": 8, "exploration_fraction": 0.2, "exploration_final_eps": 0.07,
        **_WIDE}),
}}


def score(name: str, task: Task, seed: int) -> dict[str, Any]:
    """Trains one seed; mean returns of its evaluation and of the episodes it trained on."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    def make(num_envs: int, seed: int):
        env = make_vec_env(name, n_envs=num_envs, seed=seed)
        return VecNormalize(env, gamma=task.settings["gamma"]) if task.normalize else env

    started = time.monotonic()
    env, evaluation = make(task.num_envs, seed), make(1, seed + 10_000)
    settings = task.settings | {key: _decaying(task.settings[key]) for key in task.decay}
    algorithm = getattr(sb3, _ALGORITHM.value.upper())
    steps = _STEPS.value or task.total_steps
    model = algorithm("MlpPolicy", env, seed=seed, device="cpu", **settings).learn(steps)
    seconds = time.monotonic() - started
    training = np.concatenate(env.env_method("get_episode_rewards"))
    if task.normalize:
        evaluation.obs_rms, evaluation.training = env.obs_rms, False
        evaluation.norm_reward = False
    final = evaluate_policy(model, evaluation, n_eval_episodes=_EPISODES.value)[0]
    return {"return": float(final), "training_return": float(training.mean()),
            "training_episodes": len(training), "steps": steps, "seconds": round(seconds, 1),
            "versions": {package: importlib.metadata.version(package)
                         for package in ("stable-baselines3", "gymnasium", "torch")}}


def _decaying(start: float) -> Callable[[float], float]:
    return functools.partial(float.__mul__, start)


def _once(file: Path, name: str, seed: int) -> dict[str, Any]:
    """What `score` found, now or in an earlier run."""
    if not file.exists():
        found = score(name, TASKS[_ALGORITHM.value][name], seed)
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(found, indent=1) + "\n")
        unfinished.rename(file)
    return json.loads(file.read_text())


def main(argv: list[str]) -> None:
    del argv
    import torch

    torch.set_num_threads(1)
    folder = Path(_OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TASKS.value or TASKS[_ALGORITHM.value]:
        scores = []
        for seed in range(_SEEDS.value):
            scores.append(_once(folder / f"{name}_{seed}.json", name, seed))
            print(name, seed, scores[-1]["return"], scores[-1]["seconds"], flush=True)
        print(f"| {name} | {np.mean([s['return'] for s in scores]):.1f} |", flush=True)


if __name__ == "__main__":
    app.run(main)
