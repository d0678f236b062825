"""Files of texts, by record: where each begins is listed once, it is read when asked for.

Lines end in a newline alone or with a carriage return before it: other separators of Unicode are
part of a text.
"""

import csv
import errno
import io
import json
import os
import re
import weakref
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

from gentool.data.config import TextData
from gentool.data.source import digest
from gentool.data.text import Text, TextColumns
from gentool.errors import BadDataError, MachineError

BOM = b"\xef\xbb\xbf"
LONGEST = 1 << 20  # bytes of a line, characters of a cell
csv.field_size_limit(max(LONGEST, csv.field_size_limit()))


class Lines(ABC):
    """The records of one file, which stays open. Held in memory: 12 bytes for each, its place."""

    labels: tuple[str, ...] = ()
    longest = LONGEST  # bytes of a record

    def __init__(self, path: Path, config: TextData) -> None:
        """Raises BadDataError if nothing is in the file."""
        self.path = path
        self._starts = array("Q")  # of each record, and the end of the file
        self._numbers = array("I")  # the line that each begins in, from 1
        try:
            self._file = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            with open(self._file, "rb", closefd=False) as file:
                for start, number in self._scan(file):
                    self._starts.append(start)
                    self._numbers.append(number)
                self._starts.append(file.seek(0, os.SEEK_END))
        except OSError as error:
            many = error.errno == errno.EMFILE  # each file of texts stays open
            hint = (
                "ulimit -n 4096 allows more open files; or put the texts into fewer" if many else ""
            )
            raise MachineError(f"cannot read {path}: {error.strerror}", hint) from error
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
        data = self._bytes(index)
        if len(data) > self.longest:
            raise BadDataError(f"{self._key(index)}: longer than {self.longest >> 20} MiB")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"{self._key(index)}: not UTF-8 at byte {error.start + 1}"
            raise BadDataError(message) from None

    def _bytes(self, index: int) -> bytes:
        """The record, or of one that is too long more than it may have."""
        start, end = self._starts[index : index + 2]
        try:  # at a place of its own: the loader's threads share the file
            return os.pread(self._file, min(end - start, self.longest + 1), start)
        except OSError as error:
            raise MachineError(f"cannot read {self.path}: {error.strerror}") from error

    def _scan(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        """Of each record where it starts, and in which line."""
        for start, number, _ in _lines(file):
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
            first = self._head()
            texts = [name for name, value in first.items() if isinstance(value, str)]
            self.columns = TextColumns(config, str(self.path), [*first, *config.columns()], texts)

    def _head(self) -> dict[str, object]:
        """The first object that can be read. Raises BadDataError as the first record, if none."""
        problem = None
        for index in range(self._first(), len(self._numbers)):
            try:
                return self._object(self._key(index), self._record(index))
            except BadDataError as error:
                problem = problem or error
        assert problem
        raise problem

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

    longest = 64 * LONGEST  # where a quote does not close, the rest of the file is one record

    @property
    def _dialect(self) -> str:
        return "excel-tab" if self.path.suffix == ".tsv" else "excel"

    def _scan(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        opens, quoted = _OPENS[self._dialect], False
        for start, number, line in _lines(file):
            if not quoted:
                yield start, number
            quoted = bool(opens.fullmatch(b'"' + line if quoted else line))

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


def _opens(separator: bytes) -> re.Pattern[bytes]:
    """Matches a line at the end of which a cell in quotes goes on. Quotes inside a cell that does
    not begin with one are part of it; where the reader of `csv` would fail there is no match."""
    quoted = rb'"(?:[^"]++|"")*+'
    plain = rb'(?:[^"%b\r\n][^%b\r\n]*+)?' % (separator, separator)
    return re.compile(rb"(?:(?:%b\"|%b)%b)*+%b" % (quoted, plain, separator, quoted))


_OPENS = {"excel": _opens(b","), "excel-tab": _opens(b"\t")}


def _lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Each line with where it starts and its number; a byte order mark is passed over. One that is
    too long is not held: in its place is the quote that has no partner in it, if there is one."""
    start = file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
    for number in count(1):
        line = piece = file.readline(LONGEST + 1)
        if not line:
            return
        size = len(line)
        if size > LONGEST:
            quotes = line.count(b'"')
            while piece and not piece.endswith(b"\n"):
                piece = file.readline(LONGEST)
                size += len(piece)
                quotes += piece.count(b'"')
            line = b'"' * (quotes % 2)
        yield start, number, line
        start += size
