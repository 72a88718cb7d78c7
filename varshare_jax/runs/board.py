"""TensorBoard events of a run: few curves first, the others by task, by seed and by layer.

TensorBoard makes a group of what a tag has before its first slash, and sorts groups by name:

    means/           over tasks and seeds, of what a run is judged by
    metrics/         the same of everything else that is measured
    metrics_by_layer/<metric>/<layer>
    seed_<s>/        what a run is judged by, of one seed
    task_<name>/     everything but layers, of one task
    specialization/  maps of tasks × layers

A layer's values task by task are in the maps and in `train.jsonl`. Events lie in the run's own
folder, so that `tensorboard --logdir runs` calls a run by its name.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from varshare_jax.config import Config, to_flags
from varshare_jax.methods import METHODS
from varshare_jax.runs.files import naming
from varshare_jax.settings import flag_value, leaves

_HEADLINES = ("return", "success", "length", "loss", "steps_per_second")
_SCORES = ("return", "success")


class Board:
    """The curves, pictures and texts of a run whose tasks have these names.

    A process that resumes starts a file of its own at `first_step`; readers drop what earlier
    files have from there on. A full disk raises OSError.
    """

    def __init__(self, folder: Path, task_names: Sequence[str], first_step: int):
        self._path, self._tasks = folder / "events.out.tfevents", task_names
        with naming(self._path):
            self._events = _Events(folder, first_step)

    def train(self, row: Mapping[str, Any]) -> None:
        """A row of training metrics, each [S, M] or a number."""
        metrics = row["metrics"] | {"steps_per_second": row["steps_per_second"]}
        self._show(metrics, row["env_steps"])

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """A row of an evaluation, scores [S, M]."""
        scores = {f"eval_{name}": row[name] for name in _SCORES if name in row}
        self._show(scores, row["env_steps"])

    def image(self, tag: str, png: bytes, env_steps: int) -> None:
        """A picture of a series."""
        from tensorboardX.proto.summary_pb2 import Summary

        with naming(self._path):
            self._events.write(env_steps, Summary(value=[Summary.Value(
                tag=tag, image=Summary.Image(encoded_image_string=png))]))
            self._events.flush()

    def describe(self, config: Config, presets: Sequence[str]) -> None:
        """What the run is: its settings as texts, and as hyperparameters to compare runs by."""
        from tensorboardX import summary

        texts = {"command": f"    varshare-train {' '.join(to_flags(config, presets))}",
                 "config": _table(config), "presets": ", ".join(presets) or "none"}
        with naming(self._path):
            for tag, text in texts.items():
                self._events.write(0, summary.text(tag, text))
            compared = dict.fromkeys(("means/eval_return", "means/return", "means/loss"))
            experiment, session, _ = summary.hparams(_hyperparameters(config), compared)
            self._events.write(0, experiment)
            self._events.write(0, session)
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes."""
        with naming(self._path):  # pictures may still have to be written
            self._events.close()

    def _show(self, metrics: Mapping[str, Any], step: int) -> None:
        with naming(self._path):
            for name, values in metrics.items():
                for tag, some in self._curves(name, np.asarray(values, np.float64)):
                    finite = some[np.isfinite(some)]
                    if finite.size:
                        self._events.scalar(tag, float(finite.mean()), step)
            self._events.flush()

    def _curves(self, name: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Tags, and the values [S, M] or [] whose means they show."""
        if "/" in name:
            return [(f"metrics_by_layer/{name}", values)]
        headline = name.removeprefix("eval_") in _HEADLINES
        curves = [(f"{'means' if headline else 'metrics'}/{name}", values)]
        if values.ndim == 2:
            curves += [(f"task_{task}/{name}", values[:, m]) for m, task in enumerate(self._tasks)]
            if headline:
                curves += [(f"seed_{s}/{name}", own) for s, own in enumerate(values)]
        return curves


class _Events:
    """A file of events, written by the caller's thread.

    tensorboardX's SummaryWriter hands them to a thread of its own: if the disk is full that
    thread dies, and the trainer waits for it for ever.
    """

    def __init__(self, folder: Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._event = event_pb2.Event
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._put(step=first_step, session_log=start)  # readers drop what came after it before
        self.flush = self._writer.flush
        self.close = self._writer.close

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One point of one curve."""
        from tensorboardX.summary import scalar

        self.write(step, scalar(tag, value))

    def write(self, step: int, summary: Any) -> None:
        """A summary of that step."""
        self._put(step=step, summary=summary)

    def _put(self, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **content))


def _table(config: Config) -> str:
    """All settings in Markdown; those that are not the defaults come first and in bold."""
    usual = {leaf.name: leaf.value for leaf in leaves(Config())}
    changed = [f"| **{leaf.name}** | **{flag_value(leaf.value)}** |" for leaf in leaves(config)
               if leaf.value != usual[leaf.name]]
    others = [f"| {leaf.name} | {flag_value(leaf.value)} |" for leaf in leaves(config)
              if leaf.value == usual[leaf.name]]
    return "\n".join(["| setting | value |", "|---|---|", *changed, *others])


def _hyperparameters(config: Config) -> dict[str, Any]:
    """The settings that this run's algorithm and method read."""
    sections = {section.section for section in METHODS[config.method].method.settings}
    read = sections | {"", config.algorithm, "network", "gradients"}
    plain = {leaf.name: leaf.value for leaf in leaves(config)
             if leaf.name.rpartition(".")[0] in read and leaf.name != "run_dir"}
    return {name: value if isinstance(value, bool | int | float) else flag_value(value)
            for name, value in plain.items()}
