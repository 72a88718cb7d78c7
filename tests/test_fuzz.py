"""Damaged files, odd archives, flags and plans, drawn from a seed: one line each, or all is right.

`make fuzz` draws many times as many (FUZZ) and takes what is slow along.
"""

import contextlib
import copy
import json
import random
import shutil

import jax
import numpy as np
import pytest
from absl import flags
from conftest import FUZZ

from varshare_jax import experiments
from varshare_jax.cli import _app
from varshare_jax.config import Config, leaves
from varshare_jax.errors import UserError
from varshare_jax.learner import make_problem
from varshare_jax.playing import policies
from varshare_jax.report import tables, write_report
from varshare_jax.report.runs import load_runs
from varshare_jax.report.sections import group
from varshare_jax.report.table import to_text
from varshare_jax.runs import files, folder
from varshare_jax.variational import residuals

ODD = (None, {}, [], "x", "", -1, 0, 10**30, 1e308, True, [None], [[]], [["x"]], {"a": {}},
       "\x1b[31mred", "²", "../../escape", [[1.0, 2.0], [3.0]], float("nan"))


def odd_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flipped, cut off, doubled, emptied, or bytes of no sense."""
    if not content:
        return b"\x00"
    changed, place = bytearray(content), draw.randrange(len(content))
    how = draw.randrange(6)
    if how == 0:
        for _ in range(draw.choice((1, 3, 30))):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    elif how == 1:
        del changed[place:]
    elif how == 2:
        changed[place:place] = content[place:place + 50]
    elif how == 3:
        changed = bytearray()
    elif how == 4:
        changed = bytearray(draw.randbytes(100))
    else:
        changed[place:place] = b"[" * 100_000
    return bytes(changed)


def odd_tree(tree, draw: random.Random):
    """A JSON tree one of whose nodes is another, or gone."""
    tree = copy.deepcopy(tree)
    node, steps = tree, draw.randrange(1, 6)
    for _ in range(steps):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            break
        key = draw.choice(keys)
        inner = node[key]
        if not isinstance(inner, dict | list) or draw.random() < 0.3:
            if isinstance(node, dict) and draw.random() < 0.2:
                del node[key]
            else:
                node[key] = draw.choice(ODD)
            return tree
        node = inner
    return draw.choice(ODD)


def odd_file(path, draw: random.Random) -> None:
    """Damages a file as a disk or a person may."""
    content = path.read_bytes()
    if draw.random() < 0.4:
        path.write_bytes(odd_bytes(content, draw))
        return
    lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
    index = draw.randrange(len(lines))
    lines[index] = json.dumps(odd_tree(json.loads(lines[index]), draw))
    path.write_text("\n".join(lines) + "\n")


SCORES = [[1.0, 20.0], [3.0, 40.0], [5.0, None]]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A finished run as the report reads it, with every file that it knows."""
    path = tmp_path_factory.mktemp("fuzz") / "run"
    path.mkdir()
    cosines = np.full((3, 2, 2), 0.5).tolist()
    files.write_json(path / "config.json", {
        "suite": "toy", "method": "varshare", "num_seeds": 3, "seed": 1, "total_steps": 100,
        "varshare": {"beta": 1.0, "sigma_prior": 0.1}, "network": {"hidden": [8]}})
    files.write_rows(path / "eval.jsonl", [
        {"update": u, "env_steps": 10 * u, "wall_seconds": 1.0 * u, "return": SCORES}
        for u in (1, 2, 3)])
    files.write_rows(path / "train.jsonl", [
        {"update": u, "env_steps": 10 * u, "wall_seconds": 1.0, "metrics": {
            "kl/actor_0": [[1.0, 2.0]] * 3, "loss": [[0.1, 0.2]] * 3}} for u in (1, 2, 3)])
    files.write_json(path / "similarity.json", cosines)
    files.write_json(path / "posterior.json", {
        "gram": cosines, "residual": True,
        "sigma": {"actor_0": {"edges": [0.1, 0.2, 0.4], "counts": [3, 4]}}})
    files.write_json(path / "evaluation_drawn.json", {"return": SCORES, "weights": "sample"})
    files.write_json(path / "summary.json", {
        "suite": "toy", "method": "varshare", "env_steps": 30, "wall_seconds": 3.0,
        "compile_seconds": 1.0, "steps_per_second": 10.0, "eval": {"return": SCORES},
        "parameters": {"active": 10, "merged": 5, "stored": 15}, "task_names": ["a", "b"],
        "hidden": [8], "diverged": [{"member": 2, "seed": 3, "task": "b", "update": 1}],
        "score_range": {"random": [0.0, 0.0], "target": [9.0, 99.0]},
        "task_parameters": {"mass": [1.0, 2.0]}, "versions": {"jax": "1"},
        "device": {"kind": "abacus", "count": 1}})
    return path


