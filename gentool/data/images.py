"""Image data by its spec; those in folders and parquet files through Hugging Face `datasets`.

`datasets` keeps the rows in a memory-mapped Arrow file in its cache; decoding is off there, the
bytes are decoded here, so that a bad image can be named.
"""

import errno
import glob
import hashlib
import json
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gentool.data.config import ImageData
from gentool.data.decode import EXTENSIONS, MAX_BYTES, fit
from gentool.data.source import Data, Example, Joined, RawImage, Record, Sharded, Source
from gentool.data.table import ImageColumns, build, class_names, parquet_footer, pick, undecoded
from gentool.errors import BadDataError, MachineError, NotFoundError, UsageError
from gentool.pixels import to_float
from gentool.rng import generator

if TYPE_CHECKING:
    from datasets import Dataset

METADATA = ("metadata.csv", "metadata.jsonl")
SPECS = (
    "image data are scenes, a folder of images, FILE.parquet, 'shard-{0..9}.tar' (patterns are "
    "quoted) or hf:NAME"
)
NOT_IMAGES = (".jsonl", ".csv", ".tsv", ".txt")
BLOCK = 1 << 20  # bytes of either end of a parquet file that its fingerprint covers


class NoPictures(BadDataError):
    """There is none to look at: it may be done without."""


@dataclass(frozen=True)
class Picture:
    """One example as an image model sees it."""

    key: str
    image: torch.Tensor  # float32 [C, H, W] in [-1, 1]
    label: int | None
    caption: str


def picture(
    source: Source[Example], index: int, config: ImageData, rng: torch.Generator, augment: bool
) -> Picture:
    """Example `index` brought to size. Without `augment` it is neither mirrored nor cut at random;
    `rng` is drawn from in any case. Raises BadDataError."""
    example = source[index]
    if not augment:
        config = replace(config, flip=False, crop="center")
    image = to_float(fit(example.image, config, rng))
    return Picture(example.key, image, example.label, example.caption)


def first_pictures(source: Source[Example], n: int, config: ImageData) -> list[Picture]:
    """The first n that can be read, or as many as there are, as they are without augmentation.

    Raises BadDataError for one that cannot be, unless config skips those, and NoPictures if there
    are no others.
    """
    found: list[Picture] = []
    rng = generator("pictures")  # for nothing: no draw is used
    for index in count() if source.size is None else range(source.size):
        if len(found) == n:
            break
        try:
            found.append(picture(source, index, config, rng, augment=False))
        except BadDataError:
            if config.on_error == "stop":
                raise
    if not found:
        raise NoPictures(f"none of {source.size} pictures can be read")
    return found


class Images(ABC):
    """Encoded images with captions and labels by index; their table is not held in memory."""

    fingerprint: str
    left_out: Sequence[str] = ()  # files that are there and no records

    def __init__(self, rows: "Dataset", columns: ImageColumns, names: Iterable[str]) -> None:
        """names: of the columns that there are."""
        self.columns = columns
        self.unused = sorted({*names} - {*columns.names()})
        self.rows = undecoded(rows, columns)
        self._captions = rows.select_columns([columns.caption]) if columns.caption else None
        self.size: int | None = len(rows)
        self.labels, self._codes = class_names(rows, columns.label)

    def __getitem__(self, index: int) -> Example:
        return self.record(index).raw().example()

    def record(self, index: int) -> Record:
        """Record `index` undecoded."""
        row = self.rows[index]
        key = self._key(index, row[self.columns.image])
        return Record(index, key, partial(self._raw, key, row))

    def caption(self, index: int) -> str:
        """That of record `index`, of which the picture is not read."""
        row = self._captions[index] if self._captions else {}
        return row.get(self.columns.caption) or ""

    def _raw(self, key: str, row: dict[str, Any]) -> RawImage:
        caption = row[self.columns.caption] if self.columns.caption else None
        label = self._codes.get(row[self.columns.label]) if self.columns.label else None
        return RawImage(key, self._data(key, row[self.columns.image]), caption or "", label)

    @abstractmethod
    def _key(self, index: int, value: Any) -> str:
        """The name of record `index` with `value` in its image column."""

    @abstractmethod
    def _data(self, key: str, value: Any) -> bytes:
        """The encoded image that `value`, of the image column, holds or names."""


