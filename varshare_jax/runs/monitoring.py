"""Where a run's numbers go: JSON lines, TensorBoard, and a console that is never silent."""

import contextlib
import json
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from varshare_jax.config import Config
from varshare_jax.errors import printable
from varshare_jax.runs.board import Board
from varshare_jax.runs.files import Shape, naming, plain, read_lines, write_rows

_TICK_SECONDS = 5.0


TRAIN_ROW = {"update": int, "env_steps": int, "metrics": {str: list}}
EVAL_ROW = {"update": int, "env_steps": int, "return": list}
"""Shapes of rows, as far as somebody reads them."""


class NullWriter:
    """Writes nothing: for runs without a folder."""

    rows: Mapping[str, int] = MappingProxyType({})
    """How many rows each file has."""

    def train(self, row: dict[str, Any]) -> None:
        """A row of training metrics."""

    def evaluation(self, row: dict[str, Any]) -> None:
        """A row of an evaluation."""

    def image(self, tag: str, png: bytes, env_steps: int) -> None:
        """A picture of a series."""

    def describe(self, config: Config, presets: tuple[str, ...]) -> None:
        """What the run is, told once: when it begins."""

    def close(self) -> None:
        """Flushes and closes."""


class RunWriter(NullWriter):
    """JSON lines `train.jsonl` and `eval.jsonl`, and TensorBoard events of the same.

    On resume, rows after `update` are dropped: training will write them again, as it will
    the evaluation at `total`, which follows the last checkpoint. `known` says how many rows there
    were before; fewer, and lines that cannot be read, are told. A full disk raises OSError.
    """

    def __init__(self, folder: Path, task_names: tuple[str, ...], update: int, env_steps: int,
                 tensorboard: bool, total: float = math.inf,
                 known: Mapping[str, int] = MappingProxyType({})):
        self._folder, self._resumed = folder, update > 0
        self._files: dict[str, TextIO] = {}
        self.rows: dict[str, int] = {}
        for name, shape in (("train", TRAIN_ROW), ("eval", EVAL_ROW)):
            path = folder / f"{name}.jsonl"
            rows = [row for row in _readable(path, shape) if row["update"] <= update
                    and (name == "train" or row["update"] < total)]
            if len(rows) < known.get(name, 0):
                warn(f"{path}: {known[name] - len(rows)} of the {known[name]} rows up to update "
                     f"{update} are missing; training goes on without them")
            write_rows(path, rows)
            self._files[name], self.rows[name] = path.open("a"), len(rows)
        self._board = Board(folder, task_names, env_steps + 1) if tensorboard else None

    def train(self, row: dict[str, Any]) -> None:
        self._append("train", row)
        if self._board:
            self._board.train(row)

    def evaluation(self, row: dict[str, Any]) -> None:
        self._append("eval", row)
        if self._board:
            self._board.evaluation(row)

    def image(self, tag: str, png: bytes, env_steps: int) -> None:
        if self._board:
            self._board.image(tag, png, env_steps)

    def describe(self, config: Config, presets: tuple[str, ...]) -> None:
        if self._board and not self._resumed:
            self._board.describe(config, presets)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._board:
            self._board.close()

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with naming(self._folder / f"{name}.jsonl"):
            self._files[name].write(json.dumps(plain(row)) + "\n")
            self._files[name].flush()
        self.rows[name] += 1


def _readable(path: Path, shape: Shape) -> list[dict[str, Any]]:
    """Rows of a file that is about to be written anew; one with damaged lines is kept as it is."""
    found = read_lines(path, shape)
    if found.damaged:
        aside = path.with_name(f"{path.name}.damaged")
        shutil.copyfile(path, aside)
        lines = ", ".join(map(str, found.damaged[:5])) + ", …" * (len(found.damaged) > 5)
        warn(f"{path}: {len(found.damaged)} lines cannot be read ({lines}); the file is kept as "
             f"{aside.name}, training goes on with the others")
    return found.rows


class Progress:
    """One console line per chunk of updates, at most about one a second."""

    def __init__(self, title: str, total_updates: int, steps_per_update: int, num_seeds: int,
                 quiet: bool = False):
        self._title, self._total = title, total_updates
        self._steps, self._seeds, self._quiet = steps_per_update, num_seeds, quiet
        self._started, self._first_update, self._last_line = time.monotonic(), 0, 0.0

    def start(self, update: int) -> None:
        """Training begins at `update`: speed and remaining time count from here."""
        self._started, self._first_update = time.monotonic(), update

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._quiet:
            print(printable(f"{self._title}  {text}"), flush=True)

    def update(self, update: int, score: str) -> None:
        """Shows how far training is: steps, speed over all seeds, a score, time left."""
        now = time.monotonic()
        if now - self._last_line < 1.0 and update < self._total:
            return
        self._last_line = now
        seconds = (now - self._started) / max(1, update - self._first_update)
        speed = self._steps * self._seeds / seconds
        left = round(seconds * (self._total - update))
        self.say(f"{update / self._total:4.0%}  {_short(update * self._steps)} of "
                 f"{_short(self._total * self._steps)} steps × {self._seeds} seeds  "
                 f"{_short(speed)} steps/s  {score}  {left // 60}:{left % 60:02d} left")

    @contextlib.contextmanager
    def working(self, what: str, announce: bool = True) -> Iterator[None]:
        """Says what is going on, and again every 5 s with the time it has taken."""
        if announce:
            self.say(f"{what} ...")
        started = time.monotonic()
        with repeating(_TICK_SECONDS, lambda: self.say(
                f"{what} ... {time.monotonic() - started:.0f} s")):
            yield


@contextlib.contextmanager
def repeating(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Context in which a thread of its own calls again and again, so many seconds apart."""
    done = threading.Event()

    def repeat():
        while not done.wait(seconds):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def warn(text: str) -> None:
    """A line on the error stream."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
