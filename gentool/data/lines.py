"""Files of texts, by record: where each begins is listed once, it is read when asked for.

Lines end in a newline alone or with a carriage return before it: other separators of Unicode are
part of a text.
"""

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from gentool.data.config import TextData
from gentool.data.source import digest
from gentool.data.text import Text, TextColumns
from gentool.errors import BadDataError, MachineError

BOM = b"\xef\xbb\xbf"
LONGEST = 1 << 20  # bytes of a line


class Lines(ABC):
    """The records of one file. Memory: 12 bytes for each."""

    labels: tuple[str, ...] = ()

    def __init__(self, path: Path, config: TextData) -> None:
        """Raises BadDataError if nothing is in the file, or a line of it has no end."""
        self.path = path
        self._starts = array("Q")  # of each record, and the end of the file
        self._numbers = array("I")  # the line that each begins in, from 1
        try:
            with path.open("rb") as file:
                for start, number in self._scan(file):
                    self._starts.append(start)
                    self._numbers.append(number)
                self._starts.append(file.seek(0, os.SEEK_END))
        except OSError as error:
            raise MachineError(f"cannot read {path}: {error.strerror}") from error
        if self._first() == len(self._numbers):
            raise BadDataError(f"{path}: no text in it")
        self._open(config)
        self.size: int | None = len(self._numbers)
        if not self.size:
            raise BadDataError(f"{path}: no text in it")
        self.fingerprint = digest([path], *config.columns())

    def __getitem__(self, index: int) -> Text:
        key, record = self._key(index), self._record(index)
        return self._parse(key, record) if record.strip() else Text(key, "")

    def _key(self, index: int) -> str:
        return f"{self.path.name} line {self._numbers[index]}"

    def _record(self, index: int) -> str:
        """The record as it stands in the file. Raises BadDataError."""
        try:
            return self._bytes(index).decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"{self._key(index)}: not UTF-8 at byte {error.start + 1}"
            raise BadDataError(message) from None

    def _bytes(self, index: int) -> bytes:
        start, end = self._starts[index : index + 2]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise MachineError(f"cannot read {self.path}: {error.strerror}") from error

    def _scan(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        """Of each record where it starts, and in which line."""
        for start, number, _ in _lines(file, self.path.name):
            yield start, number

    def _first(self) -> int:
        """The first record that is not blank; how many there are, if all are blank."""
        n = len(self._numbers)
        return next((index for index in range(n) if self._bytes(index).strip()), n)

    @abstractmethod
    def _open(self, config: TextData) -> None:
        """What is to be known before records can be parsed. Raises BadDataError."""

    @abstractmethod
    def _parse(self, key: str, record: str) -> Text:
        """The text of a record that is not blank. Raises BadDataError, naming it."""


class Plain(Lines):
    """A text a line."""

    def _open(self, config: TextData) -> None:
        if name := max(config.columns()):
            raise BadDataError(f"{self.path} is plain text and has no column {name!r}")

    def _parse(self, key: str, record: str) -> Text:
        return Text(key, record.strip())


class Parallel:
    """Pairs: line n of one file is made into line n of another."""

    labels: tuple[str, ...] = ()

    def __init__(self, source: Path, target: Path, config: TextData) -> None:
        """Raises BadDataError as `Lines` does, and if one file has more lines."""
        self.source, self.target = Plain(source, config), Plain(target, config)
        self.size: int | None = self.target.size
        if self.source.size != self.size:
            raise BadDataError(
                f"{source} has {self.source.size} lines, {target} has {self.size}: not parallel"
            )
        self.fingerprint = f"{self.source.fingerprint},{self.target.fingerprint}"

    def __getitem__(self, index: int) -> Text:
        source, target = self.source[index], self.target[index]
        key = f"{self.source.path.name},{target.key}"
        return Text(key, target.text, source=source.text)


class Jsonl(Lines):
    """A JSON object a line."""

    def _open(self, config: TextData) -> None:
        if config.text_column:  # the fields of one record say nothing of the others'
            self.columns = TextColumns(config, str(self.path), config.columns(), ())
        else:
            index = self._first()
            first = self._object(self._key(index), self._record(index))
            texts = [name for name, value in first.items() if isinstance(value, str)]
            self.columns = TextColumns(config, str(self.path), [*first, *config.columns()], texts)

    def _parse(self, key: str, record: str) -> Text:
        return self.columns.read(key, self._object(key, record))

    @staticmethod
    def _object(key: str, record: str) -> dict[str, object]:
        try:
            found = json.loads(record)
        except (ValueError, RecursionError) as error:
            raise BadDataError(f"{key}: not JSON: {error}") from None
        if not isinstance(found, dict):
            raise BadDataError(f"{key}: not a JSON object")
        return found


class Table(Lines):
    """Rows of comma- or tab-separated values, the first of them the names of the columns. What
    stands in double quotes may hold separators and line ends."""

    @property
    def _dialect(self) -> str:
        return "excel-tab" if self.path.suffix == ".tsv" else "excel"

    def _scan(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        lines = _lines(file, self.path.name)
        starts: list[tuple[int, int]] = []

        def fed() -> Iterator[str]:
            for start, number, line in lines:
                starts.append((start, number))
                yield line.decode("latin-1")  # what separates is ASCII, and this never fails

        while True:
            starts.clear()
            with suppress(csv.Error):  # it is met again when the record is read
                next(csv.reader(fed(), self._dialect, strict=True), None)
            if not starts:
                return
            yield starts[0]

    def _open(self, config: TextData) -> None:
        head = self._first()
        self.names = self._row(self._key(head), self._record(head))
        if len(set(self.names)) < len(self.names):
            raise BadDataError(f"{self.path}: two columns have one name: {', '.join(self.names)}")
        self.columns = TextColumns(config, str(self.path), self.names, self.names)
        del self._starts[: head + 1], self._numbers[: head + 1]

    def _parse(self, key: str, record: str) -> Text:
        row = self._row(key, record)
        if len(row) != len(self.names):
            raise BadDataError(f"{key}: {len(row)} values for {len(self.names)} columns")
        return self.columns.read(key, dict(zip(self.names, row, strict=True)))

    def _row(self, key: str, record: str) -> list[str]:
        try:
            return next(csv.reader(io.StringIO(record, newline=""), self._dialect, strict=True))
        except csv.Error as error:
            raise BadDataError(f"{key}: {error}") from None


def open_file(path: Path, config: TextData) -> Lines:
    """The texts of a file: a table, JSON lines, else lines. Raises as those do."""
    kind = {".csv": Table, ".tsv": Table, ".jsonl": Jsonl}.get(path.suffix, Plain)
    return kind(path, config)


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Each line with where it starts and its number; a byte order mark is passed over."""
    start = file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
    for number in count(1):
        line = file.readline(LONGEST + 1)
        if not line:
            return
        if len(line) > LONGEST:
            raise BadDataError(f"{name} line {number} is longer than {LONGEST >> 20} MiB")
        yield start, number, line
        start += len(line)
