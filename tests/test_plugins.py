"""A package that adds a method, an algorithm, a suite and a plan: the one of docs/usage.md."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import CACHE, QUICK, TIMEOUT, error_line

DOCS = Path(__file__).resolve().parent.parent / "docs" / "usage.md"
SMALL = {"num_seeds": 2, "total_steps": 256, "a2c.num_envs": 2, "a2c.rollout_length": 8,
         "network.hidden": "8", "run.log_every": 2, "run.eval_episodes": 1,
         "run.final_eval_episodes": 1, "run.compile_cache": CACHE, "run.tensorboard": "false"}


def install(folder: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    """What pip leaves of a package beside its modules."""
    about = folder / f"{name}-0.1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("\n".join(
        f"[{group}]\n" + "\n".join(f"{key} = {value}" for key, value in points.items())
        for group, points in groups.items()))


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory) -> Path:
    """The folder in which the package of the docs is installed."""
    folder = tmp_path_factory.mktemp("site")
    for path, text in re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", DOCS.read_text(), re.S):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for package in ("neighbours", "neighbours/plans"):
        (folder / package / "__init__.py").touch()
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    install(folder, project["name"], project["entry-points"])
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """A process that has a package of that folder installed."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True,
                          env=os.environ | QUICK | {"PYTHONPATH": path}, timeout=TIMEOUT,
                          check=False)


def command(folder: Path, name: str, *arguments: str) -> str:
    done = python(folder, "-m", f"varshare_jax.cli.{name}", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(neighbours, tmp_path_factory) -> Path:
    """A run of the package's method, algorithm and suite."""
    folder = tmp_path_factory.mktemp("run") / "corridor"
    flags = {"suite": "corridor", "method": "task_biases", "algorithm": "a2c",
             "task_biases.penalty": 0.25, "run_dir": folder} | SMALL
    command(neighbours, "train", *(f"--{name}={value}" for name, value in flags.items()))
    return folder


def test_it_trains(run):
    stored = json.loads((run / "config.json").read_text())
    assert (stored["method"], stored["algorithm"]) == ("task_biases", "a2c")
    assert stored["task_biases"] == {"penalty": 0.25}
    assert stored["a2c"]["rollout_length"] == 8
    summary = json.loads((run / "summary.json").read_text())
    assert summary["env_steps"] == 256
    assert summary["task_names"] == ["left", "right"]
    assert summary["diverged"] == []
    row = json.loads((run / "train.jsonl").read_text().splitlines()[-1])["metrics"]
    assert min(min(values) for values in row["bias_norm"]) > 0
    # actor 1 → 8 → 2, critic 1 → 8 → 1: kernels once, biases for each of two tasks
    assert summary["parameters"]["stored"] == 2 * 8 + 8 * 2 + 8 * 1 + 2 * (8 + 2 + 8 + 1)


def test_it_is_evaluated_and_reported(run, neighbours, tmp_path):
    scores = tmp_path / "scores.json"
    command(neighbours, "evaluate", f"--run={run}", "--episodes=2", f"--out={scores}")
    returns = json.loads(scores.read_text())["return"]
    assert all(-16 <= value <= -3 for seed in returns for value in seed)
    page = tmp_path / "report.html"
    shown = command(neighbours, "report", str(run), f"--out={page}")
    assert "corridor" in shown
    assert "task_biases" in page.read_text()


def test_its_plan_is_carried_out(neighbours, tmp_path):
    listed = command(neighbours, "experiment", "--list")
    assert re.search(r"^corridor +Two ends of a corridor$", listed, re.M)
    assert "\ndemo " in listed
    shown = command(neighbours, "experiment", "corridor", "--dry_run", f"--out={tmp_path}")
    assert re.search(r"task_biases +corridor +task_biases", shown)
    assert "2 of 2 runs to do" in shown


def test_its_modules_may_be_imported_before_the_library(neighbours):
    for module in ("biases", "a2c", "corridor"):
        done = python(neighbours, "-c", f"import neighbours.{module}\n"
                      "import varshare_jax as vs\n"
                      "vs.Config(method='task_biases', algorithm='a2c').validate()")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("group", "points", "said"), [
    ("methods", {"lost": "nowhere.at_all:Lost"},
     "package stray: registers lost among the methods of varshare_jax, but nowhere.at_all:Lost "
     "cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
    ("algorithms", {"other": "varshare_jax.algorithms.ppo:PPO"},
     "registers other among the algorithms of varshare_jax, but varshare_jax.algorithms.ppo:PPO "
     "cannot be loaded: ValueError: its section of settings is ppo"),
    ("suites", {"cartpole": "varshare_jax.suites.cartpole:CartPoleSuite"},
     "registers cartpole among the suites of varshare_jax, but that name is taken"),
])
def test_what_cannot_be_added_is_one_line(tmp_path, group, points, said):
    install(tmp_path, "stray", {f"varshare_jax.{group}": points})
    assert said in error_line(python(tmp_path, "-m", "varshare_jax.cli.train", "--help"))


def test_a_plan_whose_name_is_taken_is_one_line(tmp_path):
    plans = tmp_path / "stray"
    plans.mkdir()
    (plans / "__init__.py").touch()
    (plans / "demo.toml").write_text('title = "Another demo"')
    install(tmp_path, "stray", {"varshare_jax.plans": {"stray": "stray"}})
    line = error_line(python(tmp_path, "-m", "varshare_jax.cli.experiment", "--list"))
    assert line.startswith(f"experiment demo: {plans / 'demo.toml'} and ")
