import base64
import csv
import itertools
import json
import re
import struct
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text

from varshare_jax.errors import UserError
from varshare_jax.report import (
    comparison_figures,
    figures,
    series,
    specialization_figures,
    statistics,
    write_report,
)
from varshare_jax.report.drawing import style_of, to_svg
from varshare_jax.report.estimates import comparisons
from varshare_jax.report.joining import join
from varshare_jax.report.runs import Posterior, load_run, load_runs
from varshare_jax.report.sections import group

TASKS = ("alpha", "beta", "gamma")
SCORES = np.array([[1.0, 20.0, 3.0], [3.0, 40.0, 4.0], [5.0, 60.0, 8.0]])
MANY = np.concatenate([SCORES, SCORES[:1], SCORES[2:]])  # of five seeds


def nulls(values):
    return [[None if np.isnan(x) else x for x in row] for row in np.asarray(values, float)]


@pytest.fixture
def make_run(tmp_path):
    """Writes a run directory: two evaluations, the last of them equal to the final scores."""

    def make(name="run", *, method="varshare", suite="toy", scores=SCORES, tasks=TASKS,
             finished=True, metrics=None, success=None, config=None, similarity=None,
             posterior=None, **summary):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        scores = np.asarray(scores, float)
        seeds = len(scores)
        (path / "config.json").write_text(json.dumps({
            "suite": suite, "method": method, "num_seeds": seeds, "seed": 7,
            "total_steps": 5000, "run_dir": str(path), **(config or {})}))
        other = {"success": success} if success else {}
        rows = [{"update": i, "env_steps": 1000 * i, "wall_seconds": 2.5 * i, "return": nulls(r)}
                | other for i, r in ((1, np.zeros_like(scores) - 1), (2, scores))]
        write_lines(path / "eval.jsonl", rows)
        write_lines(path / "train.jsonl", [
            {"update": i, "env_steps": i, "wall_seconds": 1.0, "metrics": {
                key: nulls(np.asarray(value) * i) for key, value in (metrics or {}).items()}}
            for i in (1, 2)])
        if similarity is not None:
            (path / "similarity.json").write_text(json.dumps(similarity))
        if posterior is not None:
            (path / "posterior.json").write_text(json.dumps(posterior))
        if finished:
            (path / "summary.json").write_text(json.dumps({
                "suite": suite, "method": method, "num_seeds": seeds, "total_steps": 5000,
                "env_steps": 5120, "wall_seconds": 12.34, "compile_seconds": 1.5,
                "steps_per_second": 9876.4, "parameters": {"active": 1234, "stored": 45678},
                "eval": {"return": nulls(scores)} | other, "task_names": list(tasks),
                "diverged": [], "versions": {"jax": "1.2.3"},
                "device": {"kind": "abacus"}, **summary}))
        return path

    return make


