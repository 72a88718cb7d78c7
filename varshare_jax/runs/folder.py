"""Whose a run's folder is: claimed once, and refused to other settings ever after."""

import json
from pathlib import Path

from varshare_jax.algorithms.base import Problem
from varshare_jax.config import Config, from_dict
from varshare_jax.errors import UserError
from varshare_jax.runs import provenance
from varshare_jax.runs.monitoring import write_json
from varshare_jax.settings import flag_value, leaves, to_dict


def claim(folder: Path, problem: Problem, presets: tuple[str, ...], resume: bool) -> bool:
    """Claims the folder for a run; returns whether it holds that run, finished.

    Raises UserError for a folder that holds another run, or this one where `resume` is not
    asked for.
    """
    path = folder / "config.json"
    if path.exists():
        check_same(folder, problem.config)
        finished = (folder / "summary.json").exists()
        if not resume:
            state = "a finished" if finished else "an unfinished"
            raise UserError(f"--run_dir={folder}: holds {state} run of these settings; "
                            f"add --resume to continue it or name another folder")
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "environment.json", {
        "presets": list(presets), "versions": provenance.versions(),
        "device": provenance.device(), "git": provenance.git_state(),
        "task_names": problem.suite.task_names, "suite_version": problem.suite.version})
    write_json(path, to_dict(problem.config))
    return False


def check_same(folder: Path, config: Config) -> None:
    """Raises UserError naming the first field in which a folder's run differs from `config`."""
    stored = read_config("--run_dir", folder)
    for here, there in zip(leaves(config), leaves(stored), strict=True):
        if here.name != "run_dir" and here.value != there.value:
            raise UserError(
                f"--run_dir={folder}: holds a run with --{here.name}={flag_value(there.value)}, "
                f"now {flag_value(here.value)}; name another folder or repeat its settings")


def read_config(flag: str, folder: Path) -> Config:
    """The config that a run was started with; UserError naming `flag` if it is not readable."""
    try:
        return from_dict(json.loads((folder / "config.json").read_text()))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{flag}={folder}: its config.json cannot be read: {error}") from error