@pytest.mark.parametrize("seed", range(150 * FUZZ))
def test_damaged_files_of_a_run(reported, tmp_path, seed):
    draw, run = random.Random(seed), tmp_path / "run"
    shutil.copytree(reported, run)
    odd_file(draw.choice(sorted(run.iterdir())), draw)
    try:
        sections = group(load_runs([run]))
        for section in sections:
            to_text(tables.aggregates(section))
            to_text(tables.costs(section))
        if FUZZ > 1:
            write_report([run], tmp_path / "report.html")
    except UserError:
        pass


@pytest.mark.parametrize("seed", range(50 * FUZZ))
def test_damaged_configs(untrained, tmp_path, seed):
    draw = random.Random(seed)
    shutil.copy(untrained / "config.json", tmp_path / "config.json")
    odd_file(tmp_path / "config.json", draw)
    with contextlib.suppress(UserError):
        folder.read_config("--run", tmp_path).validate()


@pytest.fixture(scope="module")
def pruned(untrained, tmp_path_factory):
    """A pruned file, and the arrays that it holds."""
    policy = policies.load(untrained)
    path = tmp_path_factory.mktemp("pruned") / "policy.npz"
    policies.save_pruned(path, policy, residuals.means(policy.player.variables))
    return path, jax.tree.leaves(policies.load(path).player)