def write_lines(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


class Page(HTMLParser):
    """The tables of a page by the heading above them, cells as (text, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.heading, self._cell = [], {}, "", None
        self.banners, self.folded, self._open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag in ("aside", "details"):
            self._open.append(tag)
        if tag == "aside":
            self.banners.append("")
        if tag == "table" and "details" in self._open:
            self.folded.append(self.heading)
        if tag in ("h2", "h3", "h4"):
            self.heading = ""
        if tag == "table":
            self.tables[self.heading] = []
        if tag == "tr":
            self.tables[self.heading].append([])
        if tag in ("td", "th"):
            self._cell = ["", attributes]

    def handle_data(self, data):
        if "aside" in self._open:
            self.banners[-1] += data
        if self._cell is not None:
            self._cell[0] += data
        elif self.tags and self.tags[-1][0] in ("h2", "h3", "h4"):
            self.heading += data

    def handle_endtag(self, tag):
        if tag in self._open:
            self._open.remove(tag)
        if tag in ("td", "th"):
            self.tables[self.heading][-1].append(tuple(self._cell))
            self._cell = None
        if tag in ("h2", "h3", "h4"):
            self.tags.append(("/", {}))

    def texts(self, heading):
        return [[text.replace("\xa0", " ") for text, _ in row] for row in self.tables[heading]]


@pytest.fixture
def report(tmp_path):
    def write(*runs, **options):
        written = write_report(runs, tmp_path / "out" / "report.html", **options)
        return written, Page(written.page.read_text())

    return write


def test_headline_shows_the_aggregates_and_the_cost(make_run, report):
    written, page = report(make_run())
    intervals = [statistics.bootstrap_interval(SCORES, statistic, rng=np.random.default_rng(0))
                 for statistic in (statistics.interquartile_mean, statistics.mean,
                                   statistics.median)]
    # Sorted: 1 3 3 4 5 8 20 40 60, two cut at either end; the tasks' means are 3, 40 and 5.
    aggregates = [f"{value} [{low:.2f}, {high:.2f}]" for value, (low, high)
                  in zip(("8.00", "16.00", "5.00"), intervals, strict=True)]
    assert page.texts("Results") == [
        ["Method", "IQM [95 % CI]", "Mean", "Median", "Worst task"],
        ["varshare", *aggregates, "3.00 (alpha)"]]
    assert page.texts("Parameters and cost") == [
        ["Method", "Active in training", "Stored", "Env steps", "Wall s", "Compile s", "Steps/s",
         "Seeds"], ["varshare", "1,234", "45,678", "5,120", "12.3", "1.5", "9,876", "3"]]
    for heading in ("Results", "Parameters and cost"):
        for cell in page.texts(heading)[1]:
            assert cell in written.text_table


def test_other_evaluations_stand_beside_each_other(make_run, report):
    one, other = make_run("a"), make_run("b", method="b")
    scores = np.arange(9.0).reshape(3, 3)
    (one / "evaluation_transfer.json").write_text(json.dumps(
        {"return": nulls(scores), "gymnasium_return": nulls(scores - 2), "episodes": 5}))
    (other / "evaluation_drawn.json").write_text(json.dumps({"return": nulls(scores + 1)}))
    _, page = report(one, other)
    head, first, second = page.texts("Other evaluations")
    assert head == ["Method", "transfer: return", "transfer: gymnasium return", "drawn: return"]
    low, high = statistics.bootstrap_interval(scores, statistics.mean,
                                              rng=np.random.default_rng(0))
    assert first[:2] == ["varshare", f"4.0 [{low:.1f}, {high:.1f}]"]
    assert first[2].startswith("2.0 [")
    assert second[3].startswith("5.0 [")
    assert first[3] == second[1] == second[2]  # absent
    (one / "evaluation_transfer.json").write_text(json.dumps({"return": [[1.0]]}))
    with pytest.raises(UserError, match=r"evaluation_transfer\.json: return"):
        load_run(one)


def test_merged_parameters_are_shown_where_a_run_counts_them(make_run, report):
    counted = {"active": 3000, "merged": 1000, "stored": 9000}
    _, page = report(make_run("a", method="a", parameters=counted), make_run("b", method="b"))
    assert [row[:4] for row in page.texts("Parameters and cost")] == [
        ["Method", "Active in training", "Active when merged", "Stored"],
        ["a", "3,000", "1,000", "9,000"], ["b", "1,234", "–", "45,678"]]


def test_text_table_is_aligned(make_run, report):
    written, _ = report(make_run("a", method="short"), make_run("b", method="much_longer_name"))
    head, rule, *rows = written.text_table.splitlines()[2:6]
    assert len(rows) == 2
    assert {len(line) for line in (head, rule, *rows)} == {len(rule)}
    ends = [match.end() for match in re.finditer("─+", rule)]
    assert all(line[end:end + 2].strip() == "" for line in (head, *rows) for end in ends)


def test_per_task_table_has_sample_deviation_and_marks_the_best_and_its_ties(make_run, report):
    other = MANY * [1.0, 2.0, 0.5]
    _, page = report(make_run("a", method="a", scores=MANY),
                     make_run("b", method="b", scores=other))
    rows = page.tables["Final return of each task"]
    texts = [[text for text, _ in row] for row in rows]
    alpha, beta = MANY[:, :2].std(axis=0, ddof=1)
    assert texts[1:3] == [["alpha", f"3.0 ± {alpha:.1f}", f"3.0 ± {alpha:.1f}"],
                          ["beta", f"40.0 ± {beta:.1f}", f"80.0 ± {2 * beta:.1f}"]]
    strong = [[attributes.get("class") == "strong" for _, attributes in row[1:]]
              for row in rows[1:]]
    assert strong == [[True, True], [False, True], [True, False]]


def test_headline_marks_the_best_of_several(make_run, report):
    runs = (make_run("a", method="a", scores=MANY),
            make_run("b", method="b", scores=MANY + 1))
    _, page = report(*runs)
    assert [row[1][1].get("class") for row in page.tables["Results"][1:]] == [None, "strong"]


def test_nothing_is_bold_where_a_run_has_fewer_than_five_seeds(make_run, report):
    other = MANY[:4] + 100
    written, page = report(make_run("a", method="a", scores=MANY),
                           make_run("b", method="b", scores=other))
    assert {"Results", "Final return of each task", "a against each other method"} <= set(
        page.tables)
    assert "strong" not in {attributes.get("class") for _, attributes in page.tags}
    assert "is bold." not in written.page.read_text()
    told, = page.banners
    assert "Fewer than 5 seeds: b (4)." in told


def test_banner_tells_of_unlike_budgets_and_steps(make_run, report):
    """Up to 10 % and a factor of 1.5 they are alike."""
    def run(name, env_steps, step):
        return make_run(name, method=name, scores=MANY, env_steps=env_steps,
                        metrics={"effective_step": np.full(MANY.shape, step)})

    first, alike = run("a", 1000, 0.01), run("b", 1090, 0.0149)
    assert report(first, alike)[1].banners == []
    told, = report(first, alike, run("c", 1110, 0.01))[1].banners
    assert "1,000 env steps of a and 1,110 of c" in told
    assert "Effective steps" not in told
    told, = report(first, alike, run("d", 1000, 0.016))[1].banners
    assert "from 1.50% of a to 2.40% of d" in told
    assert "Budgets" not in told


def test_contents_link_to_every_heading_of_the_page(make_run, report):
    runs = [make_run("a", suite="One, two"), make_run("b", suite="one two", metrics={
        "kl/actor_0": SCORES, "relative_mu/actor_0": SCORES}, similarity=[np.eye(3).tolist()] * 3,
        posterior=POSTERIOR)]
    page = report(*runs)[1]
    anchors = {tag: [attributes.get("id") for name, attributes in page.tags if name == tag]
               for tag in ("h1", "h2", "h3")}
    every = [anchor for found in anchors.values() for anchor in found]
    assert None not in every
    assert len(set(every)) == len(every)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert set(links) == {f"#{anchor}" for anchor in anchors["h2"] + anchors["h3"]}
    assert len(links) == len(set(links))
    assert anchors["h2"] == ["one-two", "one-two.2", "versions-and-devices"]
    # What a heading's text depends on does not move its anchor.
    assert {"one-two.results", "one-two.2.tasks", "one-two.2.specialization-kl"} <= set(every)


def test_tables_of_layers_are_folded(make_run, report):
    page = report(make_run(metrics={"kl/actor_0": SCORES}))[1]
    assert page.folded == ["varshare"]


def test_diverged_scores_count_as_the_worst_of_their_task(make_run, report):
    scores = SCORES.copy()
    scores[1, 1] = np.nan
    run = make_run(scores=scores, diverged=[{"seed": 1, "task": 1}])
    written, page = report(run)
    # The first evaluation was -1 everywhere, so the lost 40 counts as -1.
    assert page.texts("Results")[1][0] == "varshare†"
    assert page.texts("Results")[1][2].split()[0] == f"{(SCORES.sum() - 40 - 1) / 9:.2f}"
    assert "† varshare: 1 of 9 final returns are NaN" in written.text_table
    assert "varshare diverged: seed 1 on beta" in written.text_table
    with written.csv.open() as file:
        assert [row["return"] for row in csv.DictReader(file)].count("nan") == 1


def test_fill_falls_back_to_the_run_where_a_task_never_scored(make_run):
    run = make_run(scores=[[np.nan, 4.0], [np.nan, 6.0]], tasks=("a", "b"))
    write_lines(run / "eval.jsonl", [])
    entry = group(load_runs([run]))[0].entries[0]
    np.testing.assert_array_equal(entry.scores, [[4.0, 4.0], [4.0, 6.0]])
    assert entry.replaced == 2


def test_a_run_that_is_all_nan_is_listed_without_scores(make_run, report):
    lost = make_run("lost", method="lost", scores=np.full((3, 3), np.nan))
    write_lines(lost / "eval.jsonl", [])
    written, page = report(make_run(), lost)
    assert page.texts("Results")[2] == ["lost", "–", "–", "–", "–"]
    assert "lost: every return is NaN." in written.text_table
    assert page.texts("Final return of each task")[0] == ["Task", "varshare"]


def test_csv_has_a_row_per_seed_and_task(make_run, report):
    success = [[0.0, 0.5, 1.0]] * 3
    written, page = report(make_run("a", success=success), make_run("b", method="other"))
    with written.csv.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * SCORES.size
    assert rows[5] == {"suite": "toy", "method": "varshare", "run": "a", "seed": "8",
                       "task": "gamma", "return": "4.0", "success": "1.0"}
    assert rows[9]["success"] == ""
    assert [row[-1] for row in page.texts("Results")] == ["Success rate", "50.0%", "–"]


def test_curves_are_the_numbers_that_were_logged(make_run, report):
    rng = np.random.default_rng(4)
    scores, success = rng.normal(size=(3, 3)), rng.uniform(size=(3, 3))
    scores[2, 0] = np.nan
    runs = (make_run("a", scores=scores, success=success.tolist(), tasks=("=1", "b", "c")),
            make_run("b", method="other", tasks=("=1", "b", "c")))
    written, _ = report(*runs)
    with written.curves.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["suite", "method", "run", "seed", "task", "env_steps",
                             "wall_seconds", "metric", "value"]
    found = {(row["run"], int(row["seed"]), row["task"], int(row["env_steps"]),
              float(row["wall_seconds"]), row["metric"]): float(row["value"]) for row in rows}
    assert len(found) == len(rows) == 2 * 9 * (2 + 1)  # of b there is no success
    for s, m in np.ndindex(3, 3):
        where = ("a", 7 + s, ("'=1", "b", "c")[m], 2000, 5.0)
        np.testing.assert_array_equal(found[(*where, "return")], scores[s, m])
        assert found[(*where, "success")] == success[s, m]
        assert found["b", *where[1:3], 1000, 2.5, "return"] == -1


def test_unfinished_run_takes_its_latest_evaluation_and_ignores_the_cut_off_line(
        make_run, report):
    run = make_run(finished=False)
    for name in ("eval.jsonl", "train.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"update": 3, "env_steps": 3000, "ret')
    written, page = report(run)
    assert page.texts("Results")[1][1].split()[0] == "8.00"
    method, steps, wall, compiled, speed, _ = page.texts("Parameters and cost")[1]
    assert (method, steps, wall) == ("varshare‡", "2,000", "5.0")
    assert compiled == speed == "–"
    assert "‡ varshare: not finished (to end at 5,000 env steps)" in written.text_table
    assert page.texts("Final return of each task")[1][0] == "task 0"


def test_a_damaged_line_that_is_not_the_last_is_an_error(make_run):
    run = make_run()
    (run / "eval.jsonl").write_text('{"upd\n{"update": 1}\n')
    with pytest.raises(UserError, match=r"eval\.jsonl:1: not JSON"):
        load_run(run)


def test_rows_logged_again_after_a_resume_replace_the_earlier_ones(make_run):
    run = make_run()
    rows = [{"update": i, "env_steps": 100 * i, "wall_seconds": 1.0, "return": [[value]] * 3}
            for i, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0), (3, 30.0))]
    write_lines(run / "eval.jsonl", rows)
    found = [(e.env_steps, e.returns[0, 0]) for e in load_run(run).evaluations]
    assert found == [(100, 1.0), (200, 20.0), (300, 30.0)]


@pytest.mark.parametrize("value", [[[1.0, 2.0]], [[1.0], [2.0, 3.0], [4.0]], [1.0] * 3, "x"])
def test_evaluations_of_another_shape_are_refused(make_run, value):
    run = make_run()
    write_lines(run / "eval.jsonl", [
        {"update": 1, "env_steps": 1, "wall_seconds": 1.0, "return": value}])
    with pytest.raises(UserError, match=r"eval\.jsonl:1: not (an evaluation of 3 seeds|what)"):
        load_run(run)


def test_specialization_is_the_last_row_averaged_over_seeds_with_layers_in_order(
        make_run, report):
    values = np.array([[1.0, 2.0, 4.0], [3.0, np.nan, 4.0], [5.0, 2.0, 4.0]])
    metrics = {"kl": values, "kl/critic_0": 0 * values, "kl/actor_head": values,
               "kl/actor_10": values / 2, "kl/actor_2": values, "return": values}
    _, page = report(make_run("a", metrics=metrics),
                     make_run("b", method="l2_soft", metrics={"l2/actor_0": values}))
    rows = page.tables["varshare"]
    assert [[text.replace("\xa0", " ") for text, _ in row] for row in rows] == [
        ["Task", "actor_2", "actor_10", "actor_head", "critic_0", "All layers"],
        ["alpha", "6.000", "3.000", "6.000", "0.000", "15.000"],
        ["beta", "4.000", "2.000", "4.000", "0.000", "10.000"],
        ["gamma", "8.000", "4.000", "8.000", "0.000", "20.000"]]
    styles = [row[1][1]["style"] for row in rows[1:]]
    darkness = [sum(map(int, re.search(r"rgb\((.*?)\)", style)[1].split(","))) for style in styles]
    assert darkness[2] < darkness[0] < darkness[1]
    assert "l2_soft" in page.tables


@pytest.mark.parametrize("scale", ["relative_mu", "sigma_prior"])
def test_maps_show_up_to_five_moments_from_the_first_to_the_last(make_run, report, scale):
    run = make_run()
    rows = [{"update": i, "env_steps": 1000 * i, "metrics": {f"{scale}/actor_0": [
        [i, 0.0, None]] * 3}} for i in range(1, 18)]
    write_lines(run / "train.jsonl", rows, tail='{"update": 18, "env_st')
    moments = load_run(run).moments
    assert [moment.env_steps for moment in moments] == [1000, 5000, 9000, 13000, 17000]
    assert moments[-1].metrics[f"{scale}/actor_0"][0, 0] == 17
    _, page = report(run)
    shown = [attributes.get("alt", "") for _, attributes in page.tags]
    assert [text for text in shown if text.startswith(scale)] == [
        f"{scale} of varshare after {steps:,} steps"
        for steps in (1000, 5000, 9000, 13000, 17000)]


def test_a_map_of_layers_is_shaded_by_its_values():
    values = np.array([[0.0, 1.0], [2.0, np.nan]])
    axes = specialization_figures.layer_map("x", values, ("a", "b"), ("c", "d"), 4.0).axes[0]
    picture, = axes.images
    np.testing.assert_array_equal(picture.get_array().filled(np.nan), values)
    assert picture.get_clim() == (0.0, 4.0)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]


def test_tensorboard_has_a_map_of_each_measure_that_was_logged():
    row = {"kl/actor_0": SCORES, "relative_mu/actor_0": np.full((3, 3), np.nan), "return": SCORES}
    (name, png), = specialization_figures.tensorboard_maps(row, TASKS)
    assert name == "kl"
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert min(width, height) >= 400  # to be read without a magnifying glass


POSTERIOR = {
    "gram": [[[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]] * 3, "residual": True,
    "sigma": {"actor_0": {"edges": [0.01, 0.1, 1.0], "counts": [3, 1]}}}


def test_map_of_tasks_and_spreads_are_shown_where_a_run_stored_them(make_run, report):
    _, page = report(make_run("a", posterior=POSTERIOR, task_parameters={
        "mass [kg]": [1.0, 2.0, 4.0], "all the same": [1.0, 1.0, 1.0]}), make_run("b", method="b"))
    shown = {attributes.get("alt", "") for _, attributes in page.tags}
    assert {text for text in shown if "Map of tasks" in text} == {
        "Map of tasks under varshare: names", "Map of tasks under varshare: mass [kg]"}
    assert "Standard deviations of layer actor_0" in shown


def test_map_of_tasks_has_distances_of_the_residuals_and_their_origin(make_run):
    run = load_run(make_run(posterior=POSTERIOR))
    (_, figure), = specialization_figures.task_maps(run.posterior, TASKS, {})
    axes = figure.axes[0]
    tasks = axes.collections[0].get_offsets()
    origin = np.ravel([line.get_data() for line in axes.lines])
    np.testing.assert_allclose(np.linalg.norm(tasks - origin, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(tasks[0] - tasks[2]), 2.0, atol=1e-6)
    assert "100%" in axes.get_xlabel()


def test_names_on_a_map_of_tasks_do_not_overlap(make_run):
    """Two dense clusters of long names, and the origin far away from both."""
    rng = np.random.default_rng(6)
    points = 0.05 * rng.normal(size=(20, 2)) + np.where(np.arange(20)[:, None] % 2, [1, 3], [2, 3])
    names = [f"a_rather_long_name_{m}" for m in range(20)]
    posterior = Posterior((points @ points.T)[None], True, {})
    (_, figure), = specialization_figures.task_maps(posterior, names, {})
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == names
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    marks = axes.transData.transform(axes.collections[0].get_offsets())
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.contains(*mark) for box in boxes for mark in marks)
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.corners())


def test_labels_without_room_are_left_out_and_counted():
    names = [f"{m}_{'name' * 40}" for m in range(3)]
    posterior = Posterior(np.eye(3)[None], False, {})
    (_, figure), = specialization_figures.task_maps(posterior, names, {})
    assert not figure.axes[0].texts
    assert "3 of 3 labels have no room" in figure.axes[0].get_title()


def test_figures_are_whole_svg_with_their_text_as_it_is():
    label = "3.14159265 id=\"x\" <b> & 名"
    values = np.array([[0.123456789, 1.0]])
    svg = to_svg(specialization_figures.layer_map(label, values, ("a",), ("b", "c"), 1.0))
    tree = ElementTree.fromstring(svg)
    assert label in [node.text for node in tree.iter() if node.tag.endswith("}text")]
    known = {node.get("id") for node in tree.iter()} - {None}
    referred = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg.decode()))
    assert referred
    assert known == referred | {node.get("id") for node in tree.iter()
                                if node.tag.endswith("}image")} - {None}


def test_damaged_posterior_is_named(make_run):
    for number, content in enumerate(({}, [], {"gram": [[1.0], 2.0]}, POSTERIOR | {"sigma": 1})):
        with pytest.raises(UserError, match=r"posterior\.json"):
            load_run(make_run(f"run{number}", posterior=content))


def test_layers_that_are_all_nan_are_left_blank(make_run, report):
    _, page = report(make_run(metrics={"kl/actor_0": np.full((3, 3), np.nan)}))
    assert page.texts("varshare")[1] == ["alpha", "–", "–"]


def test_differences_show_only_what_differs(make_run, report):
    _, page = report(make_run("a", config={"ppo": {"clip": 0.2, "epochs": 4}}),
                     make_run("b", config={"ppo": {"clip": 0.3, "epochs": 4}, "extra": True}))
    assert page.texts("Differences between the configurations") == [
        ["Field", "varshare (a)", "varshare (b)"], ["ppo.clip", "0.2", "0.3"],
        ["extra", "–", "true"]]


def test_environments_share_a_column_only_if_equal(make_run, report):
    same = make_run("a", method="a"), make_run("b", method="b")
    heading = "Versions and devices"
    assert report(*same)[1].texts(heading) == [
        ["", "all finished runs"], ["device.kind", "abacus"], ["versions.jax", "1.2.3"]]
    other = make_run("c", method="c", versions={"jax": "2.0"})
    assert report(*same, other)[1].texts(heading) == [
        ["", "a, b", "c"], ["device.kind", "abacus", "abacus"], ["versions.jax", "1.2.3", "2.0"]]


def test_page_escapes_what_runs_contain(make_run, report):
    evil = "<script>alert('x')</script>"
    run = make_run(method=evil, suite='"><b>', tasks=(evil, "$\\frac{$", "& co"),
                   metrics={f"kl/{evil}": SCORES}, versions={evil: evil},
                   device={"kind": evil})
    written, page = report(run, make_run("b", method=f"{evil}2", suite='"><b>',
                                         tasks=(evil, "$\\frac{$", "& co"), config={evil: evil}))
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert evil in [row[0] for row in page.texts("Final return of each task")]
    assert "<script" not in written.page.read_text().lower()


def test_page_is_self_contained_and_reproducible(make_run, report):
    runs = make_run("a", method="a"), make_run("b", method="b")
    written, page = report(*runs)
    text = written.page.read_text()
    assert not {"link", "script", "iframe"} & {tag for tag, _ in page.tags}
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    # Curves over steps and seconds, P, differences, profiles, the key, a panel for each task.
    assert len(sources) == 2 + 2 + 1 + len(runs) + len(TASKS)
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        assert b"<svg" in base64.b64decode(data)
    assert "http" not in text
    assert str(runs[0].parent) not in text
    assert report(*runs)[0].page.read_text() == text
    assert sorted(path.name for path in written.page.parent.iterdir()) == [
        "report.csv", "report.html", "report_curves.csv"]


def test_learning_curve_plots_the_iqm_and_its_interval(make_run):
    sections = group(load_runs([make_run()]))
    axes, = figures.learning_curves(sections).axes
    line, = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [1000, 2000])
    np.testing.assert_allclose(line.get_ydata(), [-1.0, 8.0])
    low, high = statistics.bootstrap_interval(
        SCORES, statistics.interquartile_mean, resamples=1000, rng=np.random.default_rng(0))
    band = axes.collections[0].get_paths()[0].vertices
    at_end = band[band[:, 0] == 2000][:, 1]
    np.testing.assert_allclose([at_end.min(), at_end.max()], [low, high])


def test_lines_stay_apart_in_print_with_more_runs_than_colours(make_run):
    runs = [make_run(f"{i:02}", method=f"method_{i}") for i in range(16)]
    section, = group(load_runs(runs))
    styles = [style_of(entry) for entry in section.entries]
    assert len({(style.dashes, style.marker) for style in styles}) == 16


def test_one_seed_and_one_task(make_run, report):
    written, page = report(make_run(scores=[[5.0]], tasks=("only",)))
    assert page.texts("Results")[1][1:4] == ["5.000", "5.000", "5.000"]
    assert "One seed gives no confidence interval." in written.text_table
    assert page.texts("Final return of each task")[1] == ["only", "5.000"]
    pictures = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert pictures == ["Learning curves on toy against steps",
                        "Learning curves on toy against seconds", "Performance profiles on toy"]


def test_each_suite_has_its_section_and_may_differ_in_tasks(make_run, report, tmp_path):
    picture = tmp_path / "docs" / "curves.png"
    written, page = report(make_run("a", suite="one"),
                           make_run("b", suite="two", scores=[[1.0]], tasks=("x",)),
                           figure_png=picture)
    assert [attributes["id"] for tag, attributes in page.tags if tag == "h2"] == [
        "one", "two", "versions-and-devices"]
    assert written.text_table.startswith("one\n")
    assert "\ntwo\n" in written.text_table
    assert written.figure == picture
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_suites_that_differ_in_one_number_make_a_series(make_run, report):
    runs = [make_run(f"{spread}/{method}", method=method,
                     suite=f"family:tasks=3,spread={spread}", scores=scores)
            for spread, method, scores in (
                ("1", "varshare", SCORES), ("0.5", "varshare", np.ones((2, 3))),
                ("0.5", "l2_soft", SCORES), ("1", "l2_soft", 3 * np.ones((2, 3))),
                ("1", "contextual", SCORES))]
    _, page = report(*runs)
    header, *rows = page.texts("family:tasks=3 against spread")
    assert header == ["Method", "spread 0.5", "spread 1"]
    assert [row[0] for row in rows] == ["varshare", "l2_soft"]  # contextual has one point
    assert rows[0][1] == "1.00 [1.00, 1.00]"
    assert rows[1][2] == "3.00 [3.00, 3.00]"
    alone, other = make_run("alone", suite="family:tasks=4,spread=0"), make_run("a", suite="b")
    assert series.find(group(load_runs([*runs[:2], alone, other])))[0].setting == "spread"
    assert not series.find(group(load_runs([runs[0], alone, other])))


def test_runs_of_a_suite_must_have_the_same_tasks(make_run):
    first = make_run("a")
    with pytest.raises(UserError, match="has 2 tasks of toy"):
        group(load_runs([first, make_run("b", scores=[[1.0, 2.0]], tasks=("x", "y"))]))
    with pytest.raises(UserError, match="name the tasks of toy differently"):
        group(load_runs([first, make_run("c", tasks=("x", "y", "z"))]))


def test_run_without_evaluation_is_listed_but_cannot_stand_alone(make_run, report):
    empty = make_run("empty", method="late", finished=False)
    (empty / "eval.jsonl").unlink()
    written, page = report(make_run(), empty)
    assert page.texts("Results")[2][:2] == ["late‡", "–"]
    assert "late: no evaluation yet." in written.text_table
    with pytest.raises(UserError, match="no run has an evaluation yet"):
        report(empty)


def test_runs_of_one_method_in_folders_of_one_name_are_told_apart(make_run, report):
    runs = make_run("x/0"), make_run("y/0"), make_run("z", method="other")
    section, = group(load_runs(runs))
    assert [entry.label for entry in section.entries] == [
        "varshare (x/0)", "varshare (y/0)", "other"]
    written, _ = report(*runs)
    for file in (written.csv, written.curves):
        with file.open() as lines:
            names = [row["run"] for row in csv.DictReader(lines)]
        assert [name for name, before in zip(names, ["", *names], strict=False)
                if name != before] == ["x/0", "y/0", f"{runs[2].parent.name}/z"]


def test_parts_of_one_seed_each_are_one_run(make_run, report):
    whole = make_run("whole", metrics={"kl_total": SCORES}, similarity=np.ones((3, 3, 3)).tolist())
    for s, row in enumerate(SCORES):
        own = {"seed": 7 + s, "run_dir": f"elsewhere/{s}"}
        make_run(f"apart/seed_{7 + s}", scores=[row], metrics={"kl_total": [row]}, config=own,
                 similarity=np.ones((1, 3, 3)).tolist())
    make_run("apart/seed_9x", scores=SCORES[:1])  # no part, by its name
    make_run("apart/seed_11", scores=SCORES[:1], config={"seed": 11}, finished=False)
    make_run("apart/seed_12", scores=SCORES[:1], config={"seed": 12, "total_steps": 9})
    joined = join(load_runs([whole.parent / "apart"]))
    assert [run.path.name for run in joined] == ["apart", "seed_12", "seed_9x"]
    one, run = joined[0], load_run(whole)
    assert one.seeds == run.seeds == (7, 8, 9)
    np.testing.assert_array_equal(one.final.returns, SCORES)
    assert [e.env_steps for e in one.evaluations] == [e.env_steps for e in run.evaluations]
    np.testing.assert_array_equal(one.evaluations[0].returns, run.evaluations[0].returns)
    np.testing.assert_array_equal(one.last_metrics["kl_total"], run.last_metrics["kl_total"])
    assert one.similarity.shape == run.similarity.shape
    assert one.number("wall_seconds") == pytest.approx(3 * 12.34)
    assert one.number("steps_per_second") == pytest.approx(5120 / 12.34)
    _, page = report(whole.parent / "apart", whole)
    seeds = [row[-1] for row in page.texts("Parameters and cost")[1:]]
    assert seeds == ["3", "1", "1", "3"]


def test_histograms_of_parts_lie_over_the_range_of_all(make_run):
    paths = [make_run(f"apart/seed_{seed}", scores=SCORES[:1], config={"seed": seed}, posterior={
        "gram": [np.eye(3).tolist()], "residual": True,
        "sigma": {"layer": {"edges": [float(seed), seed + 1.0, seed + 2.0], "counts": [3, 1]}}})
        for seed in (0, 2)]
    edges, counts = join(load_runs(paths))[0].posterior.sigma["layer"]
    np.testing.assert_array_equal(edges, [0, 2, 4])
    np.testing.assert_array_equal(counts, [4, 4])


def test_the_same_directory_twice_is_one_run(make_run):
    run = make_run()
    assert len(load_runs([run, run.parent / "." / run.name, run / ".." / run.name])) == 1


def test_paths_that_are_no_runs_are_named_with_a_hint(make_run, tmp_path):
    run = make_run("varshare_0")
    with pytest.raises(UserError, match=r"does not exist; did you mean '.*varshare_0'\?"):
        load_runs([run.with_name("varshare_1")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json\), and no run is below it"):
        load_runs([tmp_path / "empty"])
    (tmp_path / "report.html").write_text("")
    with pytest.raises(UserError, match=r"report\.html' is not a run directory"):
        load_runs([tmp_path / "report.html"])
    with pytest.raises(UserError, match="no run directory given"):
        load_runs([])


def test_a_folder_stands_for_the_runs_below_it(make_run, tmp_path, capsys):
    """Those of a sweep that has not finished are not there yet, which is told."""
    one, two = make_run("a"), make_run("deeper/b", method="b")
    sweep = make_run("swept", config={"sweep": "varshare.beta=1,2"}, finished=False)
    assert [run.path for run in load_runs([tmp_path])] == [one, two]
    assert f"warning: {sweep}: a sweep that is not finished" in capsys.readouterr().err


def test_names_in_the_csv_are_no_formulas(make_run, report):
    written, _ = report(make_run(tasks=("=HYPERLINK(1)", "+b", "c")))
    with written.csv.open() as file:
        assert [row["task"] for row in csv.DictReader(file)][:3] == ["'=HYPERLINK(1)", "'+b", "c"]


def test_numbers_that_make_no_sense_are_refused_where_they_are_read(make_run):
    run = make_run()
    summary = json.loads((run / "summary.json").read_text())
    for change, said in (
            ({"score_range": {"random": [9.0] * 3, "target": [9.0, 10.0, 10.0]}},
             r"summary\.json: score_range=.*: every target must exceed its random"),
            ({"env_steps": 10**30}, r"summary\.json: not an evaluation of 3 seeds")):
        (run / "summary.json").write_text(json.dumps(summary | change))
        with pytest.raises(UserError, match=said):
            load_run(run)


@pytest.mark.parametrize(("content", "message"), [
    ("{", "not JSON"), ("[]", "not what .* it is a list, not an object"),
    ('{"suite": "a"}', "not what it should be: it lacks 'method'")])
def test_damaged_config_is_named(make_run, content, message):
    run = make_run()
    (run / "config.json").write_text(content)
    with pytest.raises(UserError, match=rf"config\.json: {message}"):
        load_run(run)


def test_outputs_that_cannot_be_written_are_named_and_leave_nothing(make_run, tmp_path):
    run = make_run()
    with pytest.raises(UserError, match=r"--out=.*report\.txt: must be a .* ends in \.html"):
        write_report([run], tmp_path / "report.txt")
    with pytest.raises(UserError, match=r"--figure_png=.*a\.jpg: must be .* ends in \.png"):
        write_report([run], tmp_path / "report.html", figure_png=tmp_path / "a.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report([run], tmp_path / "file" / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "runs"]


RANGE = {"random": [1.0, 0.0, 3.0], "target": [5.0, 60.0, 8.0]}


def test_learning_curves_over_wall_clock(make_run):
    sections = group(load_runs([make_run()]))
    line, = figures.learning_curves(sections, figures.SECONDS).axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), [2.5, 5.0])


def test_optimality_gap_is_that_of_scores_on_the_suites_scale(make_run, report):
    _, page = report(make_run(score_range=RANGE))
    # What misses the target: 1, ½, 0; ⅔, ⅓, 0; 1, ⅘, 0.
    gap = np.mean([1, 0.5, 0, 2 / 3, 1 / 3, 0, 1, 0.8, 0])
    assert page.texts("Results")[0][4] == "Optimality gap"
    assert page.texts("Results")[1][4].startswith(f"{gap:.3f} [")


def test_success_is_the_measure_where_every_evaluation_has_it(make_run, report):
    success = [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    _, page = report(make_run(success=success), make_run("b", method="b", success=success))
    assert [row[0:3:2] for row in page.texts("Results")[1:]] == [
        ["varshare", page.texts("Results")[1][2]], ["b", page.texts("Results")[1][2]]]
    assert page.texts("Results")[1][2].startswith("0.500 [")
    assert [row[-1] for row in page.texts("Results")] == ["Return", "16.00", "16.00"]
    assert "Final success rate of each task" in page.tables


def test_each_other_run_is_compared_with_varshare(make_run, report):
    better = make_run("z", method="varshare", scores=MANY + np.array([0.5, 2.0, 0.0]))
    _, page = report(make_run("a", method="a", scores=MANY), better)
    heading = "varshare against each other method"
    difference = 2.5 / 3  # the same for every seed, so the interval is a point
    row = page.texts(heading)[1]
    # Of 25 pairs in each task 17, 17 and 8 + 9/2 are won: half a tie is half a win.
    assert row[0] == "a"
    assert row[1].startswith(f"{(17 + 17 + 12.5) / 75:.2f} [")
    assert row[2:] == [f"{difference:.2f} [{difference:.2f}, {difference:.2f}]", "5 of 5"]
    assert [attributes.get("class") for _, attributes in page.tables[heading][1][1:]] == [
        None, "strong", None]


def test_intervals_of_several_comparisons_hold_together(make_run):
    """Bonferroni: with five others each has a confidence of 99 %."""
    rng = np.random.default_rng(3)
    others = [make_run(name, method=name, scores=SCORES + rng.normal(size=SCORES.shape))
              for name in "bcdef"]
    first = comparisons(group(load_runs([make_run("a"), *others]))[0])[0]
    theirs = first.other.scores
    expected = statistics.paired_interval(SCORES, theirs, statistics.mean, confidence=0.99,
                                          resamples=10_000, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(first.difference.interval, expected)
    alone, = comparisons(group(load_runs([make_run("g"), others[0]]))[0])
    low, high = alone.difference.interval
    assert first.difference.interval[0] <= low < high <= first.difference.interval[1]


def test_costs_tell_how_far_an_update_moves_the_weights(make_run, report):
    steps = {"effective_step": np.full((3, 3), 0.01)}  # and twice that in the second row
    _, page = report(make_run("a", metrics=steps), make_run("b", method="b"))
    cells = {row[0]: row for row in page.texts("Parameters and cost")}
    column = cells["Method"].index("Effective step")
    assert cells["varshare"][column] == "1.50 %"
    assert cells["b"][column] == "–"


def test_the_effective_step_is_a_mean_over_all_of_training(make_run):
    """And not over the few moments of which there are pictures."""
    folder = make_run("a")
    steps = [0.12] + [0.0] * 11
    rows = [{"env_steps": k, "metrics": {"effective_step": [[step] * 3] * 3}}
            for k, step in enumerate(steps)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert load_runs([folder])[0].effective_step == pytest.approx(0.01)


def test_only_seeds_in_common_are_paired(make_run):
    ours = make_run("a", scores=SCORES, config={"seed": 8})  # seeds 8, 9, 10 against 7, 8, 9
    comparison, = comparisons(group(load_runs([ours, make_run("b", method="b")]))[0])
    np.testing.assert_allclose(comparison.by_seed, (SCORES[:2] - SCORES[1:]).mean(axis=1))
    figure = comparison_figures.paired_differences(
        group(load_runs([ours]))[0], [comparison])
    rings, *_ = figure.axes[0].lines
    np.testing.assert_allclose(rings.get_xdata(), comparison.by_seed)


def test_runs_without_a_common_seed_are_compared_unpaired(make_run, report):
    _, page = report(make_run("a", config={"seed": 100}), make_run("b", method="b"))
    assert page.texts("varshare against each other method")[1][2:] == ["no seed in common", "–"]


def test_focus_names_the_run_that_others_are_compared_with(make_run, report):
    runs = make_run("a", method="a"), make_run("b"), make_run("c", method="c")
    assert "varshare against each other method" in report(*runs)[1].tables
    page = report(*runs, focus="c")[1]
    assert [row[0] for row in page.texts("c against each other method")] == [
        "c against", "a", "varshare"]
    with pytest.raises(UserError, match=r"--focus=vashare: unknown; .* did you mean 'varshare'"):
        report(*runs, focus="vashare")


def test_retention_is_the_share_of_what_the_oracle_gains_over_random(make_run, report):
    oracle = make_run("o", method="independent", score_range=RANGE)  # means 3, 40, 5
    _, page = report(oracle, make_run(scores=SCORES * 0 + [[2.0, 30.0, 5.0]]))
    assert page.texts("Retention of the single-task oracle") == [
        ["Task", "varshare"], ["alpha", "50.0%"], ["beta", "75.0%"], ["gamma", "100.0%"],
        ["Mean", "75.0%"], ["95 % CI", "[75.0, 75.0]"]]


def test_retention_leaves_out_tasks_on_which_the_oracle_is_no_better_than_random(
        make_run, report):
    known = {"random": [1.0, 50.0, 3.0], "target": [5.0, 60.0, 8.0]}
    written, page = report(make_run("o", method="independent", score_range=known),
                           make_run(score_range=known))
    assert page.texts("Retention of the single-task oracle")[1:5] == [
        ["alpha", "100.0%"], ["beta", "–"], ["gamma", "100.0%"], ["Mean", "100.0%"]]
    assert "no better than random on beta" in written.page.read_text()


def test_retention_of_negative_returns_needs_a_known_zero(make_run, report):
    written, page = report(make_run("o", method="independent", scores=-SCORES),
                           make_run(scores=-SCORES))
    assert "Retention of the single-task oracle" not in page.tables
    assert "would mean nothing" in written.page.read_text()


def test_worst_tasks_are_named_from_the_worst(make_run, report):
    _, page = report(make_run())
    head, row = page.texts("Worst tasks")
    assert head == ["Method", "Worst task [95 % CI]", "Mean of the 2 worst [95 % CI]",
                    "From the worst"]
    assert [row[1].split()[0], row[2].split()[0], row[3]] == ["3.00", "4.00", "alpha, gamma"]


def test_performance_profiles_show_the_fraction_above(make_run):
    section, = group(load_runs([make_run(score_range=RANGE)]))
    line, = comparison_figures.performance_profiles(section).axes[0].lines
    x, y = line.get_data()
    assert (y[0], y[-1]) == (1.0, 0.0)
    # On the scale: 0, ⅓, 0 of the first seed, ½, ⅔, ⅕ of the second, and three times 1.
    np.testing.assert_allclose(y[np.searchsorted(x, [0.1, 0.4, 0.75])], [7 / 9, 5 / 9, 3 / 9])
    assert (np.diff(y) <= 0).all()


def test_similarity_of_tasks_is_averaged_over_seeds(make_run, report):
    one = np.eye(3).tolist()
    other = [[1.0, 0.5, None], [0.5, 1.0, None], [None, None, None]]
    runs = (make_run("a", similarity=[one, other, one]), make_run("b", method="b", similarity=[]))
    written, page = report(*runs)
    assert "Similarity of tasks under varshare" in [
        attributes.get("alt") for _, attributes in page.tags]
    assert "b: no parameters of the tasks" in written.page.read_text()
    cosines = load_run(runs[0]).similarity
    np.testing.assert_array_equal(cosines[1], np.array(other, float))
    texts = comparison_figures.task_similarity(
        "x", np.nanmean(cosines, axis=0), TASKS, (0.0, 1.0)).axes[0].texts
    assert [text.get_text() for text in texts] == ["0.17", "0.00", "0.17", "0.00", "0.00", "0.00"]


def test_damaged_similarity_is_named(make_run):
    for content in ([[[1.0, 0.5]]], [[1.0]], "x", [[["x"]]]):
        run = make_run(f"run_{content}"[:12].replace("/", ""), similarity=content)
        with pytest.raises(UserError, match=r"similarity\.json"):
            load_run(run)


def test_every_method_is_in_every_table_when_there_are_ten(make_run, report):
    rng = np.random.default_rng(0)
    methods = ["varshare", "independent", *(f"method_{i}" for i in range(8))]
    tasks = tuple(f"task_{m}" for m in range(10))
    known = {"random": [0.0] * 10, "target": [500.0] * 10}
    _, page = report(*(make_run(method, method=method, tasks=tasks, score_range=known,
                                scores=rng.uniform(100, 500, (10, 10))) for method in methods))
    by_rows = {"Results": 10, "Parameters and cost": 10, "Worst tasks": 10,
               "varshare against each other method": 9}
    for heading, count in by_rows.items():
        assert {row[0] for row in page.texts(heading)[1:]} == set(methods[-count:])
    assert page.texts("Final return of each task")[0] == ["Task", *methods]
    assert page.texts("Retention of the single-task oracle")[0] == [
        "Task", "varshare", *methods[2:]]
