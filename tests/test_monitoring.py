import json
import resource
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from varshare_jax.config import Config, leaves, replace, to_flags, with_presets
from varshare_jax.runs import monitoring
from varshare_jax.runs.files import plain, read_rows, write_json
from varshare_jax.runs.monitoring import NullWriter, Progress, RunWriter

TASKS = ("easy", "hard")
STEPS = 100  # env_steps of an update


def train_row(update, values=((1.0, 2.0), (3.0, 4.0), (5.0, 12.0))):
    """Metrics [S, M] = [3, 2]."""
    return {"update": update, "env_steps": update * STEPS, "wall_seconds": 1.5,
            "steps_per_second": 10.0 * update, "metrics": {"return": np.array(values)}}


def eval_row(update):
    return {"update": update, "env_steps": update * STEPS, "wall_seconds": 1.5,
            "return": np.full((3, 2), update, float)}


def write(folder, updates, after=0, total=100, tensorboard=True):
    """A process that resumes after an update, and logs the given ones."""
    writer = RunWriter(folder, TASKS, after, after * STEPS, tensorboard, total)
    for update in updates:
        writer.train(train_row(update))
        writer.evaluation(eval_row(update))
    writer.close()


def updates(folder, name="train"):
    return [row["update"] for row in read_rows(folder / f"{name}.jsonl")]


def curves(folder):
    return EventAccumulator(str(folder), {"scalars": 0}).Reload()


def test_rows_beyond_the_resumed_update_are_dropped(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, [6, 7, 8], after=5)
    assert updates(tmp_path) == updates(tmp_path, "eval") == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_last_evaluation_is_not_logged_twice(tmp_path):
    """A kill between it and summary.json: the last checkpoint is older than its row."""
    write(tmp_path, [1, 2, 3], total=3)
    writer = RunWriter(tmp_path, TASKS, 3, 3 * STEPS, False, total=3)
    writer.evaluation(eval_row(3))
    writer.close()
    assert updates(tmp_path) == updates(tmp_path, "eval") == [1, 2, 3]


