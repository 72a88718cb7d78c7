"""The package as a house: rooms one above the other, and nothing in it too large to read."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "varshare_jax"
# Lowest first; those in one line are side by side and know nothing of each other. A module is in
# the room of the longest name that it begins with, "" is the package's own `__init__`.
ROOMS = (
    ("errors",),
    ("settings",),
    ("types",),
    ("variational",),
    ("networks",),
    ("methods", "suites"),
    ("algorithms",),
    ("runs.settings", "runs.files"),
    ("config",),
    ("learner",),
    ("runs", "report"),
    ("playing",),
    ("runner",),
    ("experiments", ""),
    ("validation", "cli"),
)
AT = rf"{PACKAGE.name}\.[\w.]+:\w+"  # how registries say where an entry is
LARGEST_CLASS, LARGEST_FUNCTION, LARGEST_FLOOR = 150, 60, 20  # lines, lines, files and folders


def name_of(path: Path) -> str:
    """A module's name inside the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> Iterator[str]:
    """Modules of the package that one imports, at its top, within its functions, or as an entry."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and re.fullmatch(AT, str(node.value)):
            found = [node.value.replace(":", ".")]
        else:
            continue
        for whole in found:
            head, _, inside = whole.partition(".")
            if head == PACKAGE.name:
                yield inside if inside in TREES else inside.rpartition(".")[0]


def room_of(name: str) -> str:
    fitting = [room for floor in ROOMS for room in floor
               if room == name or (room and name.startswith(f"{room}."))]
    assert fitting, f"{name} is in no room: give its folder a place in ROOMS"
    return max(fitting, key=len)


FLOORS = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


@pytest.mark.parametrize("name", TREES)
def test_imports_point_downwards(name):
    here = room_of(name)
    for other in imports(name):
        there = room_of(other)
        assert here == there or FLOORS[there] < FLOORS[here], (
            f"{name} ({here}) imports {other} ({there}), which is not below it")


def test_no_circle():
    """Within rooms, too: modules can be put into an order in which each imports earlier ones."""
    needs = {name: set(imports(name)) - {name} for name in TREES}
    while ready := [name for name, of in needs.items() if not of & needs.keys()]:
        for name in ready:
            del needs[name]
    assert not needs, f"these import each other in a circle, or such ones: {sorted(needs)}"


def test_every_room_is_lived_in():
    assert {room_of(name) for name in TREES} == set(FLOORS)


def test_the_house_is_seen_at_a_glance():
    listed = subprocess.run(["git", "-C", str(PACKAGE), "ls-files", "."], capture_output=True,
                            text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    top = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert len(top) <= LARGEST_FLOOR, sorted(top)


def test_classes_and_functions_are_short_enough_to_read():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            lines = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
            if isinstance(node, ast.ClassDef):
                assert lines <= LARGEST_CLASS, f"{name}.{node.name} has {lines} lines"
            elif isinstance(node, ast.FunctionDef):
                assert lines <= LARGEST_FUNCTION, f"{name}.{node.name} has {lines} lines"
