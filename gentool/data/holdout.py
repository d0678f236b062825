"""Keeping a part of the data for validation."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice, takewhile
from typing import Any, TypeVar

import numpy as np
import torch

from gentool.data.config import OF_SCENES, ImageData, TextData
from gentool.data.images import Images, NoPictures, open_images
from gentool.data.loader import ON_BAD
from gentool.data.source import Data, Example, Joined, Record, Sharded, Source, Subset, Window
from gentool.data.tar import is_tar
from gentool.data.text import Text, has_columns, open_texts
from gentool.errors import BadDataError, UsageError
from gentool.rng import generator, seed_of
from gentool.streams import one_line

MOST = 512  # records held out at the most
SHARE = 20  # one in so many
SHARDS = 32  # shards that records are held out of, at the most
UNREADABLE = 1 << 63  # more than any hash
Section = TypeVar("Section", ImageData, TextData)
ENOUGH = 20_000  # texts of an endless source, or captions, that a tokenizer learns from


class Trained(Sharded):
    """The records of a sharded source that are not held out, under their own numbers."""

    def __init__(self, source: Sharded) -> None:
        self.source = source
        self.shards = source.shards
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    def records(self, shard: int, start: int = 0) -> Iterator[Record]:
        for record in self.source.records(shard, start):
            if not held_out(record.number, shard, self.shards):
                yield record


class HeldOut:
    """The records that are held out of a sharded source; looked up when first asked for."""

    def __init__(self, source: Sharded, config: ImageData) -> None:
        self.source = source
        self.config = config
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    @property
    def size(self) -> int | None:
        return self._window.size

    def __getitem__(self, index: int) -> Example:
        return self._window[index]

    @cached_property
    def _window(self) -> Window:
        """Raises NoPictures if none is held out, and BadDataError for a shard that cannot be read,
        unless those are skipped."""
        found = []
        shards = self.source.shards
        for shard in range(min(shards, SHARDS)):
            try:
                first = takewhile(
                    lambda record: record.number < SHARE * _each(shards),
                    self.source.records(shard),
                )
                found += [r for r in first if held_out(r.number, shard, shards)]
            except BadDataError:
                if self.config.on_error == "stop":
                    raise
        if not found:
            raise NoPictures(
                "nothing to validate on: of the records held out of the first shards there "
                "is none" + (", or none as data.where says" if self.config.where else ""),
                "--set train.validate_every=0 trains without",
            )
        return Window(self.source, found)


def held_out(number: int, shard: int, shards: int) -> bool:
    """Whether record `number` of `shard` is for validation: a rule that needs no other record.

    One in SHARE of the first records of the first SHARDS shards, MOST in all; beginning elsewhere
    in each shard, so that small shards give no more than their share.
    """
    within = shard < SHARDS and number < SHARE * _each(shards)
    return within and (number + shard) % SHARE == 0


def _each(shards: int) -> int:
    """Records held out of one shard at the most."""
    return MOST // min(shards, SHARDS)


def train_and_validation(config: ImageData) -> tuple[Data, Source[Example]]:
    """The data to train on, and what is held out: the `test` split of scenes, else 5 % (≤ 512); or
    all of them, and what `config.validation` names.

    Which records are held out depends on their number alone. A single image serves as both, except
    in shards, whose records nobody counts. Raises UsageError for shards to validate on, or other
    classes there.
    """
    source = open_images(config)
    if config.validation:
        other = open_images(elsewhere(config, config.validation))
        if isinstance(other, Sharded):
            raise UsageError(
                "data.validation cannot be shards, which are read in passing",
                "a folder or parquet files",
            )
        if other.labels != source.labels:
            raise UsageError(
                f"data.validation has the classes {list(other.labels)}, the data have "
                f"{list(source.labels)}"
            )
        return source, other
    if isinstance(source, Sharded):
        return Trained(source), HeldOut(source, config)
    if source.size is None:
        from gentool.data.scenes import Scenes

        return source, Scenes("test", config.language)
    if source.size == 1:
        return source, source
    order = torch.randperm(source.size, generator=generator("hold out")).numpy()
    n = min(MOST, source.size // SHARE + (source.size < SHARE))
    held, trained = order[:n], order[n:]
    held.sort()
    trained.sort()
    return Subset(source, trained), Subset(source, held)


def text_train_and_validation(config: TextData) -> tuple[Source[Text], Source[Text]]:
    """The texts to train on, and what is held out: the `test` split of scenes, else as
    `split_texts`; or all of them, and what `config.validation` names."""
    source = open_texts(config)
    if config.validation:
        there = elsewhere(config, config.validation)
        other = open_texts(there)
        return (
            source if source.size is None else split_texts(source, config)[0],
            other if other.size is None else _with_text(other, there, unreadable=False),
        )
    if source.size is None:
        from gentool.data.scenes import SceneTexts

        return source, SceneTexts("test", config.language)
    return split_texts(source, config)


def elsewhere(config: Section, specs: tuple[str, ...], split: str = "") -> Section:
    """The section by which other data than those of training are read: without what training made
    easier or more frequent, and without what is said of columns and records that they do not
    have. split: of scenes, in place of `test`."""
    own = [name for name in OF_SCENES if hasattr(config, name)]
    plain: dict[str, Any] = {name: getattr(type(config), name) for name in own}
    if isinstance(config, TextData) and not any(map(has_columns, specs)):
        columns = ("text_column", "source_column", "mr_column")
        plain |= {column: "" for column in columns} | {"attributes": ()}
    elif isinstance(config, ImageData):
        if not any(map(is_tar, specs)):
            plain["where"] = ()
        if {*map(_kind, specs)} != {*map(_kind, config.spec)}:
            plain |= {"image_column": "", "caption_column": "", "label_column": ""}
    if specs == ("scenes",):
        plain |= {"language": config.language, "split": split or "test"}
    else:
        plain["split"] = "train"
    return replace(config, spec=specs, validation=(), **plain)


def _kind(spec: str) -> str:
    """What sort of pictures' columns data have."""
    if is_tar(spec):
        return "tar"
    return "table" if spec.startswith("hf:") or spec.endswith(".parquet") else "folder"