@pytest.mark.parametrize("tail", [b'{"update": 3, "env', b"\0\0\0", b"\xff{", b'{"update": 3, "m'])
def test_a_last_line_cut_off_is_ignored_and_mended(tmp_path, tail):
    write(tmp_path, [1, 2])
    with (tmp_path / "train.jsonl").open("ab") as file:
        file.write(tail)
    assert updates(tmp_path) == [1, 2]
    write(tmp_path, [3], after=2)
    assert [json.loads(line)["update"] for line in
            (tmp_path / "train.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_rows_are_on_disk_as_soon_as_they_are_written(tmp_path):
    writer = RunWriter(tmp_path, TASKS, 0, 0, True)
    writer.train(train_row(1))
    assert updates(tmp_path) == [1]
    assert curves(tmp_path).Scalars("means/return")[0].step == STEPS
    writer.close()


def test_nan_becomes_null(tmp_path):
    writer = RunWriter(tmp_path, TASKS, 0, 0, True)
    writer.train(train_row(1, [[np.nan, 2.0], [np.inf, 4.0], [-np.inf, 6.0]]))
    writer.close()
    text = (tmp_path / "train.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"]["return"] == [
        [None, 2.0], [None, 4.0], [None, 6.0]]
    board = curves(tmp_path)
    assert board.Scalars("means/return")[0].value == 4.0  # the mean of the finite ones
    assert "task_easy/return" not in board.Tags()["scalars"]


def test_layers_do_not_multiply_the_curves_of_tasks_and_seeds(tmp_path):
    """Ten tasks, two seeds, layers: a handful of means first, and no curve outside of a group."""
    tasks = tuple(f"t{m}" for m in range(10))
    writer = RunWriter(tmp_path, tasks, 0, 0, True)
    layers = [f"{name}/{layer}" for name in ("kl", "l2") for layer in range(6)]
    row = train_row(1)
    row["metrics"] = dict.fromkeys(["return", "loss", "entropy", *layers], np.ones((2, 10)))
    writer.train(row)
    writer.evaluation(eval_row(1) | {"return": np.ones((2, 10))})
    writer.close()
    tags = curves(tmp_path).Tags()["scalars"]
    groups = [f"{group}/" for group in ("means", "metrics", "metrics_by_layer", "seed_0", "seed_1",
                                        *(f"task_{task}" for task in tasks))]
    assert sorted({tag.partition("/")[0] + "/" for tag in tags}) == groups
    held = {group: sorted(tag.removeprefix(group) for tag in tags if tag.startswith(group))
            for group in groups}
    assert held["means/"] == ["eval_return", "loss", "return", "steps_per_second"]
    assert held["metrics/"] == ["entropy"]
    assert held["metrics_by_layer/"] == sorted(layers)
    assert held["seed_1/"] == ["eval_return", "loss", "return"]
    assert held["task_t7/"] == ["entropy", "eval_return", "loss", "return"]


def test_tensorboard_knows_what_the_run_is(tmp_path):
    """Settings and presets as texts; hyperparameters are those that this run reads."""
    presets, config = ("smoke",), replace(with_presets(Config(), ["smoke"]), {
        "method": "l2_soft", "l2_soft.penalty": 0.25, "run_dir": str(tmp_path)})
    for update in (0, 3):  # a run that is resumed has told it before
        writer = RunWriter(tmp_path, TASKS, update, update * STEPS, True)
        writer.describe(config, presets)
        writer.close()
    board = curves(tmp_path)
    assert len(board.Tensors("config/text_summary")) == 1
    texts = {tag: board.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode()
             for tag in ("command", "config", "presets")}
    assert texts["presets"] == "smoke"
    assert texts["command"].strip() == " ".join(["varshare-train", *to_flags(config, presets)])
    lines = texts["config"].splitlines()
    assert "| **l2_soft.penalty** | **0.25** |" in lines
    assert "| ppo.clip | 0.2 |" in lines
    assert len(lines) == 2 + sum(1 for _ in leaves(config))
    stored = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    told = HParamsPluginData.FromString(stored).session_start_info.hparams
    assert told["l2_soft.penalty"].number_value == 0.25
    assert told["method"].string_value == "l2_soft"
    assert told["network.hidden"].string_value == "64,64"
    assert not {"run_dir", "paco.bases", "dqn.n_step", "run.log_every"} & set(told)


def test_plain_turns_everything_into_json():
    content = {"a": np.float32("nan"), 1: (np.int32(3), [np.bool_(True)]), "x": np.ones((1, 2)),
               "none": None, "text": "t", "inf": float("-inf")}
    assert plain(content) == {"a": None, "1": [3, [True]], "x": [[1.0, 1.0]], "none": None,
                              "text": "t", "inf": None}


def test_tensorboard_shows_means_tasks_and_seeds(tmp_path):
    write(tmp_path, [1, 2])
    board = curves(tmp_path)
    expected = {"means/return": 4.5, "task_easy/return": 3.0, "task_hard/return": 6.0,
                "seed_0/return": 1.5, "seed_1/return": 3.5, "seed_2/return": 8.5}
    for tag, value in expected.items():
        assert [(e.step, e.value) for e in board.Scalars(tag)] == [(100, value), (200, value)]
    assert [e.value for e in board.Scalars("means/steps_per_second")] == [10.0, 20.0]
    for tag in ("means/eval_return", "task_hard/eval_return", "seed_2/eval_return"):
        assert [(e.step, e.value) for e in board.Scalars(tag)] == [(100, 1.0), (200, 2.0)]


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, [6, 7, 8], after=5)
    steps = [event.step for event in curves(tmp_path).Scalars("means/return")]
    assert steps == [100, 200, 300, 400, 500, 600, 700, 800]


def test_tensorboard_shows_series_of_pictures(tmp_path):
    writer = RunWriter(tmp_path, ("a", "b"), 0, 0, True)
    for step in (10, 20):
        writer.image("specialization/kl", b"\x89PNG" + bytes([step]), step)
    writer.close()
    found = [(event.step, event.encoded_image_string)
             for event in curves(tmp_path).Images("specialization/kl")]
    assert found == [(10, b"\x89PNG\n"), (20, b"\x89PNG\x14")]


def test_tensorboard_can_be_turned_off(tmp_path):
    write(tmp_path, [1], tensorboard=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eval.jsonl", "train.jsonl"]


@pytest.mark.parametrize(("tensorboard", "culprit"), [(True, r"events\.out\.tfevents"),
                                                      (False, "train.jsonl")])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, tensorboard, culprit):
    """Never a hang: tensorboardX's own writer waits for a thread that the error has ended."""
    write(tmp_path, range(1, 5), tensorboard=tensorboard)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = RunWriter(tmp_path, TASKS, 4, 4 * STEPS, tensorboard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(OSError, match=rf"cannot write .*{culprit}: File too large"):
            any(map(writer.train, map(train_row, range(5, 100))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.close()
    assert updates(tmp_path)[:4] == [1, 2, 3, 4]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*x\.json: File too large"):
            write_json(path, {"new": "x" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert json.loads(path.read_text()) == {"old": 1}


def test_the_null_writer_takes_the_same_calls():
    writer = NullWriter()
    writer.train(train_row(1))
    writer.evaluation(eval_row(1))
    writer.close()


def make_progress(quiet=False):
    return Progress("suite/method", total_updates=10, steps_per_update=STEPS, num_seeds=3,
                    quiet=quiet)


@pytest.mark.parametrize("announce", [True, False])
def test_work_is_never_silent_for_long(capsys, monkeypatch, announce):
    """The same with the interval cut from seconds to milliseconds."""
    assert monitoring._TICK_SECONDS <= 10
    monkeypatch.setattr(monitoring, "_TICK_SECONDS", 0.01)
    with make_progress().working("thinking", announce):
        time.sleep(0.2)
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0] == "suite/method  thinking ...") == announce
    assert lines[-1] == "suite/method  thinking ... 0 s"
    assert len(lines) >= 5
    time.sleep(0.05)
    assert capsys.readouterr().out == ""  # and it stops with the work


def test_a_failure_ends_the_ticking(capsys, monkeypatch):
    monkeypatch.setattr(monitoring, "_TICK_SECONDS", 0.01)
    with pytest.raises(OSError, match="gone"), make_progress().working("thinking"):
        raise OSError("gone")
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_updates_show_steps_speed_score_and_time_left(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(monitoring.time, "monotonic", lambda: now[0])
    progress = make_progress()
    progress.start(2)  # resumed: what was done before must not count as speed
    now[0] += 30.0
    progress.update(5, "return 12")
    assert capsys.readouterr().out == (
        "suite/method   50%  500 of 1k steps × 3 seeds  30 steps/s  return 12  0:50 left\n")


def test_updates_come_at_most_once_a_second_but_the_last_always(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(monitoring.time, "monotonic", lambda: now[0])
    progress = make_progress()
    progress.start(0)
    for update in range(1, 11):
        now[0] += 0.3
        progress.update(update, "")
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["10%", "50%", "90%", "100%"]


def test_quiet_is_quiet_but_for_warnings(capsys):
    progress = make_progress(quiet=True)
    progress.start(0)
    progress.update(10, "")
    with progress.working("thinking"):
        pass
    monitoring.warn("careful")
    assert capsys.readouterr() == ("", "warning: careful\n")
