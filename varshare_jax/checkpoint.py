"""Checkpoints of a whole TrainState: orbax stores the arrays, a manifest vouches for them.

Orbax restores what it finds without a word about what is missing, so a manifest of every leaf's
shape, dtype and checksum is written beside the arrays and checked on the way back.
"""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from varshare_jax.errors import UserError

_MANIFEST = "manifest.json"


class CorruptCheckpointError(Exception):
    """A checkpoint whose files are missing, cut off or changed."""


def save(folder: Path, update: int, state: Any, keep: int) -> Path:
    """Writes `folder/<update>` whole or not at all, then drops all but the newest `keep`.

    Raises OSError where the disk refuses.
    """
    import orbax.checkpoint as ocp  # noqa: PLC0415 (0.7 s that short commands need not pay)

    arrays = _flatten(state)
    target, partial = folder / str(update), folder / f"{update}.partial"
    for old in (target, partial):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        ocp.PyTreeCheckpointer().save((partial / "arrays").absolute(), arrays)
    except Exception as error:  # tensorstore wraps the system's errors in its own
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"cannot write checkpoint {target}: {_first_line(error)}") from error
    manifest = {name: _describe(a) | {"crc32": _checksum(a)} for name, a in arrays.items()}
    (partial / _MANIFEST).write_text(json.dumps({"update": update, "leaves": manifest}))
    partial.rename(target)
    for stale in checkpoints(folder)[keep:]:
        shutil.rmtree(stale, ignore_errors=True)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: -int(p.name))


def restore_newest(folder: Path, like: Any, say: Callable[[str], None]) -> tuple[Any, int] | None:
    """The newest readable state and its update, or None where there is none.

    `like` gives the expected structure (arrays or shapes). Damaged checkpoints are skipped, and
    `say` is told. Raises UserError if a sound one has another structure, naming the entry.
    """
    for path in checkpoints(folder):
        try:
            return _restore(path, like), int(path.name)
        except CorruptCheckpointError as error:
            say(f"checkpoint {path} is damaged ({error}); falling back to the one before")
    return None


def _restore(path: Path, like: Any) -> Any:
    import orbax.checkpoint as ocp  # noqa: PLC0415

    try:
        manifest = json.loads((path / _MANIFEST).read_text())["leaves"]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptCheckpointError(f"{_MANIFEST}: {_first_line(error)}") from error
    _check_structure(path, manifest, _flatten(like, describe=True))
    try:
        arrays = ocp.PyTreeCheckpointer().restore((path / "arrays").absolute())
    except Exception as error:
        raise CorruptCheckpointError(_first_line(error)) from error
    for name, leaf in manifest.items():
        if name not in arrays or _checksum(arrays[name]) != leaf["crc32"]:
            raise CorruptCheckpointError(f"{name}: missing or its checksum differs")
    return _unflatten(like, arrays)


def _check_structure(path: Path, stored: dict, expected: dict) -> None:
    for name in sorted(stored.keys() | expected.keys()):
        here, there = stored.get(name), expected.get(name)
        if here is None or there is None:
            where = "the checkpoint" if there is None else "this program"
            raise UserError(f"checkpoint {path} does not fit: only {where} has '{name}'")
        if any(here[k] != there[k] for k in ("shape", "dtype")):
            raise UserError(
                f"checkpoint {path} does not fit: '{name}' is {here['dtype']}{here['shape']}, "
                f"expected {there['dtype']}{there['shape']}")


def _flatten(tree: Any, describe: bool = False) -> dict[str, Any]:
    """Leaves by path, PRNG keys as their data; empty arrays, which orbax refuses, left out."""
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if leaf.size == 0:
            continue
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if describe:
            flat[name] = _describe(jax.eval_shape(_plain, leaf))
        else:
            flat[name] = np.asarray(jax.device_get(_plain(leaf)))
    return flat


def _unflatten(like: Any, arrays: dict[str, np.ndarray]) -> Any:
    def fill(path, leaf):
        if leaf.size == 0:
            return np.zeros(leaf.shape, leaf.dtype)
        array = np.asarray(arrays[jax.tree_util.keystr(path, simple=True, separator=".")])
        return jax.random.wrap_key_data(array) if _is_key(leaf) else array

    return jax.tree_util.tree_map_with_path(fill, like)


def _plain(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
