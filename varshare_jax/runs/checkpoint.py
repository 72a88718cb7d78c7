"""Checkpoints of a whole TrainState: orbax stores the arrays, a manifest vouches for them.

Orbax restores what it finds without a word about what is missing, so a manifest of every file
and of every leaf's shape, dtype and checksum is written beside the arrays and checked on the way
back. Folders come and go by renaming: a kill leaves each whole or under a `.partial` name.
"""

import contextlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from varshare_jax.errors import UserError
from varshare_jax.runs.files import parse_json

_MANIFEST = "manifest.json"
_BLOCK = 2**22  # bytes read at a time
_NUMBER = re.compile("0|[1-9][0-9]{0,17}")  # as they are written, and no other digits
_SHAPE = {"crc32": int, "content": {
    "update": int, "note": dict, "files": {str: int},
    "leaves": {str: {"shape": [int], "dtype": str, "crc32": int}}}}


class CorruptCheckpointError(Exception):
    """A checkpoint whose files are missing, cut off or changed."""


def save(folder: Path, update: int, state: Any, keep: int,
         note: dict[str, Any] | None = None) -> Path:
    """Writes `folder/<update>` whole or not at all, then drops all but the newest `keep`.

    Newer ones go too: they are what a resumed run could not read. `note` is a JSON object that
    `read_note` gives back. Raises OSError where the disk refuses.
    """
    arrays = _flatten(state)
    leaves = {name: _describe(a) | {"crc32": _checksum(a)} for name, a in arrays.items()}
    target, partial = folder / str(update), _partial(folder / str(update))
    for left in (target, *folder.glob(_partial(folder / "*").name)):
        _remove(left)
    partial.mkdir(parents=True)
    try:
        _writer().save((partial / "arrays").absolute(), arrays)
        content = {"update": update, "note": note or {}, "leaves": leaves,
                   "files": _file_checksums(partial)}
        (partial / _MANIFEST).write_text(
            json.dumps({"crc32": _text_checksum(content), "content": content}))
    except Exception as error:  # tensorstore wraps the system's errors in its own
        _remove(partial)
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else _first_line(error)
        raise OSError(f"cannot write checkpoint {target}: {reason}") from error
    partial.rename(target)
    older = [path for path in checkpoints(folder) if int(path.name) <= update]
    for stale in set(checkpoints(folder)) - set(older[:keep]):
        _remove(stale)
    return target


def _writer() -> Any:
    """An orbax checkpointer that takes arrays as they are.

    By default it copies all of them first, in case somebody changed one meanwhile.
    """
    import orbax.checkpoint as ocp  # 0.7 s that short commands need not pay

    handlers = ocp.type_handlers
    registry = handlers.create_type_handler_registry(
        (np.ndarray, handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, handlers.ArrayHandler()))
    return _checkpointer(type_handler_registry=registry)


def _checkpointer(**options: Any) -> Any:
    """One that waits for no other process: on a TPU pod JAX sees them all, and one alone saves."""
    import orbax.checkpoint as ocp

    alone: dict[str, Any] = {}
    if jax.process_count() > 1:
        here = jax.process_index()
        alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix="alone")
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options, **alone), **alone)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _remove(path: Path) -> None:
    """Takes its name away first: a kill half-way leaves nothing that looks like a checkpoint."""
    if _NUMBER.fullmatch(path.name) and path.exists():
        path = path.rename(_partial(path))
    shutil.rmtree(path, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NUMBER.fullmatch(p.name) and p.is_dir()),
                  key=lambda p: -int(p.name))


def restore_newest(folder: Path, like: Any, say: Callable[[str], None]) -> tuple[Any, int] | None:
    """The newest readable state and its update, or None where there is none.

    `like` gives the expected structure (arrays or shapes). Damaged checkpoints are skipped, and
    `say` is told. Raises UserError if a sound one has another structure, naming the entry.
    """
    for path in checkpoints(folder):
        try:
            return _restore(path, like), int(path.name)
        except CorruptCheckpointError as error:
            say(f"checkpoint {path} is damaged ({error}); trying the one before")
    return None


def read_note(folder: Path, update: int) -> dict[str, Any]:
    """What was saved as `note` with the sound checkpoint of that update."""
    return _read_manifest(folder / str(update))["note"]


def newest_note(folder: Path) -> dict[str, Any]:
    """The note of the newest checkpoint whose manifest can be read; {} without one."""
    for path in checkpoints(folder):
        with contextlib.suppress(CorruptCheckpointError):
            return _read_manifest(path)["note"]
    return {}


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = parse_json((path / _MANIFEST).read_bytes(), _MANIFEST, _SHAPE)
    except UserError as error:
        raise CorruptCheckpointError(_first_line(error)) from error
    except OSError as error:
        raise CorruptCheckpointError(f"{_MANIFEST}: {_first_line(error)}") from error
    content = manifest["content"]
    if manifest["crc32"] != _text_checksum(content):
        raise CorruptCheckpointError(f"{_MANIFEST}: its checksum differs")
    if path.name != str(content["update"]):
        raise CorruptCheckpointError(f"{_MANIFEST}: is of update {content['update']}")
    return content


def _restore(path: Path, like: Any) -> Any:
    manifest = _read_manifest(path)
    leaves = manifest["leaves"]
    _check_structure(path, leaves, _flatten(like, describe=True))
    found = _file_checksums(path)  # before orbax sees them: on damage its threads print tracebacks
    for name, checksum in manifest["files"].items():
        if found.get(name) != checksum:
            raise CorruptCheckpointError(f"{name}: missing or its checksum differs")
    try:
        arrays = _checkpointer().restore((path / "arrays").absolute())
    except Exception as error:
        raise CorruptCheckpointError(_first_line(error)) from error
    for name, leaf in leaves.items():
        if name not in arrays or leaf != _describe(arrays[name]) | {
                "crc32": _checksum(arrays[name])}:
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
    flat: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if leaf.size == 0:
            continue
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if describe:
            flat[name] = _describe(jax.eval_shape(without_key, leaf))
        else:
            flat[name] = np.asarray(jax.device_get(without_key(leaf)))
    return flat


def _unflatten(like: Any, arrays: dict[str, np.ndarray]) -> Any:
    def fill(path, leaf):
        if leaf.size == 0:
            return np.zeros(leaf.shape, leaf.dtype)
        return with_key(np.asarray(
            arrays[jax.tree_util.keystr(path, simple=True, separator=".")]), leaf)

    return jax.tree_util.tree_map_with_path(fill, like)


def without_key(leaf: jax.Array) -> jax.Array:
    """An array that can be stored and sent: a key's numbers, or the leaf itself."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def with_key(array: np.ndarray, leaf: Any) -> Any:
    """What `without_key` has made of such a leaf, as it was."""
    return jax.random.wrap_key_data(jax.numpy.asarray(array)) if _is_key(leaf) else array


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _checksum(array: np.ndarray) -> int:
    """Of its bytes in place: a replay is too large to be copied."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _file_checksums(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): _file_checksum(path)
            for path in sorted(folder.rglob("*")) if path.is_file()}


def _file_checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _text_checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
