"""The [data] sections of recipes. Imports nothing heavy: help text is made from them."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gentool.errors import UsageError
from gentool.settings import setting

OF_SCENES = ("language", "easier", "near")
"""Settings that mean something of scenes alone."""


@dataclass
class ImageData:
    """Which images, and how they are brought to one size. Raises UsageError."""

    spec: tuple[str, ...] = setting(
        ("scenes",),
        "scenes; folders of images, parquet files, tar shards (quoted patterns); or hf:NAME",
        fixed=False,  # but what is there: it may have been moved
    )
    validation: tuple[str, ...] = setting(
        (),
        "data to validate on, in place of a part of the others that is held out",
        fixed=False,  # but whether there are any, and what
    )
    split: str = setting("train", "part of scenes", choices=("train", "test", "test-novel"))
    image_size: int = setting(32, "height and width the model sees, in pixels", low=1)
    channels: int = setting(3, "1 (grey) or 3 (RGB)", low=1, high=3)
    flip: bool = setting(False, "mirror images left to right with probability 1/2")
    crop: str = setting(
        "center", "where the square is cut from an oblong image", choices=("center", "random")
    )
    image_column: str = setting(
        "", "column of the images, in tars their extension; empty: found by its type"
    )
    label_column: str = setting("", "column of the class; empty: class labels, or `label`")
    language: str = setting(
        "en", "language of the captions of scenes", choices=("en", "zh", "both")
    )
    easier: int = setting(
        0, "so many of the first scenes have one layout per caption: reading comes first", low=0
    )
    near: float = setting(
        0.0,
        "share of the scenes of two things in which these stand as near to each other as they come",
        low=0.0,
        high=1.0,
    )
    caption_column: str = setting(
        "", "column of the caption, in tars a field of .json; empty: `caption` or `text`, .txt"
    )
    where: tuple[str, ...] = setting(
        (), "of tar shards the records whose .json says so, e.g. similarity>=0.3, width>=64"
    )
    on_error: str = setting(
        "stop",
        "what an unreadable image does; skipped ones are counted",
        choices=("stop", "skip"),
        fixed=False,
    )
    workers: int = setting(2, "threads that decode images", low=1, fixed=False)

    def __post_init__(self) -> None:
        if self.channels == 2:
            raise UsageError("data.channels is 1 (grey) or 3 (RGB), got 2")
        _check_spec(self.spec, self.split)
        _check_of_scenes(self)
        for text in self.where:
            condition(text)


@dataclass
class TextData:
    """Which texts, what is carried along with them, and how they become rows of tokens."""

    spec: tuple[str, ...] = setting(
        ("scenes",),
        "scenes (their captions); .txt, .csv, .tsv or .jsonl files; hf:NAME; or of pairs "
        "SOURCE,TARGET, two files of parallel lines",
        fixed=False,  # but what is there: it may have been moved
    )
    validation: tuple[str, ...] = setting(
        (),
        "data to validate on, in place of a part of the others that is held out",
        fixed=False,  # but whether there are any, and what
    )
    split: str = setting("train", "part of scenes", choices=("train", "test", "test-novel"))
    language: str = setting(
        "en",
        "language of scenes; en-zh and zh-en: pairs, from one into the other",
        choices=("en", "zh", "both", "en-zh", "zh-en"),
    )
    text_column: str = setting(
        "", "column of the text, in .jsonl a path like meta.title; empty: `text`, or the only one"
    )
    source_column: str = setting("", "of pairs the column of the text that the other is made from")
    attributes: tuple[str, ...] = setting(
        (), "columns carried along for control; scenes always carry theirs"
    )
    mr_column: str = setting(
        "", "column of attributes written as in E2E: name[The Eagle], area[riverside]"
    )
    length: int = setting(64, "tokens in a row, begin and end included", low=3)
    layout: str = setting(
        "pad",
        "pad: a text in each row; block: texts one after the other, as many as there is room for",
        choices=("pad", "block"),
    )
    too_long: str = setting(
        "skip",
        "what a text longer than a row does: left out and counted, or cut",
        choices=("skip", "cut"),
    )
    on_error: str = setting(
        "stop",
        "what an unreadable text does; skipped ones are counted",
        choices=("stop", "skip"),
        fixed=False,
    )
    workers: int = setting(1, "threads that read and tokenize", low=1, fixed=False)

    def __post_init__(self) -> None:
        _check_spec(self.spec, self.split)
        _check_of_scenes(self)
        if "scenes" in self.spec and any(self.columns()):
            raise UsageError(
                f"scenes have no columns, so none called {max(self.columns())!r}",
                "their attributes are carried along in any case",
            )

    def columns(self) -> list[str]:
        """The names of the columns by their roles, empty where there is none."""
        return [self.text_column, self.source_column, self.mr_column, *self.attributes]


@dataclass
class PairData(TextData):
    """Which pairs of texts, a source and what it is made into. Raises UsageError."""

    language: str = setting(
        "en-zh", "of scenes: from which language into which", choices=("en-zh", "zh-en")
    )
    easier: int = setting(
        0,
        "so many of the first targets have one paraphrase per scene, as a teacher would have it",
        low=0,
    )
    length: int = setting(256, "tokens of a source or target at the most, its end included", low=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout == "block":
            raise UsageError('data.layout = "block" is for single texts, these are pairs')


def _check_spec(spec: tuple[str, ...], split: str) -> None:
    if not all(spec) or not spec:
        raise UsageError("data.spec is empty", "give scenes, a folder, files or hf:NAME")
    if split != "train" and spec != ("scenes",):
        raise UsageError(
            f"data.split = {split!r} is for scenes alone, data.spec is {list(spec)}",
            "give the files of that split as the spec",
        )


def _check_of_scenes(section: ImageData | TextData) -> None:
    for name in OF_SCENES:
        value = getattr(section, name, None)
        if value != getattr(type(section), name, None) and section.spec != ("scenes",):
            raise UsageError(
                f"data.{name} = {value!r} is for scenes, data.spec is {list(section.spec)}"
            )


def condition(text: str) -> tuple[str, Callable[[Any, Any], bool], float | str]:
    """ "similarity>=0.3" as (field, comparison, value); numbers are compared as numbers, and only
    == and != compare texts. Raises UsageError."""
    match = re.fullmatch(r"\s*([^<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*", text)
    if match:
        field, compare, value = match.groups()
        try:
            return field, _COMPARE[compare], float(value)
        except ValueError:
            if compare in ("==", "!="):
                return field, _COMPARE[compare], value
    raise UsageError(f"data.where takes, e.g., 'similarity>=0.3' or 'NSFW==UNLIKELY', got {text!r}")


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
