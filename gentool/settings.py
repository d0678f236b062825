"""Configuration as dataclasses: one declaration per setting serves recipes, `--set` and help.

A section is a dataclass whose fields are made by `setting`; a backend's configuration is a
dataclass of sections. Here a tree of plain values (a TOML file, `config.json`) is checked against
such a class and becomes an instance of it, and the other way round.
"""

import dataclasses
import datetime
import math
import tomllib
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from gentool.errors import UsageError, nearest

Config = TypeVar("Config")
Tree = dict[str, Any]
OPTION = "--"  # what a setting is called where it is an option


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    fixed: bool = True,
    idle: tuple[Any, ...] = (),
    of: str = "",
) -> Any:
    """A dataclass field with its help text and the values it takes (low and high inclusive).

    fixed=False: may differ when a run is resumed (steps, intervals). idle: a field beside it, and
    the values of that with which this one does nothing (`refuse_idle`). of: a field beside it, to
    one value of which this one is fitted.
    """
    metadata = {"help": help, "choices": tuple(choices), "low": low, "high": high, "fixed": fixed,
                "idle": idle, "of": of}  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def build(config_class: type[Config], tree: Tree, where: str = "") -> Config:
    """The configuration that `tree` describes; what it does not mention keeps its default.

    where: prefix of the keys in messages, OPTION for those that are options. Raises UsageError
    naming key, value and what is allowed.
    """
    fields = {f.name: f for f in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(config_class)
    values = {}
    for key, value in tree.items():
        name = where + (key.replace("_", "-") if where == OPTION else key)
        if key not in fields:
            section = "" if where == OPTION else where
            raise UsageError(f"unknown key {name!r}", nearest(key, fields, section))
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UsageError(f"{name} is a section, got {value!r}")
            # A section's own defaults may differ from its class's: start from the instance.
            base = to_tree(_default(fields[key]))
            values[key] = build(hints[key], merge(base, value), f"{name}.")
        else:
            values[key] = _checked(name, value, hints[key], fields[key].metadata)
    return config_class(**values)


def refuse_idle(section: Any, named: Tree) -> None:
    """Raise UsageError if one of the options that were named does nothing beside the others."""
    for field in dataclasses.fields(section):
        other, *values = field.metadata.get("idle") or ("",)
        if field.name in named and other and getattr(section, other, None) in values:
            option, beside = (OPTION + name.replace("_", "-") for name in (field.name, other))
            value = getattr(section, other)
            now, mend = f"with {beside} {value}", f"change {beside}"
            if value is False:
                now, mend = f"without {beside}", f"add {beside}"
            raise UsageError(f"{option} does nothing {now}", f"leave it out, or {mend}")


def to_tree(config: Any) -> Tree:
    """The configuration as plain values, ready for JSON."""
    return dataclasses.asdict(
        config,
        dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items},
    )


def merge(base: Tree, over: Tree) -> Tree:
    """`base` with the values of `over` in place of its own, section by section."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = (
            merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return merged


def parse_assignment(text: str) -> Tree:
    """`train.steps=100` as a tree. The value is TOML, else a string. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key.sub=value, got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    if isinstance(parsed, datetime.date | datetime.time):  # no setting is one: it is a name
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 1}} as {"train.steps": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def free_keys(config_class: type, prefix: str = "") -> set[str]:
    """The keys that may differ when a run is resumed."""
    hints = typing.get_type_hints(config_class)
    free: set[str] = set()
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(hints[field.name]):
            free |= free_keys(hints[field.name], f"{prefix}{field.name}.")
        elif not field.metadata.get("fixed", True):
            free.add(prefix + field.name)
    return free


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _checked(key: str, value: Any, hint: Any, metadata: Any) -> Any:
    """`value` as the type `hint` (int, float, str, bool or a tuple of one) within bounds."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            value = (value,)  # one of what may be several
        return tuple(_checked(key, item, typing.get_args(hint)[0], metadata) for item in value)
    assert not isinstance(hint, types.UnionType), f"{key}: settings have one type"
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        quoted = hint is str and isinstance(value, int | float)
        raise UsageError(
            f"{key} takes {_NAMES[hint]}, got {value!r}",
            f"""write '{key}="{str(value).lower()}"'""" if quoted else "",
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{key} must be finite, got {value}")
    choices, low, high = (metadata.get(name) for name in ("choices", "low", "high"))
    if choices and value not in choices:
        raise UsageError(f"{key} cannot be {value!r}", nearest(str(value), choices))
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"in {low}..{high}"
        raise UsageError(f"{key} must be {bounds}, got {value}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
