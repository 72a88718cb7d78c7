"""Settings as trees of frozen dataclasses: fields that know their help and bounds, and the tree's
leaves by dotted name.

Each room has its own in a module `settings`, which imports no JAX; `config` assembles the tree.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from varshare_jax.errors import UserError, unknown


def field(default: Any, help: str, *, choices: tuple[str, ...] = (), traced: bool = False,
          above: float | None = None, least: float | None = None, most: float | None = None) -> Any:
    """A dataclass field with its help text and what it may be.

    `choices` are allowed strings; `above` is a bound that is excluded, `least` and `most` are not.
    `traced` fields are scalars of the compiled program: a vector of them can be vmapped beside
    the seeds without compiling again.
    """
    metadata = {"help": help, "choices": choices, "traced": traced, "above": above,
                "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


Tree = typing.TypeVar("Tree")
_LARGEST = 2**31 - 1  # programs count in int32


class Leaf(typing.NamedTuple):
    """A field of the tree: its dotted name, value, and metadata."""

    name: str
    value: Any
    help: str
    choices: tuple[str, ...]
    traced: bool
    above: float | None
    least: float | None
    most: float | None

    def check(self) -> None:
        """Raises UserError for a value out of bounds."""
        if self.choices and self.value not in self.choices:
            raise unknown(f"--{self.name}", self.value, self.choices)
        if isinstance(self.value, float) and not math.isfinite(self.value):
            raise self._refused("must be a finite number")
        most = _LARGEST if self.most is None else self.most
        if type(self.value) is int and self.value > most:
            raise self._refused(f"must not exceed {most}")
        if self.above is not None and self.value <= self.above:
            raise self._refused(f"must be greater than {self.above:g}")
        low, high = self.least, self.most
        if low is not None and high is not None and not low <= self.value <= high:
            raise self._refused(f"must lie in [{low:g}, {high:g}]")
        if low is not None and self.value < low:
            raise self._refused("must not be negative" if low == 0
                                else f"must be at least {low:g}")
        if high is not None and self.value > high:
            raise self._refused(f"must not exceed {high:g}")

    def _refused(self, why: str) -> UserError:
        return UserError(f"--{self.name}={self.value}: {why}")


class Section:
    """A group of settings. Subclasses are frozen dataclasses of `field`s."""

    section: typing.ClassVar[str]
    """Its name, which its flags begin with."""
    __dataclass_fields__: typing.ClassVar[dict[str, dataclasses.Field[Any]]]  # its subclasses'

    def check(self) -> None:
        """Raises UserError where fields of this section do not fit together."""

    def check_order(self, *pairs: tuple[str, str]) -> None:
        """Raises UserError where the first field of a pair exceeds the second."""
        for low, high in pairs:
            value, bound = getattr(self, low), getattr(self, high)
            if value > bound:
                raise UserError(f"--{self.section}.{low}={value}: must not exceed "
                                f"--{self.section}.{high}={bound}")


def changed(section: type[Section], name: str, default: Any) -> Any:
    """A field of `section` as a subclass of it has it: with another default."""
    old = section.__dataclass_fields__[name]
    return dataclasses.field(default=default, metadata=old.metadata)


def leaves(tree: Any, prefix: str = "") -> Iterator[Leaf]:
    """All leaf fields of a tree, depth first, with dotted names."""
    for each in dataclasses.fields(tree):
        value = getattr(tree, each.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{each.name}.")
        else:
            yield Leaf(prefix + each.name, value, **each.metadata)


def get(tree: Any, name: str) -> Any:
    """The value of a dotted name."""
    for part in name.split("."):
        tree = getattr(tree, part)
    return tree


def replace(tree: Tree, overrides: Mapping[str, Any]) -> Tree:
    """A tree with the dotted names in `overrides` changed.

    Raises UserError for a name the tree does not have or a value of the wrong type.
    """
    known = {leaf.name: leaf for leaf in leaves(tree)}
    for name, value in overrides.items():
        if name not in known:
            raise unknown("config field", name, known)
        tree = _replace_one(tree, name.split("."), _cast(known[name], value))
    return tree


def _replace_one(node: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    inner = _replace_one(getattr(node, head), rest, value) if rest else value
    return dataclasses.replace(node, **{head: inner})


def _cast(leaf: Leaf, value: Any) -> Any:
    if isinstance(leaf.value, tuple) and isinstance(value, list | tuple):
        for each in value:
            if type(each) is not int:
                raise UserError(f"{leaf.name}={value!r}: must be whole numbers")
        return tuple(value)
    if isinstance(leaf.value, float) and type(value) is int:
        return float(value)
    if type(value) is not type(leaf.value):
        raise UserError(f"{leaf.name}={value!r}: must be of type {type(leaf.value).__name__}")
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted name."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def to_dict(tree: Any) -> dict[str, Any]:
    """A tree as nested plain dicts (tuples become lists), ready for JSON."""
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(dataclasses.asdict(tree))


def flag_value(value: Any) -> str:
    """A value as its flag is written."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class At:
    """Where something of the library's own is, as an entry point says it: `module:name`.

    Its module is imported when the entry is read: listing what there is, as `--help` does, imports
    no JAX. `options` go to `adopt`.
    """

    def __init__(self, place: str, **options: Any):
        self._place, self.options = place, options

    def load(self) -> Any:
        """Imports it."""
        module, _, name = self._place.partition(":")
        return getattr(importlib.import_module(module), name)


class Registry(Mapping[str, Any]):
    """What is known by name: the library's own, and what installed packages register.

    Entry-point groups: `varshare_jax.methods`, `.algorithms`, `.suites`, `.plans`. They are loaded
    when the registry is first read, so that the modules of such a package may import the library,
    in any order, and be imported before it. `own` entries are things, or say where they are `At`.
    `adopt` makes an entry of a name and what it names.
    """

    def __init__(self, group: str, own: Mapping[str, Any],
                 adopt: Callable[..., Any] = lambda name, thing: thing):
        self._group, self._own, self._adopt = group, own, adopt

    def __getitem__(self, name: str) -> Any:
        entry = self._entries[name]
        if isinstance(entry, At):
            self._entries[name] = entry = self._adopt(name, entry.load(), **entry.options)
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # without importing it

    def registered(self) -> list[Any]:
        """The entries that come from other packages."""
        return [self[name] for name in self if name not in self._own]

    @functools.cached_property
    def _entries(self) -> dict[str, Any]:
        """Raises UserError naming the package whose entry point has a taken name or fails."""
        entries = dict(self._own)
        for point in importlib.metadata.entry_points(group=f"varshare_jax.{self._group}"):
            where = (f"package {point.dist.name if point.dist else point.value}: registers "
                     f"{point.name} among the {self._group} of varshare_jax, but ")
            if point.name in entries:
                raise UserError(f"{where}that name is taken")
            try:
                entries[point.name] = self._adopt(point.name, point.load())
            except Exception as error:  # somebody else's code may fail in any way
                raise UserError(f"{where}{point.value} cannot be loaded: "
                                f"{type(error).__name__}: {error}") from error
        return entries
