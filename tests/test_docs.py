"""README and docs: their Python names what is there, their commands parse, their links lead on."""

import ast
import contextlib
import functools
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import TIMEOUT, TINY, quick_compile

import varshare_jax as vs
from varshare_jax.config import PRESETS
from varshare_jax.settings import leaves

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"wandb"}  # packages that a snippet uses and the tests go without
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def snippets(name: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / name).read_text(), re.S | re.M)
    return [text for language, text in found if language in languages]


def programs(name: str) -> list[str]:
    """Python of a page, but for the package that tests/test_plugins.py installs and runs."""
    return [text for text in snippets(name, "python") if not text.startswith("# neighbours/")]


WITH_PYTHON = [name for name in NAMES if programs(name)]


class Names:
    """What the names of a page's Python stand for, as far as that is known without running it."""

    def __init__(self):
        self.known: dict[str, typing.Any] = {}

    def read(self, tree: ast.AST) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name not in ELSEWHERE:
                        module = importlib.import_module(alias.name)
                        self.known[alias.asname or alias.name] = module
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    module = importlib.import_module(node.module)
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
                    self.known[alias.asname or alias.name] = getattr(module, alias.name)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made = self.made_by(self.value(node.value.func))
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.known[target.id] = made

    def value(self, node: ast.AST) -> typing.Any:
        """An object, or None; AttributeError where one of ours lacks a name."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := self.value(node.value)) is not None:
            of_instances = getattr(owner, "__dataclass_fields__", {})
            return None if node.attr in of_instances else getattr(owner, node.attr)
        return None

    def made_by(self, function: typing.Any) -> typing.Any:
        """The class of what a call returns, where it says so."""
        if inspect.isclass(function):
            return function
        with contextlib.suppress(NameError, TypeError):
            made = typing.get_type_hints(function).get("return")
            if inspect.isclass(made) and made.__module__.startswith("varshare_jax"):
                return made
        return None


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_names_what_there_is(name):
    """Imports are there; what is called has these parameters; fields of configs are fields."""
    names, fields = Names(), {leaf.name for leaf in leaves(vs.Config())}
    for text in programs(name):
        tree = ast.parse(text)
        names.read(tree)
        for call in calls(tree):
            function = names.value(call.func)
            ours = getattr(function, "__module__", "").startswith("varshare_jax")
            starred = any(isinstance(a, ast.Starred) for a in call.args)
            if not callable(function) or not ours or starred:
                continue
            bound = inspect.isclass(names.value(getattr(call.func, "value", call.func)))
            method = bound and inspect.isfunction(function)
            inspect.signature(function).bind(
                *([None] if method else []), *call.args,
                **{word.arg: word.value for word in call.keywords})
        for text in (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)):
            if isinstance(text, str) and re.fullmatch(r"(varshare|ppo|dqn|run)\.\w+", text):
                assert text in fields


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_defines_what_it_uses(name, tmp_path):
    """Page by page, given observations, an action, and what `vs.train` got."""
    given = "action = config = folder = obs = setup = snapshot = wandb = None\n"
    file = tmp_path / "page.py"
    file.write_text(given + "\n".join(programs(name)))
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated",
                           "--select=F821,E9", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_loop_of_your_own(monkeypatch):
    """README's second program, traced in place of compiled and run."""
    def jit(function=None, compiled=jax.jit, **options):
        if isinstance(getattr(function, "__self__", None), vs.Learner):
            return functools.partial(jax.eval_shape, function)
        return compiled(function, **options) if function else compiled(**options)

    monkeypatch.setattr(jax, "jit", jit)
    monkeypatch.setattr(vs.Learner, "init", lambda self, key, init=vs.Learner.init:
                        jax.eval_shape(lambda key: init(self, key), key))
    scope: dict[str, typing.Any] = {}
    exec(programs("README.md")[1], scope)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(scope["state"].world)} == {10}
    assert scope["metrics"]["loss"].shape == (10,)


