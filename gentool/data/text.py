"""Texts, and pairs of them, by their spec: lines, tables, JSON lines, the Hub, scenes.

What is common to all of them is here: a text with what is carried along, and which columns of a
record it is made from.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gentool.data.config import PairData, TextData
from gentool.data.source import Joined, Source
from gentool.errors import BadDataError, NotFoundError, UsageError, nearest
from gentool.streams import clean

FILES = (".txt", ".csv", ".tsv", ".jsonl")
SPECS = (
    "texts are scenes, FILE.txt or FILE.en (one a line), FILE.csv, FILE.tsv, FILE.jsonl, hf:NAME "
    "or SOURCE,TARGET (parallel lines)"
)
_MR = re.compile(r"\s*([^\[\],]+?)\s*\[([^\[\]]*)\]\s*(?:,|$)")

Attributes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Text:
    """One text of a data set."""

    key: str  # names it in messages: "captions.txt line 17"
    text: str  # without white space at the ends; empty where the record holds none
    attributes: Attributes = field(default_factory=dict)  # name -> the values that are true of it
    source: str | None = None  # of a pair, what `text` is made from

    @property
    def empty(self) -> bool:
        """Whether there is nothing to learn from it: no text, or a pair without one side."""
        return not self.text or self.source == ""


def open_texts(config: TextData) -> Source[Text]:
    """The texts that `config.spec` names.

    Raises UsageError for a kind of data that has no texts, NotFoundError for a missing path, and
    BadDataError for a file without a named column.
    """
    found = {_has_sources(spec, config): spec for spec in config.spec}
    if len(found) == 2:
        raise UsageError(f"{found[True]} holds pairs of texts, {found[False]} single ones")
    sources = [_open(spec, config) for spec in config.spec]
    return sources[0] if len(sources) == 1 else Joined(sources, config.spec)


def is_text(spec: str) -> bool:
    """Whether `spec` can only be texts. Scenes and hf: may be pictures as well."""
    return spec.endswith(FILES) or _is_parallel(spec)


def has_columns(spec: str) -> bool:
    """Whether the records of `spec` have columns to choose from: tables, JSON lines, the Hub."""
    return spec.endswith((".csv", ".tsv", ".jsonl")) or spec.startswith("hf:")


def is_pairs(config: TextData) -> bool:
    """Whether each of the texts that `config` names comes with what it is made from."""
    return any(_has_sources(spec, config) for spec in config.spec)


def _has_sources(spec: str, config: TextData) -> bool:
    translated = "-" in config.language and spec == "scenes"
    return bool(config.source_column) or _is_parallel(spec) or translated


def _is_parallel(spec: str) -> bool:
    return spec.count(",") == 1 and "{" not in spec and not Path(spec).exists()


def _open(spec: str, config: TextData) -> Source[Text]:
    path = Path(spec)
    if spec == "scenes":
        from gentool.data.scenes import SceneTexts

        easier = config.easier if isinstance(config, PairData) else 0
        return SceneTexts(config.split, config.language, easier)
    if spec.startswith("hf:"):
        from gentool.data.hub import HubTexts

        return HubTexts(spec, config)
    if path.is_dir():
        raise UsageError(f"{spec} is a folder, texts are in files", f"--data {path / 'FILE.txt'}")
    named_by_language = path.is_file() and re.fullmatch(r"(\.(?![gx]z)[a-z]{2})?", path.suffix)
    if not is_text(spec) and not named_by_language:
        if not path.exists():
            raise NotFoundError(f"no file {spec}", SPECS)
        raise UsageError(f"{spec} is not a kind of text data", SPECS)
    from gentool.data.lines import Parallel, open_file

    names = spec.split(",") if _is_parallel(spec) else [spec]
    for name in names:
        if not Path(name).is_file():
            raise NotFoundError(f"no file {name}", SPECS)
    if len(names) == 2:
        return Parallel(Path(names[0]), Path(names[1]), config)
    return open_file(path, config)


class TextColumns:
    """The columns of a record that a text and its attributes are taken from."""

    def __init__(
        self, config: TextData, spec: str, names: Sequence[str], texts: Sequence[str]
    ) -> None:
        """names: the columns there are; texts: those that may be the text, if none is named.

        Raises BadDataError for a named column that is not there, or if several could be the text.
        """
        self.source = config.source_column
        self.mr = config.mr_column
        self.attributes = config.attributes
        texts = [name for name in texts if name != self.source]
        self.text = config.text_column or "".join(texts if len(texts) == 1 else {"text"} & {*texts})
        for name in self.used():
            if name not in names and name.partition(".")[0] not in names:
                raise BadDataError(f"{spec} has no column {name!r}", nearest(name, names))
        if not self.text:
            listed = ", ".join(texts) or "none"
            raise BadDataError(
                f"{spec}: which column is the text? There are: {listed}", "set text_column"
            )

    def used(self) -> list[str]:
        """The names of the columns that are read."""
        return [name for name in (self.text, self.source, self.mr, *self.attributes) if name]

    def read(self, key: str, record: Mapping[str, Any]) -> Text:
        """The text of one record, called `key`. Raises BadDataError."""
        text = _string(key, record, self.text)
        source = _string(key, record, self.source) if self.source else None
        attributes = {}
        for name in self.attributes:
            values = _values(f"{key}: {name!r}", look_up(record, name))
            if values:
                attributes[name] = values
        if self.mr:
            attributes |= _parse_mr(f"{key}: {self.mr!r}", look_up(record, self.mr))
        return Text(key, text, attributes, source)


_MISSING = object()


def look_up(record: Any, path: str) -> Any:
    """What is under `path` in nested objects and lists, `meta.titles.0`, or _MISSING."""
    if isinstance(record, Mapping) and path in record:
        return record[path]
    for part in path.split("."):
        if isinstance(record, Mapping) and part in record:
            record = record[part]
        elif isinstance(record, list) and part.isdecimal() and int(part) < len(record):
            record = record[int(part)]
        else:
            return _MISSING
    return record


def _string(key: str, record: Mapping[str, Any], name: str) -> str:
    """The text in `name`, `clean` and without white space at the ends; null is empty. Raises
    BadDataError."""
    text = look_up(record, name)
    if text is _MISSING:
        raise BadDataError(f"{key}: no {name!r} in it, only {', '.join(record)}")
    if not isinstance(text, str | None):
        raise BadDataError(f"{key}: {name!r} holds {type(text).__name__}, not text")
    return clean(text or "").strip()


def _values(where: str, value: Any) -> tuple[str, ...]:
    """A cell or JSON value as the values of an attribute; none where it is absent or empty."""
    if isinstance(value, list):
        return tuple(text for item in value for text in _values(where, item))
    if isinstance(value, Mapping):
        raise BadDataError(f"{where} holds an object, not a value")
    if value is _MISSING or value is None:
        return ()
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    return (text,) if text else ()


def _parse_mr(where: str, value: Any) -> dict[str, tuple[str, ...]]:
    """`name[The Eagle], area[riverside]` as {"name": ("The Eagle",), "area": ("riverside",)}."""
    text = "" if value is _MISSING or value is None else str(value)
    found: dict[str, tuple[str, ...]] = {}
    end = 0
    while text[end:].strip():
        part = _MR.match(text, end)
        if not part:
            raise BadDataError(f"{where} is not name[value], …: {text[:80]!r}")
        name, end = part[1], part.end()
        if part[2].strip():
            found[name] = (*found.get(name, ()), part[2].strip())
    return found