class Folder(Images):
    """A folder of images: sub-folders are classes, or metadata.csv or .jsonl lists captions."""

    def __init__(self, folder: Path, config: ImageData) -> None:
        self.folder = folder.resolve()
        listing = _listing(self.folder)
        for path in listing:
            if os.path.basename(path) in METADATA:
                _check_metadata(Path(path))
        rows = build("imagefolder", str(folder), listing)
        super().__init__(rows, pick(rows.features, config, str(folder)), rows.features)
        self.fingerprint, used = self._digest()
        rest = {path for path in listing if os.path.basename(path) not in METADATA} - used
        self.left_out = sorted(os.path.relpath(path, self.folder) for path in rest)

    def _key(self, index: int, value: Any) -> str:
        if not value:
            return f"metadata row {index}"
        return Path(os.path.relpath(value["path"], self.folder)).as_posix()

    def _data(self, key: str, value: Any) -> bytes:
        if not value:
            raise BadDataError(f"{key}: no file name")
        try:
            with open(value["path"], "rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            # What is wrong with this file, and not with the disk.
            if error.errno in (errno.ENOENT, errno.EACCES, errno.ELOOP):
                told = str(error.strerror)
                raise BadDataError(f"{key}: {told[:1].lower()}{told[1:]}") from None
            raise MachineError(f"{key}: {error.strerror}") from error

    def _digest(self) -> tuple[str, set[str]]:
        """Of each record's relative name, file size, label and caption: equal on any machine. And
        the files that are records."""
        digest = hashlib.blake2b(digest_size=16)
        index, used = 0, set()
        for batch in self.rows.iter(batch_size=1000):
            images = batch.pop(self.columns.image)
            for value, *rest in zip(images, *batch.values(), strict=True):
                exists = value and os.path.exists(value["path"])
                if exists:
                    used.add(os.path.abspath(value["path"]))
                size = os.path.getsize(value["path"]) if exists else None
                record = [self._key(index, value), size, *rest]
                digest.update(json.dumps(record).encode() + b"\n")
                index += 1
        return digest.hexdigest(), used


class Parquet(Images):
    """Rows of parquet files whose image column holds encoded images."""

    def __init__(self, paths: Sequence[Path], spec: str, config: ImageData) -> None:
        footers = [parquet_footer(path) for path in paths]
        counts = [rows for _, rows in footers]
        columns = pick(footers[0][0], config, spec)
        if sum(counts) == 0:
            raise BadDataError(f"{spec} has no rows")
        rows = build("parquet", spec, [str(path) for path in paths], columns=columns.names())
        super().__init__(rows, columns, footers[0][0])
        self._names = [path.name for path in paths]
        self._starts = [0, *accumulate(counts)]
        self.fingerprint = _parquet_digest(paths)

    def _key(self, index: int, value: Any) -> str:
        file = bisect_right(self._starts, index) - 1
        return f"{self._names[file]} row {index - self._starts[file]}"

    def _data(self, key: str, value: Any) -> bytes:
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if not data:  # a path alone is not followed: it could name any file of this machine
            raise BadDataError(f"{key}: no image bytes")
        return data


def open_images(config: ImageData) -> Data:
    """The data that `config.spec` names. Several tars are one data set of all their shards.

    Raises UsageError for a kind of data that has no images, NotFoundError for a missing path,
    BadDataError for data without images or without a named column, and MachineError when the
    cache of `datasets` cannot be written or the Hub cannot be reached.
    """
    from gentool.data.tar import Tars, is_tar

    if all(is_tar(spec) for spec in config.spec):
        return Tars(config.spec, config)
    if config.where:
        raise UsageError("data.where chooses among records of tar shards", "these data have none")
    if len(config.spec) == 1:
        return _open(config.spec[0], config)
    sources = [_open(spec, config) for spec in config.spec if not is_tar(spec)]
    joined = [source for source in sources if not isinstance(source, Sharded)]
    if len(joined) < len(config.spec):
        raise UsageError(
            "tar shards and hf: data are streamed and cannot be joined with other data",
            "several tars alone can be joined",
        )
    return Joined(joined, config.spec)


def _open(spec: str, config: ImageData) -> Data:
    path = Path(spec)
    if spec == "scenes":
        from gentool.data.scenes import Scenes

        return Scenes(config.split, config.language, config.easier, config.near)
    if spec.startswith("hf:"):
        from gentool.data.hub import Hub

        return Hub(spec, config)
    if path.is_dir():
        return Folder(path, config)
    if spec.endswith(".parquet"):
        paths = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(spec))]
        if not paths:
            raise NotFoundError(f"no parquet file {spec}", SPECS)
        return Parquet(paths, spec, config)
    if path.suffix in NOT_IMAGES or path.is_file():
        hint = SPECS + "; of texts: gentool data check --text"
        raise UsageError(f"{spec} is not a kind of image data that can be read at present", hint)
    raise NotFoundError(f"no file or folder {spec}", SPECS)


def _listing(folder: Path) -> list[str]:
    """Images and metadata files under `folder`, sorted by name, hidden ones left out; folders are
    reached by links too, but for one that they are in. Raises BadDataError if there is no image or
    a link to nothing, OSError for a closed folder."""
    found, images = [], 0
    above: dict[str, tuple[str, ...]]  # of each folder where it really is and those it is in
    above = {str(folder): (os.path.realpath(folder),)}
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        way = above.pop(parent)
        inside = {name: os.path.realpath(os.path.join(parent, name)) for name in folders}
        folders[:] = sorted(n for n in folders if not n.startswith(".") and inside[n] not in way)
        above |= {os.path.join(parent, name): (*way, inside[name]) for name in folders}
        for name in sorted(names):
            is_image = name.lower().endswith(EXTENSIONS) and not name.startswith(".")
            images += is_image
            path = os.path.join(parent, name)
            if is_image or name in METADATA:
                found.append(path)
            elif name.startswith(".") or "." in name or not os.path.islink(path):
                continue  # a link without an extension may be one to a folder that is gone
            if not os.path.exists(path):
                raise BadDataError(f"{path} is a link to nothing", "remove it")
    if not images:
        raise BadDataError(f"no images in {folder}", f"images end in {', '.join(EXTENSIONS)}")
    return found


def _refuse(error: OSError) -> None:
    if os.path.basename(error.filename) != "lost+found":  # a disk's own, closed to all but root
        raise error


def _check_metadata(path: Path) -> None:
    """Raise BadDataError for a file beside pictures that is no table of them, by its line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise BadDataError(
                    f"{path} line {number} is not UTF-8", f"iconv -t UTF-8 {path.name}"
                ) from None
            if number == 1 and path.suffix == ".csv":
                names = [name.strip().strip('"') for name in text.split(",")]
                if not any(name.endswith("file_name") for name in names):
                    raise BadDataError(
                        f"{path} has no column file_name, it has {', '.join(names)}",
                        "its first line names the columns: file_name,text",
                    )


def _parquet_digest(paths: Sequence[Path]) -> str:
    """Of each file's size and both ends (the footer has sizes and statistics of every column)."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "big"))
        with path.open("rb") as file:
            digest.update(file.read(BLOCK))
            file.seek(max(0, size - BLOCK))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
