"""Files as they are written, whole or not at all, and read, with one line for whatever is wrong.

Whatever stands in a run's folder may be damaged or somebody else's. `read_json` parses it and
checks it against a shape, so that those who use it find what they expect or are never reached.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from varshare_jax.errors import UserError

_DEEPEST = 50  # levels of nesting; nothing here has ten

Shape = Any
"""A type; a tuple of shapes, any of which fits; [shape], a list of such; {str: shape}, an object
with names of any kind; {"name": shape, ...}, one with at least those; `Optional(shape)` may be
absent or null. `float` includes whole numbers, and null stands for NaN in lists."""


class Optional(NamedTuple):
    """An entry that may be absent or null."""

    shape: Shape


def write_json(path: Path, content: Any) -> None:
    """Writes whole or not at all."""
    write_text(path, json.dumps(plain(content), indent=1) + "\n")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a JSON-lines file whole or not at all."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes whole or not at all."""
    # Processes that end together may write the same file: each replaces it by its own.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with naming(path), partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
    os.replace(partial, path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context in which errors of writing name the file: those of open files do not."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def plain(x: Any) -> Any:
    """Python numbers and lists for JSON; NaN and infinities become null."""
    if isinstance(x, dict):
        return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    if hasattr(x, "tolist"):
        return plain(np.asarray(x).tolist())
    return None if isinstance(x, float) and not np.isfinite(x) else x


def read_json(path: Path, shape: Shape = dict) -> Any:
    """What a JSON file holds; raises UserError naming the file if it does not have the shape."""
    return parse_json(path.read_bytes(), str(path), shape)


def parse_json(text: str | bytes, where: str, shape: Shape = dict) -> Any:
    """The same of a text that is `where`."""
    try:
        tree = json.loads(text)
    except RecursionError:
        raise UserError(f"{where}: not what it should be: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    return check(tree, shape, where)


def check(tree: Any, shape: Shape, where: str) -> Any:
    """Returns the tree; raises UserError naming the first entry that does not fit."""
    if wrong := _mismatch(tree, shape):
        raise UserError(f"{where}: not what it should be: {wrong}")
    return tree


class Lines(NamedTuple):
    """Rows of a JSON-lines file, and the numbers of its lines that cannot be read."""

    rows: list[dict[str, Any]]
    damaged: list[int]


def read_lines(path: Path, shape: Shape = dict) -> Lines:
    """Rows that have the shape; a last line that a kill has cut off is no damage."""
    found = Lines([], [])
    content = path.read_bytes() if path.exists() else b""
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            found.rows.append(parse_json(line, f"{path}:{number}", shape))
        except UserError:
            if number < len(lines) or content.endswith(b"\n"):
                found.damaged.append(number)
    return found


def read_rows(path: Path, shape: Shape = dict) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; UserError naming the first line that cannot be read."""
    found = read_lines(path, shape)
    if found.damaged:
        line = path.read_bytes().splitlines()[found.damaged[0] - 1]
        parse_json(line, f"{path}:{found.damaged[0]}", shape)
    return found.rows


def _mismatch(value: Any, shape: Shape, name: str = "", depth: int = 0) -> str:
    """What of `value` does not fit, in words; '' where all does."""
    what = f"'{name}' is " if name else "it is "
    if depth > _DEEPEST:
        return "nested too deeply"
    if isinstance(shape, Optional):
        return "" if value is None else _mismatch(value, shape.shape, name, depth)
    if isinstance(shape, tuple):
        wrong = [_mismatch(value, each, name, depth) for each in shape]
        return "" if "" in wrong else wrong[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{what}{_kind(value)}, not a list"
        return next(filter(None, (_mismatch(each, shape[0], f"{name}[{i}]", depth + 1)
                                  for i, each in enumerate(value))), "")
    if isinstance(shape, Mapping):
        return _mismatch_of_object(value, shape, name, depth)
    expected = (int, float) if shape is float else shape
    if shape is Any or (isinstance(value, expected) and (
            shape in (bool, object) or not isinstance(value, bool))):
        return ""
    return f"{what}{_kind(value)}, not {_KINDS.get(shape, shape)}"


def _mismatch_of_object(value: Any, shape: Mapping, name: str, depth: int) -> str:
    if not isinstance(value, dict):
        return f"{f'{name!r} is' if name else 'it is'} {_kind(value)}, not an object"
    inside = f"{name}." if name else ""
    if str in shape:
        shape = dict.fromkeys(value, shape[str])
    for key, each in shape.items():
        if key not in value:
            if isinstance(each, Optional):
                continue
            return f"it lacks '{inside}{key}'"
        if wrong := _mismatch(value[key], each, f"{inside}{key}", depth + 1):
            return wrong
    return ""


_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number",
          float: "a number", bool: "true or false", type(None): "null"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)