def _with_text(source: Source[Text], config: TextData, unreadable: bool) -> Subset[Text]:
    """The texts of a source that ends, without empty ones; with unreadable ones, if there is a
    loader to skip and count them. Raises BadDataError if none is left."""
    hashes = _hashes(source, config)
    kept = np.flatnonzero(hashes if unreadable else (hashes > 0) & (hashes < UNREADABLE))
    if not len(kept):
        raise BadDataError(f"no text in {', '.join(config.spec)}")
    return Subset(source, kept, int((hashes == 0).sum()))


def split_texts(source: Source[Text], config: TextData) -> tuple[Subset[Text], Subset[Text]]:
    """The texts of a source that ends to train on, and 5 % (≤ 512) that are held out.

    Those held out are the least by a hash, so the choice does not depend on their order, and no
    text that is trained on is among them, however often it occurs. (Of pairs, this is said of the
    sources.) Empty ones are in neither part. A single text serves as both. Where
    `config.validation` names others, none are held out.
    """
    if config.validation:
        return _with_text(source, config, unreadable=True), Subset(source, [])
    hashes = _hashes(source, config)
    distinct, first = np.unique(hashes, return_index=True)
    first = first[(distinct > 0) & (distinct < UNREADABLE)]
    if not len(first):
        raise BadDataError(f"no text in {', '.join(config.spec)}")
    held = first[: min(MOST, len(first) // SHARE + (len(first) < SHARE))]
    last = hashes[held[-1]] if len(first) > 1 else 0
    empty = int((hashes == 0).sum())
    trained = np.flatnonzero(hashes > last)
    return Subset(source, trained, empty), Subset(source, np.sort(held))


def _hashes(source: Source[Text], config: TextData) -> np.ndarray:
    """Of every text, uint64 [size], 0 where there is none: every text is read once."""
    assert source.size is not None
    hashes = np.zeros(source.size, np.uint64)
    for index in range(source.size):
        try:
            text = source[index]
        except BadDataError as error:
            if config.on_error == "stop":
                raise BadDataError(str(error), ON_BAD) from error
            hashes[index] = UNREADABLE  # trained on: the loader skips and counts them there
        else:
            # In one line, as `gentool distill` writes it: its corpus is held out of likewise.
            hashes[index] = 0 if text.empty else seed_of(one_line(text.source or text.text))
    return hashes


def training_texts(config: TextData | ImageData, side: str) -> Iterator[str]:
    """The texts, or the captions of images, that a tokenizer is trained on: those of the training
    part; of pairs the side `source`, `target`, or `both`. Of endless texts and of shards the first
    ENOUGH, of images as many from all over; unreadable ones are left out where `on_error` says so.
    """
    if isinstance(config, ImageData):
        yield from _captions(config)
        return
    for text in _readable(config):
        if side != "target" and text.source is not None:
            yield text.source
        if side != "source":
            yield text.text


def _captions(config: ImageData) -> Iterator[str]:
    source, _ = train_and_validation(config)
    reads: Iterable[Callable[[], str]]
    if isinstance(source, Sharded):
        records = islice(_records(source, config), ENOUGH)
        reads = (partial(_raw_caption, record) for record in records)
    else:
        n = min(ENOUGH, source.size or ENOUGH)
        step = (source.size or n) / n  # a folder's first pictures may be all of one kind
        reads = (partial(_caption, source, int(i * step)) for i in range(n))
    for read in reads:
        try:
            yield read()
        except BadDataError as error:
            if config.on_error == "stop":
                raise BadDataError(str(error), ON_BAD) from error


def _records(source: Sharded, config: ImageData) -> Iterator[Record]:
    """Those of all shards; of a damaged one that is to be skipped, those before the damage."""
    for shard in range(source.shards):
        try:
            yield from source.records(shard)
        except BadDataError as error:
            if config.on_error == "stop":
                raise BadDataError(str(error), ON_BAD) from error


def _raw_caption(record: Record) -> str:
    return record.raw().caption


def _caption(source: Source[Example], index: int) -> str:
    """The caption of a record; no picture is read where it can be told without. Raises
    BadDataError."""
    if isinstance(source, Subset):
        return _caption(source.source, source.number(index))
    if isinstance(source, Joined):
        return _caption(*source.place(index))
    return source.caption(index) if isinstance(source, Images) else source[index].caption


def training_attributes(config: TextData) -> list[str]:
    """Every "attribute=value" that the training part carries, or the first of an endless one, in
    order of the alphabet. Unreadable texts are left out where `on_error` says so."""
    return sorted(
        {
            f"{name}={value}"
            for text in _readable(config)
            for name, values in text.attributes.items()
            for value in values
        }
    )


def _readable(config: TextData) -> Iterator[Text]:
    """The texts of the training part, of endless ones the first ENOUGH. Raises BadDataError."""
    source, _ = text_train_and_validation(config)
    for index in range(ENOUGH if source.size is None else source.size):
        try:
            yield source[index]
        except BadDataError as error:
            if config.on_error == "stop":
                raise BadDataError(str(error), ON_BAD) from error
