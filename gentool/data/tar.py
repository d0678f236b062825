"""Images from WebDataset shards: tar files in which members of one name make up a record.

The layout is LAION's: `KEY.png|jpg|jpeg|webp|bmp`, the caption in `KEY.txt`, more in `KEY.json`. A
shard's headers are walked over, its bodies are not: only what a process trains on is read.
"""

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gentool.data.config import ImageData, condition
from gentool.data.decode import EXTENSIONS, MAX_BYTES
from gentool.data.source import WINDOW, RawImage, Record, Sharded, digest
from gentool.errors import BadDataError, MachineError, NotFoundError, UsageError
from gentool.streams import clean

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAGIC = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


class _Member(NamedTuple):
    """Where the body of a member lies in its shard."""

    key: str
    extension: str
    offset: int
    size: int


class Tars(Sharded):
    """The records of tar shards, the shards in order of name. Memory: one window's headers."""

    def __init__(self, specs: Sequence[str], config: ImageData) -> None:
        """Raises NotFoundError naming the first file that is not there."""
        if config.label_column:
            raise UsageError("data.label_column: records of tar shards have no class")
        self.paths = sorted({Path(name) for spec in specs for name in expand(spec)})
        self.shards = len(self.paths)
        self.field = config.caption_column
        self.wanted = (f".{config.image_column}",) if config.image_column else EXTENSIONS
        self.conditions = [condition(text) for text in config.where]
        self.fingerprint = digest(self.paths, *config.where)

    def records(self, shard: int, start: int = 0) -> Iterator[Record]:
        path, number, seen = self.paths[shard], -1, set[str]()
        # Damage takes the record before it along: nobody knows whether that was complete.
        groups = itertools.groupby(_members(path), key=lambda member: member.key)
        for number, (key, members) in enumerate(groups):
            if number % WINDOW == 0:
                seen.clear()
            if number >= start:
                record = self._record(path, number, key, list(members), key in seen)
                if record:
                    yield record
            seen.add(key)
        if number < 0:
            raise BadDataError(f"{path.name}: no records in it")

    def _record(
        self, path: Path, number: int, key: str, members: list[_Member], seen: bool
    ) -> Record | None:
        """The record that adjacent members of one key make up; none if it is not wanted."""
        parts = {member.extension: member for member in members}
        images = [name for name in parts if name in self.wanted]
        name = f"{path.name} {key}"
        if seen or len(parts) < len(members):
            problem = "the key occurs twice (members of a record stand side by side)"
        elif not images:
            problem = f"no {', '.join(self.wanted)} among {', '.join(parts)}"
        elif len(images) > 1:
            problem = f"several images: {', '.join(images)} (image_column names one)"
        else:
            try:
                if not self._is_wanted(path, name, parts):
                    return None
            except BadDataError as error:  # told where it would be read
                return Record(number, name, partial(_refuse, str(error)))
            read = partial(_read, path, name, parts, images[0], self.field)
            return Record(number, name, read)
        return Record(number, name, partial(_refuse, f"{name}: {problem}"))

    def _is_wanted(self, path: Path, key: str, parts: dict[str, _Member]) -> bool:
        """Whether its .json meets all conditions; null meets none. Raises BadDataError."""
        if not self.conditions:
            return True
        if ".json" not in parts:
            raise BadDataError(f"{key}: no .json to look for {self.conditions[0][0]!r} in")
        with path.open("rb") as file:
            found = _object(_text(file, parts[".json"], key), key)
        for field, compare, value in self.conditions:
            have = _value(found, field, key)
            if isinstance(value, float) and isinstance(have, str):
                with suppress(ValueError):
                    have = float(have)
            comparable = isinstance(have, int | float if isinstance(value, float) else str)
            if not comparable or not compare(have, value):
                return False
        return True


def is_tar(spec: str) -> bool:
    """Whether `spec` names shards, compressed ones included."""
    return spec.endswith((".tar", *COMPRESSED)) and not os.path.isdir(spec)


def expand(spec: str) -> Iterator[str]:
    """The files that `spec` names: braces (`{00..12}`, `{a,b}`) are expanded, then `*`, `?`, `[]`.

    Raises BadDataError for a compressed tar, NotFoundError for a file or pattern without match.
    """
    if spec.endswith(COMPRESSED):
        raise BadDataError(
            f"{spec}: compressed, so that its records cannot be reached one by one",
            "unpack it to .tar first, e.g. with gunzip; images are compressed already",
        )
    braces = _BRACES.search(spec)
    if os.path.isfile(spec):
        yield spec
    elif braces:
        for choice in _choices(braces):
            yield from expand(spec[: braces.start()] + choice + spec[braces.end() :])
    else:
        found = sorted(glob.glob(spec))
        if not found:
            raise NotFoundError(f"no file {spec}", "quote the pattern: 'shard-{00000..00099}.tar'")
        yield from found


