"""Data sets of the Hugging Face Hub: `hf:NAME`, a local folder as well. Images are streamed."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gentool.data.config import ImageData, TextData
from gentool.data.decode import MAX_BYTES
from gentool.data.source import RawImage, Record, Sharded
from gentool.data.table import pick, quiet, text_columns, undecoded
from gentool.data.text import Text, TextColumns
from gentool.errors import BadDataError, GentoolError, MachineError, NotFoundError, UsageError

if TYPE_CHECKING:
    from datasets import DatasetBuilder

T = TypeVar("T")


class Hub(Sharded):
    """The rows of one split, in the shards that `datasets` has it in, undecoded."""

    def __init__(self, spec: str, config: ImageData) -> None:
        """`spec` is hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT.

        Raises NotFoundError for an unknown data set, MachineError without a network, BadDataError
        for another split or configuration and for data without images.
        """
        from datasets import ClassLabel
        from datasets.packaged_modules.folder_based_builder.folder_based_builder import (
            FolderBasedBuilder,
        )

        self.spec = spec
        builder, split = _find(spec)
        rows = _asking(spec, lambda: builder.as_streaming_dataset(split=split))
        features = _asking(spec, lambda: rows.features or rows._resolve_features().features) or {}
        self.columns = columns = pick(features, config, spec)
        if columns.label and not isinstance(features[columns.label], ClassLabel):
            if config.label_column:
                raise BadDataError(f"{spec}: column {columns.label!r} has no names of classes")
            self.columns = columns = replace(columns, label="")
        self.labels = tuple(features[columns.label].names) if columns.label else ()
        self.rows = undecoded(rows, columns)
        self.shards = rows.num_shards
        # Elsewhere a path alone is not followed: it could name any file of this machine.
        self.follow = isinstance(builder, FolderBasedBuilder)
        self.fingerprint = _digest(builder, split, str(features))

    def records(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Rows before `start` are passed over by `datasets`, which has to read them."""
        rows = iter(self.rows.shard(self.shards, shard).skip(start))
        number = start
        while (row := _asking(self.spec, lambda: next(rows, None))) is not None:
            key = f"{self.spec} shard {shard} row {number}"
            yield Record(number, key, partial(self._raw, key, row))
            number += 1

    def _raw(self, key: str, row: dict[str, Any]) -> RawImage:
        value = row[self.columns.image]
        label = row[self.columns.label] if self.columns.label else None
        caption = row[self.columns.caption] if self.columns.caption else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data and self.follow and value and value.get("path"):
            data = _asking(self.spec, partial(_fetch, value["path"]))
        if not data:
            raise BadDataError(f"{key}: no image bytes")
        known = label is not None and 0 <= label < len(self.labels)
        return RawImage(key, data, caption or "", label if known else None)


class HubTexts:
    """Texts of one split by index: rows of a table that `datasets` keeps in its cache, mapped into
    memory, so that the texts of a whole epoch can be shuffled."""

    labels: tuple[str, ...] = ()

    def __init__(self, spec: str, config: TextData) -> None:
        """Raises as `Hub` does, and BadDataError for data without a text column."""
        builder, split = _find(spec)
        _asking(spec, builder.download_and_prepare)
        rows = _asking(spec, lambda: builder.as_dataset(split=split))
        self.spec = spec
        self.columns = TextColumns(config, spec, rows.column_names, text_columns(rows.features))
        columns = {n if n in rows.column_names else n.split(".")[0] for n in self.columns.used()}
        self.rows = rows.select_columns(sorted(columns))
        self.size: int | None = len(rows)
        self.fingerprint = _digest(builder, split, str(config.columns()))
        if not self.size:
            raise BadDataError(f"{spec} has no rows")

    def __getitem__(self, index: int) -> Text:
        return self.columns.read(f"{self.spec} row {index}", self.rows[index])


def _find(spec: str) -> tuple["DatasetBuilder", str]:
    """What reads the data set hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, and its split."""
    from datasets import load_dataset_builder

    name, *parts = spec.removeprefix("hf:").split(":")
    if not name or len(parts) > 2 or not all(parts):
        raise UsageError(
            f"{spec} is not a data set", "hf:NAME, hf:NAME:SPLIT, hf:NAME:CONFIG:SPLIT"
        )
    split = parts[-1] if parts else "train"
    return _asking(spec, lambda: load_dataset_builder(name, *parts[:-1])), split


def _asking(spec: str, ask: Callable[[], T]) -> T:
    """What `ask` returns, without a word from `datasets`, and its failures as ours."""
    try:
        with quiet():
            return ask()
    except Exception as error:  # of datasets, pyarrow, the file system and the network
        raise _translated(error, spec) from error


def _fetch(path: str) -> bytes:
    import fsspec

    with fsspec.open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _digest(builder: "DatasetBuilder", split: str, features: str) -> str:
    """Of the names of the files and what `datasets` knows of their versions, and the columns."""
    known = builder.config.data_files or {}
    # "train+test", "train[:10%]": the files of each part
    lists = [known.get(part.partition("[")[0].strip(), []) for part in split.split("+")]
    versions = [version for files in lists for version in getattr(files, "origin_metadata", [])]
    names = [os.path.basename(name) for files in lists for name in files]
    record: list[Any] = [names, [list(map(str, version)) for version in versions], features]
    if split not in known:
        record.append(split)
    return hashlib.blake2b(json.dumps(record).encode(), digest_size=16).hexdigest()


def _translated(error: BaseException, spec: str) -> GentoolError:
    message = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{spec}: {message}")
    # pyarrow's errors of damaged files are OSErrors as well, without an errno.
    network = type(error).__module__.partition(".")[0] in ("httpx", "huggingface_hub")
    if network or isinstance(error, ConnectionError) or getattr(error, "errno", None):
        return MachineError(f"{spec} cannot be reached: {message}", "is there a network?")
    return BadDataError(f"{spec} cannot be read: {message}")
