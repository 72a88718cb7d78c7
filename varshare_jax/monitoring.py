"""Where a run's numbers go: JSON lines, TensorBoard, and a console that is never silent."""

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def write_json(path: Path, content: Any) -> None:
    """Writes whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(plain(content), indent=1) + "\n")
    os.replace(partial, path)


def plain(x: Any) -> Any:
    """Python numbers and lists for JSON; NaN and infinities become null."""
    if isinstance(x, dict):
        return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    if hasattr(x, "tolist"):
        return plain(np.asarray(x).tolist())
    return None if isinstance(x, float) and not math.isfinite(x) else x


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


class NullWriter:
    """Writes nothing: for runs without a folder."""

    def train(self, row: dict[str, Any]) -> None:
        """A row of training metrics."""

    def evaluation(self, row: dict[str, Any]) -> None:
        """A row of an evaluation."""

    def close(self) -> None:
        """Flushes and closes."""


class RunWriter(NullWriter):
    """JSON lines `train.jsonl` and `eval.jsonl`, and TensorBoard events of the same.

    On resume, rows after `update` are dropped: training will write them again.
    """

    def __init__(self, folder: Path, task_names: tuple[str, ...], update: int, env_steps: int,
                 tensorboard: bool):
        self._tasks = task_names
        self._files = {}
        for name in ("train", "eval"):
            path = folder / f"{name}.jsonl"
            rows = [row for row in read_rows(path) if row["update"] <= update]
            partial = path.with_name(path.name + ".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
            os.replace(partial, path)
            self._files[name] = path.open("a")
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # noqa: PLC0415

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=env_steps + 1,
                                        flush_secs=10)

    def train(self, row: dict[str, Any]) -> None:
        self._append("train", row)
        self._show("train", row["metrics"] | {"steps_per_second": row["steps_per_second"]},
                   row["env_steps"])

    def evaluation(self, row: dict[str, Any]) -> None:
        self._append("eval", row)
        metrics = {k: v for k, v in row.items() if k in ("return", "success")}
        self._show("eval", metrics, row["env_steps"])

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._board:
            self._board.close()

    def _append(self, name: str, row: dict[str, Any]) -> None:
        self._files[name].write(json.dumps(plain(row)) + "\n")
        self._files[name].flush()

    def _show(self, prefix: str, metrics: dict[str, Any], step: int) -> None:
        """Means under `<prefix>/`, then `<prefix>_tasks/` and `<prefix>_seeds/` per curve."""
        if not self._board:
            return
        for name, values in metrics.items():
            values = np.asarray(values, np.float64)
            self._scalar(f"{prefix}/{name}", values, step)
            if values.ndim != 2:
                continue
            for m, task in enumerate(self._tasks):
                self._scalar(f"{prefix}_tasks/{name}/{task}", values[:, m], step)
            for s in range(values.shape[0]):
                self._scalar(f"{prefix}_seeds/{name}/{s}", values[s], step)

    def _scalar(self, tag: str, values: np.ndarray, step: int) -> None:
        finite = values[np.isfinite(values)]
        if finite.size:
            self._board.add_scalar(tag, float(finite.mean()), step)


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
            print(f"{self._title}  {text}", flush=True)

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
    def working(self, what: str) -> Iterator[None]:
        """Says what is going on, and again every 5 s with the time it has taken."""
        self.say(f"{what} ...")
        started, done = time.monotonic(), threading.Event()

        def tick():
            while not done.wait(5.0):
                self.say(f"{what} ... {time.monotonic() - started:.0f} s")

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()


def warn(text: str) -> None:
    """A line on the error stream."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
