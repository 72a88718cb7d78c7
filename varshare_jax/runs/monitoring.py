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
from typing import Any

import numpy as np

from varshare_jax.errors import printable
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
        self._folder, self._tasks = folder, task_names
        self._files, self.rows = {}, {}
        for name, shape in (("train", TRAIN_ROW), ("eval", EVAL_ROW)):
            path = folder / f"{name}.jsonl"
            rows = [row for row in _readable(path, shape) if row["update"] <= update
                    and (name == "train" or row["update"] < total)]
            if len(rows) < known.get(name, 0):
                warn(f"{path}: {known[name] - len(rows)} of the {known[name]} rows up to update "
                     f"{update} are missing; training goes on without them")
            write_rows(path, rows)
            self._files[name], self.rows[name] = path.open("a"), len(rows)
        self._board = _Board(folder / "tensorboard", env_steps + 1) if tensorboard else None

    def train(self, row: dict[str, Any]) -> None:
        self._append("train", row)
        self._show("train", row["metrics"] | {"steps_per_second": row["steps_per_second"]},
                   row["env_steps"])

    def evaluation(self, row: dict[str, Any]) -> None:
        self._append("eval", row)
        metrics = {k: v for k, v in row.items() if k in ("return", "success")}
        self._show("eval", metrics, row["env_steps"])

    def image(self, tag: str, png: bytes, env_steps: int) -> None:
        if self._board:
            with naming(self._folder / "tensorboard"):
                self._board.image(tag, png, env_steps)
                self._board.flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._board:
            with naming(self._folder / "tensorboard"):  # pictures may still have to be written
                self._board.close()

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with naming(self._folder / f"{name}.jsonl"):
            self._files[name].write(json.dumps(plain(row)) + "\n")
            self._files[name].flush()
        self.rows[name] += 1

    def _show(self, prefix: str, metrics: dict[str, Any], step: int) -> None:
        """Means under `<prefix>/`, then `<prefix>_tasks/` and `<prefix>_seeds/` per curve."""
        if not self._board:
            return
        with naming(self._folder / "tensorboard"):
            self._show_all(prefix, metrics, step)
            self._board.flush()

    def _show_all(self, prefix: str, metrics: dict[str, Any], step: int) -> None:
        for name, values in metrics.items():
            values = np.asarray(values, np.float64)
            self._scalar(f"{prefix}/{name}", values, step)
            if values.ndim != 2:
                continue
            # Some of what a layer has, such as a learned σ_prior, is one for all tasks.
            common = "/" in name and (values == values[:, :1]).all()
            for m, task in enumerate(() if common else self._tasks):
                self._scalar(f"{prefix}_tasks/{name}/{task}", values[:, m], step)
            for s in range(values.shape[0]):
                self._scalar(f"{prefix}_seeds/{name}/{s}", values[s], step)

    def _scalar(self, tag: str, values: np.ndarray, step: int) -> None:
        finite = values[np.isfinite(values)]
        if finite.size:
            self._board.scalar(tag, float(finite.mean()), step)


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


class _Board:
    """TensorBoard events, written by the caller's thread.

    tensorboardX's SummaryWriter hands them to a thread of its own: if the disk is full that
    thread dies, and the trainer waits for it for ever.
    """

    def __init__(self, folder: Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self._event = event_pb2.Event
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=first_step, session_log=start)  # readers drop what came after it before
        self.flush = self._writer.flush
        self.close = self._writer.close

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One point of one curve."""
        from tensorboardX.summary import scalar

        self._write(step=step, summary=scalar(tag, value))

    def image(self, tag: str, png: bytes, step: int) -> None:
        """One picture of a series."""
        from tensorboardX.proto.summary_pb2 import Summary

        value = Summary.Value(tag=tag, image=Summary.Image(encoded_image_string=png))
        self._write(step=step, summary=Summary(value=[value]))

    def _write(self, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **content))


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
