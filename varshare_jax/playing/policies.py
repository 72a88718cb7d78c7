"""Trained policies of S seeds: from a run's newest checkpoint, or from a pruned file."""

import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from varshare_jax import suites
from varshare_jax.algorithms.base import Problem
from varshare_jax.config import Config, from_dict
from varshare_jax.errors import UserError, unknown
from varshare_jax.learner import Learner
from varshare_jax.methods.base import Params
from varshare_jax.playing.evaluation import act, evaluation_key
from varshare_jax.runs import checkpoint, provenance
from varshare_jax.runs.devices import use_cpu_cores
from varshare_jax.runs.files import parse_json, write_bytes
from varshare_jax.runs.folder import check_note, read_config
from varshare_jax.runs.monitoring import warn
from varshare_jax.settings import to_dict
from varshare_jax.types import Player
from varshare_jax.variational import residuals
from varshare_jax.variational.sparsity import Sparse, from_sparse, to_sparse

_FORMAT = 2
_ABOUT = {"format": int, "update": int, "config": dict}


class Policy(NamedTuple):
    """What playing needs; leaves of `player` lead with [S]."""

    problem: Problem
    player: Player
    update: int

    @property
    def num_seeds(self) -> int:
        """S, the seeds of all configurations of a sweep."""
        return len(self.problem.config.members())

    def evaluation_keys(self, seed: int) -> jax.Array:
        """Keys [S] of episodes that training never saw."""
        return jnp.stack([evaluation_key(seed, s) for s in range(self.num_seeds)])

    def of_seed(self, s: int) -> Player:
        """The policy of one seed."""
        return jax.tree.map(lambda x: x[s], self.player)

    def act(self, obs: ArrayLike, task: str | int = 0, seed: int = 0) -> np.ndarray:
        """The most likely actions of one task under one seed's mean weights.

        Raw observations [D] or [B, D] -> actions [...] or [B, ...]; `task` is a name or an index,
        `seed` counts the run's seeds from 0.
        """
        obs = np.asarray(obs, np.float32)
        actions = act(self.problem, self._checked_seed(seed), jnp.int32(self._index(task)),
                      jnp.atleast_2d(obs))
        return np.asarray(actions if obs.ndim > 1 else actions[0])

    def params(self, task: str | int = 0, seed: int = 0) -> Params:
        """One task's composed mean parameters under one seed: a network without the other tasks."""
        merged = self.problem.network.merge(self._checked_seed(seed).variables)
        return jax.tree.map(lambda x: x[self._index(task)], merged)

    def _index(self, task: str | int) -> int:
        names = self.problem.suite.task_names
        if task not in (*names, *range(len(names))):
            raise unknown("task", str(task), names)
        return names.index(task) if isinstance(task, str) else int(task)

    def _checked_seed(self, seed: int) -> Player:
        if not 0 <= seed < self.num_seeds:
            raise UserError(f"seed={seed}: the run has {self.num_seeds} seeds, counted from 0")
        return self.of_seed(seed)


def load(path: Path | str, weights: str = "mean") -> Policy:
    """The policy in a run folder or in a file that `save_pruned` wrote.

    Raises UserError where `path` holds neither, is damaged or lacks the `weights` asked for.
    """
    path = Path(path)
    if not path.is_file():
        return _load_run(path)
    if weights != "mean":
        raise UserError(f"--weights={weights}: {path} is a pruned file, which holds means alone")
    return _load_pruned(path)


def save_pruned(path: Path, policy: Policy, pruned: Any) -> None:
    """Writes the policy with the residuals `pruned` (leaves [S, M, ...]) sparsely, or nothing.

    A NumPy archive: shared parameters and statistics as they are, of the residuals [S·M, P] the
    entries that are not zero (`Sparse`), and the config.
    """
    about = {"format": _FORMAT, "update": policy.update,
             "config": to_dict(policy.problem.config)}
    buffer = io.BytesIO()
    np.savez(buffer, about=json.dumps(about), **_by_name(_whole(policy)),
             **to_sparse(_to_rows(pruned))._asdict())
    write_bytes(path, buffer.getvalue())


def _load_run(folder: Path) -> Policy:
    if not (folder / "config.json").exists():
        raise UserError(f"--run={folder}: not a run (no config.json in it)")
    config = read_config("--run", folder)
    learner = _learner(config)
    like = jax.eval_shape(learner.init_seeds)
    found = checkpoint.restore_newest(folder / "checkpoints", like, warn)
    if found is None:
        raise UserError(f"--run={folder}: has no readable checkpoint yet")
    state, update = found
    check_note("--run", folder, checkpoint.read_note(folder / "checkpoints", update), config)
    return Policy(learner.problem, learner.problem.player(state), update)


def _load_pruned(path: Path) -> Policy:
    try:
        with np.load(path) as archive:
            arrays = dict(archive)
        about = parse_json(str(arrays["about"]), f"--run={path}", _ABOUT)
    except UserError:
        raise
    except Exception as error:  # what zipfile and NumPy make of odd files is of many kinds
        raise _damaged(path, error) from error
    if about["format"] != _FORMAT:
        raise UserError(f"--run={path}: written in format {about['format']}; this version "
                        f"reads format {_FORMAT}")
    learner = _learner(from_dict(about["config"]))
    state = jax.eval_shape(learner.init_seeds)
    like = Policy(learner.problem, learner.problem.player(state), about["update"])
    try:
        whole = {name: np.asarray(arrays[name], leaf.dtype).reshape(leaf.shape)
                 for name, leaf in _by_name(_whole(like)).items()}
        task = _from_rows(Sparse(*(arrays[name] for name in Sparse._fields)),
                          jax.eval_shape(residuals.means, like.player.variables))
    except Exception as error:
        raise _damaged(path, error) from error
    whole = jax.tree.unflatten(jax.tree.structure(_whole(like)), whole.values())
    variables = {"shared": whole["shared"], "task": task}
    return like._replace(player=Player(variables, whole["stats"]))


def _damaged(path: Path, error: Exception) -> UserError:
    """Without the error's text: NumPy's advises to execute what stands in the file."""
    return UserError(f"--run={path}: not a file of varshare-prune, or damaged "
                     f"({type(error).__name__})")


def _learner(config: Config) -> Learner:
    use_cpu_cores()
    # Never the cache that the run names: what is in a cache is executed, and may be anybody's.
    provenance.use_compile_cache("auto")
    return Learner.make(suites.settle(config, required=False))  # any engine plays


def _whole(policy: Policy) -> dict[str, Any]:
    """What a pruned file keeps entry by entry."""
    return {"shared": policy.player.variables["shared"], "stats": policy.player.stats}


def _by_name(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _to_rows(tree: Any) -> np.ndarray:
    """Leaves [S, M, ...] -> vectors [S·M, P]."""
    return np.concatenate([np.reshape(leaf, (leaf.shape[0] * leaf.shape[1], -1))
                           for leaf in jax.tree.leaves(tree)], axis=1)


def _from_rows(sparse: Sparse, like: Any) -> Any:
    """Inverse of `_to_rows`, in the tree and shapes of `like`."""
    leaves, structure = jax.tree.flatten(like)
    sizes = [math.prod(leaf.shape[2:]) for leaf in leaves]
    parts = np.split(from_sparse(sparse, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    return jax.tree.unflatten(structure, [
        part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])
