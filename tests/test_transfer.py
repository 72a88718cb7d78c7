"""What the report tells of adaptation, on learning curves made by hand."""

import json

import numpy as np
import pytest
from test_report import make_run, write_lines  # noqa: F401, a fixture

from varshare_jax.report import transfer
from varshare_jax.report.runs import load_run, load_runs
from varshare_jax.report.sections import group
from varshare_jax.report.table import to_text

STEPS = np.array([0.0, 30.0, 60.0, 90.0])  # of one seed, over three tasks


def test_steps_to_a_level_and_the_area_by_hand():
    curve = np.array([[[0.0, 0.0]], [[0.5, 0.2]], [[0.4, 0.3]], [[1.0, 0.4]]])  # [E, S, M]
    np.testing.assert_array_equal(transfer.steps_to(STEPS, curve, 0.5), [[30, np.inf]])
    np.testing.assert_array_equal(transfer.steps_to(STEPS, curve, 0.0), [[0, 0]])
    expected = [[(0.25 + 0.45 + 0.7) / 3, (0.1 + 0.25 + 0.35) / 3]]
    np.testing.assert_allclose(transfer.area(STEPS, curve), expected)
    np.testing.assert_allclose(transfer.area_ratio(np.array([[3.0, 1.0]]), np.array([[1.0, 1.0]])),
                               2.0)


@pytest.fixture
def section(make_run):  # noqa: F811
    """Scratch rises to 10 by the last evaluation; a residual is at 8 at once, and there soon."""
    curves = {"scratch": (0, 2, 6, 10), "full": (8, 9, 10, 10), "residual": (8, 9.5, 10, 10)}
    paths = []
    for regime, scores in curves.items():
        every = [np.full((2, 3), float(x)) for x in scores]
        path = make_run(f"adapted/regime={regime}", scores=every[-1],
                        config={"adapt": {"regime": regime}},
                        metrics={"kl": np.full((2, 3), 50.0)},
                        parameters={"active": 1000, "offered": 200})
        write_lines(path / "eval.jsonl", [
            {"update": i, "env_steps": int(steps), "wall_seconds": float(i),
             "return": each.tolist()} for i, (steps, each) in enumerate(
                 zip(STEPS, every, strict=True))])
        paths.append(path)
    (paths[0].parent / "zero_shot.json").write_text(json.dumps({
        "task_names": ["alpha", "beta", "gamma"], "shared": [[8, 8, 8]],
        "best_other": [[9, 9, 9]]}))
    [section] = group(load_runs(paths))
    return section


def test_measures_of_adaptation(section):
    [(method, of)] = transfer.families(section).items()
    assert (method, set(of)) == ("varshare", {"scratch", "full", "residual"})
    scale, meaning = transfer._scale(section, of)
    assert "no oracle" in meaning[1]
    runs = transfer.adapted(section, of, scale)
    assert [run.regime for run in runs] == ["scratch", "full", "residual"]
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in transfer.measures(runs).rows}
    # jump-start, steps to 50 % and 90 % of one task, area ratio, final, nats, parameters
    assert rows["scratch"] == ["–", "20 (100.0%)", "30 (100.0%)", "–", "1.00 [1.00, 1.00]", "100",
                               "100.0%"]
    area = ((8 + 9.5) + (9.5 + 10) + (10 + 10)) / ((0 + 2) + (2 + 6) + (6 + 10))
    assert rows["residual"] == [
        "0.80 [0.80, 0.80]", "0 (100.0%)", "10 (100.0%)", f"{area:.2f} [{area:.2f}, {area:.2f}]",
        "1.00 [1.00, 1.00]", "100", "20.0%"]
    folds = to_text(transfer.folds(runs)).splitlines()
    assert folds[2].split() == ["alpha", "100.0%", "100.0%", "100.0%", "0.33", "0.33"]
    assert transfer.measures(runs).notes == (
        "Mean return before anything is learned: under the shared parameters 8; under the best "
        "other task's own 9.",)
    assert "Adaptation of varshare" in str(next(transfer.content(section)))


def test_a_fold_is_reported_without_the_task_that_it_left_out(make_run):  # noqa: F811
    scores = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 4.0]])
    path = make_run(scores=scores, config={"leave_out": "beta"}, metrics={"kl": scores},
                    similarity=np.eye(3)[None].repeat(2, 0).tolist(),
                    score_range={"random": [0, 5, 1], "target": [9, 8, 7]})
    run = load_run(path)
    assert (run.suite, run.task_names) == ("toy without beta", ("alpha", "gamma"))
    np.testing.assert_array_equal(run.final.returns, scores[:, [0, 2]])
    assert run.last_metrics["kl"].shape == (2, 2)
    assert run.similarity.shape == (2, 2, 2)
    np.testing.assert_array_equal(run.score_range[1], [9, 7])
    assert group([run])[0].entries[0].replaced == 0