@pytest.mark.parametrize("seed", range(40 * FUZZ))
def test_damaged_pruned_files(pruned, tmp_path, seed):
    path, sound = pruned
    damaged = tmp_path / "policy.npz"
    damaged.write_bytes(odd_bytes(path.read_bytes(), random.Random(seed)))
    said = ""
    try:
        found = jax.tree.leaves(policies.load(damaged).player)
    except UserError as error:
        said, found = str(error), sound
    assert "pickle" not in said
    for one, other in zip(sound, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("about", ODD)
def test_pruned_files_that_say_odd_things(pruned, tmp_path, about):
    """An archive whose every checksum is right, made by somebody else."""
    with np.load(pruned[0]) as archive:
        arrays = dict(archive)
    told = json.loads(str(arrays["about"]))
    for change in ({"config": about}, {"update": about}, {"format": about}, None):
        arrays["about"] = json.dumps(about if change is None else told | change)
        np.savez(tmp_path / "odd.npz", **arrays)
        try:
            policies.load(tmp_path / "odd.npz")
        except UserError:
            continue
        assert change == {"update": about}
        assert isinstance(about, int)


@pytest.fixture(scope="module")
def parse():
    before = set(flags.FLAGS)
    _app.define_config_flags()

    def parse(*arguments):
        flags.FLAGS.unparse_flags()
        for name in (*(leaf.name for leaf in leaves(Config())), "preset"):
            flags.FLAGS[name].unparse()
        _app._parse(["program", *arguments])
        return _app.config_from_flags()

    yield parse
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


VALUES = ("", "-1", "0", "nan", "inf", "-inf", "1e999", "1e23", "9" * 5000, "x", "²", "1,2,,", ",",
          "\x1b[2J", "True", "None", "1e-320", "0x10", "1_000", "8,0", "8,-8", "a=b", "../..", "=",
          ";", "varshare.beta=", "varshare.beta=1,1", "varshare.beta=nan,1", "ppo.clip=1e999")


@pytest.mark.parametrize("seed", range(350 * FUZZ))
def test_odd_values_of_flags(parse, capsys, seed):
    draw = random.Random(seed)
    names = [leaf.name for leaf in leaves(Config())] + ["preset", "no_such_flag"]
    given = [f"--{draw.choice(names)}={draw.choice(VALUES)}" for _ in range(draw.choice((1, 1, 2)))]
    status, said = 0, ""
    try:
        settings = parse(*given)
        if FUZZ > 1:
            make_problem(settings)
    except SystemExit as ended:
        status, said = ended.code, capsys.readouterr().err
    except UserError:
        pass
    assert status in (0, 2)
    assert said.count("\n") == (status == 2)
    assert said.startswith("error: " * (status == 2))
    assert "\x1b" not in said


PLAN = """
title = "Odd"
suite = "cartpole"
methods = ["varshare", "l2_soft"]
num_seeds = 2
total_steps = 1000
network.hidden = [8]
sweep.ppo.clip = [0.1, 0.2]
[variants.short]
method = "independent"
presets = ["smoke"]
[evaluations.drawn]
weights = "sample"
episodes = 10
"""
PIECES = ("[1]", '["x"]', "{}", '"x"', "1", "true", "nan", "[[]]", "1979-05-27", "[1, 'x']", "''",
          "{a = {b = 1}}", '["../../escape"]', '"../../escape"', "99999999999999999999")


@pytest.mark.parametrize("seed", range(60 * FUZZ))
def test_odd_plans(tmp_path, seed):
    draw, path = random.Random(seed), tmp_path / "odd.toml"
    lines = PLAN.splitlines()
    for _ in range(draw.choice((1, 1, 2))):
        index = draw.randrange(1, len(lines))
        key, equals, _ = lines[index].partition(" = ")
        lines[index] = (f"{key} = {draw.choice(PIECES)}" if equals else
                        draw.choice(("[variants.'../x']", "[evaluations.'a/b']", "[sweep.a]", "[",
                                     "[variants]", "[evaluations.drawn.deep]", "[tuned]")))
    path.write_bytes(odd_bytes("\n".join(lines).encode(), draw) if draw.random() < 0.2
                     else "\n".join(lines).encode())
    try:
        plan = experiments.load(str(path), tmp_path / "out")
    except UserError:
        return
    for run in plan.runs:
        assert run.folder.resolve().parent == (tmp_path / "out").resolve()


@pytest.mark.parametrize(("text", "said"), [
    ("[variants.'../../escape']\nmethod = 'varshare'", "name '../../escape': must be letters"),
    ("methods = ['varshare']\n[evaluations.'a/b']", "name 'a/b': must be letters"),
    ("methods = ['varshare']\n[evaluations.x]\nflagfile = '/etc/passwd'",
     "evaluations.x: key=flagfile: unknown; allowed: actions, engine"),
    ("methods = ['varshare']\n[evaluations.x]\nrun = 'other'", "evaluations.x: key=run: unknown"),
    ("methods = ['varshare']\n[evaluations.x]\nepisodes = '5'", "must be of type int"),
    ("methods = ['varshare']\nrun.compile_cache = '/tmp/x'", "key=run.compile_cache: not for a"),
    ("methods = ['varshare']\ntuned = '../../x.toml'", "must be a file beside the plan"),
    ("methods = [1]", "methods: 1 must be a name in quotes"),
    ("[variants.a]\nmethod = [1]", "method=[1]: must be a name"),
    ("methods = ['varshare']\nnetwork.hidden = ['x']", "must be whole numbers")])
def test_what_a_plan_may_not_do(tmp_path, text, said):
    (tmp_path / "hostile.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        experiments.load(str(tmp_path / "hostile.toml"), tmp_path / "out")
    assert said in str(caught.value)