def test_a_policy_as_a_library(untrained, tmp_path, monkeypatch):
    """The first program of docs/usage.md on a run of that name, but for its 50 episodes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x").symlink_to(untrained)
    monkeypatch.setattr(vs, "evaluate", lambda run, episodes: {"return": vs.load(run).num_seeds})
    scope = {"obs": np.zeros((3, 4))}
    exec(programs("docs/usage.md")[0], scope)
    assert scope["action"].shape == (3,)
    assert {"actor", "critic"} <= set(scope["params"])
    assert scope["scores"] == 2


def test_the_notebook(monkeypatch):
    """Cell by cell, on few steps and small networks; its pictures are drawn."""
    cells = json.loads((ROOT / "docs" / "first_run.ipynb").read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    source, found = re.subn("1_000_000", "2_000", source)
    assert found == 1
    monkeypatch.setitem(PRESETS, "large_batch", {
        name: value for name, value in TINY.items() if not name.startswith("run.eval")})
    plt.switch_backend("agg")
    scope: dict[str, typing.Any] = {}
    with quick_compile():
        exec(source, scope)
    assert scope["returns"].shape[1:] == (2, 10)
    assert scope["nats"].shape == (10, len(scope["layers"]))
    assert np.isfinite(scope["metrics"]["loss"]).all()
    plt.close("all")


COMMAND = re.compile(r"varshare-(\w+)")
PARSE = """
import importlib, json, sys
from absl import flags
from varshare_jax.cli import _app

name, lines = sys.argv[1], json.loads(sys.argv[2])
module = importlib.import_module(f"varshare_jax.cli.{name}")
_app.run = lambda main: None
module.main()
for line in lines:
    for flag in list(flags.FLAGS):
        flags.FLAGS[flag].unparse()
    flags.FLAGS.unparse_flags()
    _app._parse([f"varshare-{name}", *line])
    if name == "train":
        config = _app.config_from_flags()
        from varshare_jax import methods
        assert config.method in methods.METHODS
"""


def lines(name: str) -> Iterator[list[str]]:
    """Commands of a page's blocks without a language, as a shell splits them."""
    for block in snippets(name, "", "bash", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            with contextlib.suppress(ValueError):  # prose and pictures, which have quotes alone
                words = shlex.split(line.rstrip("& "), comments=True)
                if words:
                    yield words


COMMANDS = [(name, words) for name in NAMES for words in lines(name)]


def test_flags_of_every_command_parse():
    """Without what the commands of a package of your own add: test_plugins runs those."""
    by_command: dict[str, list[list[str]]] = {}
    for _, (program, *arguments) in COMMANDS:
        if (found := COMMAND.fullmatch(program)) and "corridor" not in " ".join(arguments):
            by_command.setdefault(found[1], []).append(arguments)
    assert by_command.keys() == {"train", "adapt", "evaluate", "experiment", "report", "prune",
                                 "render", "tune"}
    for command, given in by_command.items():
        done = subprocess.run([sys.executable, "-c", PARSE, command, json.dumps(given)],
                              capture_output=True, text=True, check=False, timeout=TIMEOUT)
        assert done.returncode == 0, f"varshare-{command}: {done.stderr}"


def test_experiments_targets_and_extras_that_are_named_exist():
    from varshare_jax import experiments

    made = set(re.findall(r"^([a-z0-9_-]+):", (ROOT / "Makefile").read_text(), re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"].keys()
    own = {"corridor", "my_plan.toml", "my_search.toml"}
    for name, (program, *arguments) in COMMANDS:
        named = next((a for a in arguments if not a.startswith("-")), None)
        if program in ("varshare-experiment", "varshare-tune") and named:
            assert named in own | set(experiments.names()), f"{name}: {named}"
        if program == "make" and named:
            assert named in made, f"{name}: make {named}"
        if program == "python" and "-m" in arguments:
            module = arguments[arguments.index("-m") + 1]  # not imported: flags have equal names
            assert importlib.util.find_spec(module), f"{name}: {module}"
    for name in NAMES:
        text = (ROOT / name).read_text()
        for target in re.findall(r"`make ([a-z0-9_-]+)`", text):
            assert target in made, f"{name}: make {target}"
        for listed in re.findall(r"'(?:varshare_jax|\.)\[([\w,]+)\]'", text):
            assert set(listed.split(",")) <= extras, f"{name}: {listed}"


@pytest.mark.parametrize("name", NAMES)
def test_links_between_files_lead_somewhere(name):
    """As Git hosts show them; `make docs` follows those of the site with their anchors."""
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / name).read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in link:
            assert ((ROOT / name).parent / link).exists(), link


def test_every_page_is_on_the_site():
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(f"docs/{page}" for page in listed) == [
        name for name in NAMES if name.startswith("docs/")]