def _choices(braces: re.Match[str]) -> Iterator[str]:
    low, high, listed = braces.groups()
    if listed is not None:
        yield from listed.split(",")
        return
    padded = any(len(end) > 1 and end.startswith("0") for end in (low, high))
    width = max(len(low), len(high)) if padded else 0
    step = 1 if int(low) <= int(high) else -1
    for number in range(int(low), int(high) + step, step):
        yield f"{number:0{width}}"


def _members(path: Path) -> Iterator[_Member]:
    """The files of a shard in order, without hidden ones and those with no extension.

    Raises BadDataError where the shard ends too early or is no tar.
    """
    last, offset = "", 0
    try:
        end = path.stat().st_size
        with (
            path.open("rb", buffering=4096) as file,  # more would read the bodies as well
            tarfile.open(None, "r:", file, errors="replace") as tar,
        ):
            # Not `tar.next()`: it remembers all members, and takes a damaged header for the end.
            while _block(file, offset) != bytes(tarfile.BLOCKSIZE):
                file.seek(offset)
                info = tarfile.TarInfo.fromtarfile(tar)
                name = "".join(c if c.isprintable() else "?" for c in info.name)
                if info.size < 0 or info.offset_data + info.size > end:
                    raise BadDataError(f"{path.name}: cut off inside {name}")
                last, offset = name, tar.offset
                name = name.removeprefix("./")
                folder, _, base = name.rpartition("/")
                stem, dot, extension = base.partition(".")
                if info.isreg() and dot and stem and not name.startswith(".") and "/." not in name:
                    key = f"{folder}/{stem}" if folder else stem
                    yield _Member(key, f".{extension.lower()}", info.offset_data, info.size)
    except (tarfile.TarError, EOFError, ValueError) as error:
        if last:
            raise BadDataError(f"{path.name}: damaged or cut off after {last}") from error
        raise _no_tar(path) from error
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}") from error


def _block(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.read(tarfile.BLOCKSIZE)


def _no_tar(path: Path) -> BadDataError:
    with path.open("rb") as file:
        head = file.read(8)
    for magic, command in MAGIC.items():
        if head.startswith(magic):
            return BadDataError(f"{path.name}: compressed", f"unpack it first: {command}")
    return BadDataError(f"{path.name}: not a tar file" if head else f"{path.name}: an empty file")


def _refuse(message: str) -> RawImage:
    raise BadDataError(message)


def _read(path: Path, key: str, parts: dict[str, _Member], image: str, field: str) -> RawImage:
    """A record's image and caption. Raises BadDataError, naming shard and key."""

    try:
        with path.open("rb") as file:
            caption = ""
            if field and ".json" not in parts:
                raise BadDataError(f"{key}: no .json to take the caption {field!r} from")
            if field:
                caption = _field(_text(file, parts[".json"], key), field, key)
            elif ".txt" in parts:
                caption = _text(file, parts[".txt"], key)
            return RawImage(key, _body(file, parts[image], key), caption.strip(), None)
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}") from error


def _body(file: BinaryIO, member: _Member, key: str) -> bytes:
    if member.size > MAX_BYTES:
        raise BadDataError(f"{key}: {member.extension} is larger than {MAX_BYTES >> 20} MiB")
    file.seek(member.offset)
    return file.read(member.size)


def _text(file: BinaryIO, member: _Member, key: str) -> str:
    try:
        return _body(file, member, key).decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"{member.extension} is not UTF-8 at byte {error.start}"
        raise BadDataError(f"{key}: {where}") from None


def _object(text: str, key: str) -> dict[str, Any]:
    """A JSON object. Raises BadDataError."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadDataError(f"{key}: .json is invalid: {error}") from None
    if not isinstance(values, dict):
        raise BadDataError(f"{key}: .json is not an object")
    return values


def _value(values: dict[str, Any], field: str, key: str) -> Any:
    if field not in values:
        raise BadDataError(f"{key}: .json has no field {field!r}, it has {', '.join(values)}")
    return values[field]


def _field(text: str, field: str, key: str) -> str:
    """The text in `field` of a JSON object, `clean`; null is no caption. Raises BadDataError."""
    caption = _value(_object(text, key), field, key)
    if not isinstance(caption, str | None):
        raise BadDataError(
            f"{key}: field {field!r} of .json holds {type(caption).__name__}, not text"
        )
    return clean(caption or "")
