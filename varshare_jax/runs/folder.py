"""Whose a run's folder is: one writer at a time, and refused to other settings ever after."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from varshare_jax.algorithms.base import Problem
from varshare_jax.config import Config, from_dict
from varshare_jax.errors import UserError
from varshare_jax.runs import checkpoint, provenance
from varshare_jax.runs.files import plain, read_json, write_json
from varshare_jax.runs.lock import only_writer
from varshare_jax.settings import flag_value, leaves, to_dict

_LEFT_BY_TRAINING = ("train.jsonl", "eval.jsonl", "summary.json")


@contextlib.contextmanager
def claimed(folder: Path, config: Config, resume: bool) -> Iterator[bool]:
    """Context in which the folder is this process's to write to; whether its run is finished.

    Raises UserError for a folder that holds another run, or this one where `resume` is not
    asked for, or that another process writes to. A finished run is not written to.
    """
    if _finished(folder, config, resume):
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        yield _finished(folder, config, resume)  # another process may have ended meanwhile


def begin(folder: Path, problem: Problem, presets: tuple[str, ...], devices: int = 0) -> None:
    """Writes what a run is, once all that could keep it from beginning has been done.

    `devices` is how many its processes have together; 0: it is this one's alone.
    """
    path = folder / "config.json"
    if not path.exists():
        write_json(folder / "environment.json", {
            "presets": list(presets), "versions": provenance.versions(),
            "device": provenance.device(devices), "git": provenance.git_state(),
            "task_names": problem.suite.task_names, "suite_version": problem.suite.version})
    elif read_config("--run_dir", folder) == problem.config:
        return
    write_json(path, to_dict(problem.config))


def learned(config: Config) -> dict[str, Any]:
    """The settings that what is learned depends on, for JSON: all but where and how it runs."""
    return {leaf.name: plain(leaf.value) for leaf in leaves(config)
            if leaf.name != "run_dir" and not leaf.name.startswith("run.")}


def check_same(folder: Path, config: Config) -> None:
    """Raises UserError naming the first field in which a folder's run differs from `config`.

    Those of the section `run` may differ: they change nothing that is learned.
    """
    _check_fields(folder, learned(read_config("--run_dir", folder)), config)


def check_note(flag: str, folder: Path, note: Mapping[str, Any], config: Config) -> None:
    """Raises UserError where a checkpoint was made with other settings than `config`.

    `note` is what was saved with it; checkpoints of versions that noted none are taken on trust.
    """
    for name, value in learned(config).items():
        made_with = note.get("settings", {}).get(name, value)
        if made_with != value:
            raise UserError(f"{flag}={folder}: its config.json has {name}={value}, its newest "
                            f"checkpoint was made with {made_with}: one of the two is not this "
                            "run's")


def read_config(flag: str, folder: Path) -> Config:
    """The config that a run was started with; UserError naming `flag` if it is not readable."""
    try:
        return from_dict(read_json(folder / "config.json"))
    except (UserError, OSError) as error:
        raise UserError(f"{flag}={folder}: its config.json cannot be read: {error}") from error


def _finished(folder: Path, config: Config, resume: bool) -> bool:
    """Whether the folder holds this run, finished; UserError where it is none to train into."""
    finished = (folder / "summary.json").exists()
    if (folder / "config.json").exists():
        check_same(folder, config)
        if not resume:
            state = "a finished" if finished else "an unfinished"
            raise UserError(f"--run_dir={folder}: holds {state} run of these settings; "
                            f"add --resume to continue it or name another folder")
        return finished
    left = [name for name in _LEFT_BY_TRAINING if (folder / name).exists()]
    saved = checkpoint.checkpoints(folder / "checkpoints")
    if not left and not saved:
        return False
    known = checkpoint.newest_note(folder / "checkpoints").get("settings")
    if resume and known and not finished:
        _check_fields(folder, known, config)
        return False
    raise UserError(f"--run_dir={folder}: holds {left[0] if left else 'checkpoints'} of a run but "
                    f"not its config.json; {_advice(resume, known, finished)}")


def _advice(resume: bool, known: Any, finished: bool) -> str:
    if known and not resume and not finished:
        return "add --resume and the settings of that run to continue it, or name another folder"
    return "name another folder"


def _check_fields(folder: Path, stored: Mapping[str, Any], config: Config) -> None:
    for name, value in learned(config).items():
        there = stored.get(name, value)
        if there != value:
            here, there = (flag_value(tuple(x) if isinstance(x, list) else x)
                           for x in (value, there))
            why = ("; learning rates and ε are scheduled over all steps, so a longer training is "
                   "another run" if name == "total_steps" else "")
            raise UserError(f"--run_dir={folder}: holds a run with --{name}={there}, now {here}; "
                            f"name another folder or repeat its settings{why}")
