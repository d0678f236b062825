"""Files of texts: where records begin and end, and how they are read."""

import csv
import errno
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from gentool.data import lines as lines_of
from gentool.data.config import TextData
from gentool.data.holdout import text_train_and_validation
from gentool.data.text import open_texts
from gentool.errors import BadDataError, MachineError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_cell_of_many_lines_is_one_record_however_long(tmp_path):
    lines = "a line, and more\n" * 20_000  # 320 kB
    rows = [["1", lines], ["2", "b"], ["3", 4 * lines], ["4", "d"], ["5", "e" * 2_000_000]]
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["n", "text"], *rows, ["6", "f"]])
    source = open_texts(TextData(spec=(str(path),), attributes=("n",)))
    assert source.size == 6
    assert source[0].text == lines.strip()
    for index, (number, line) in {1: ("2", 20_003), 3: ("4", 100_005), 5: ("6", 100_007)}.items():
        assert source[index].attributes == {"n": (number,)}
        assert source[index].key == f"a.csv line {line}"
    for index in (2, 4):
        with pytest.raises(BadDataError, match="a.csv line (20004|100006): .*larger than"):
            source[index]


def test_records_of_a_table_end_where_the_reader_of_csv_says(tmp_path):
    rng = random.Random(0)
    parts = ['"', '""', ",", "\n", "\n", "a", " ", '"\n', '",', ',"', "\r", "\r\n", "\t"]
    for _ in range(300):
        content = "".join(rng.choice(parts) for _ in range(rng.randrange(30)))
        table = write(tmp_path, "a.csv", "text\n" + content + "\nlast")
        lines = (table.read_bytes().decode()).split("\n")
        starts, number = [], 0
        while number < len(lines):  # each record anew: after an error the reader is in no record
            starts.append(number + 1)
            reader = csv.reader((line + "\n" for line in lines[number:]), strict=True)
            with suppress(csv.Error):
                next(reader)
            number += max(1, reader.line_num)
        source = open_texts(TextData(spec=(str(table),)))
        assert [source._key(i) for i in range(source.size)] == [
            f"a.csv line {start}" for start in starts[1:]
        ], content


def test_what_is_too_long_or_no_object_hides_no_other(tmp_path, cli):
    path = write(tmp_path, "a.txt", b"one\n" + b"x" * 3_000_000 + b"\nthree\n")
    source = open_texts(TextData(spec=(str(path),)))
    assert [source[i].text for i in (0, 2)] == ["one", "three"]
    assert source[2].key == "a.txt line 3"
    path = write(tmp_path, "a.jsonl", '\n{"text": \n[]\n{"text": "a", "n": 1}\n')
    bad = cli("data", "check", path, "--json").records
    assert [record["bad"] for record in bad] == ["a.jsonl line 2", "a.jsonl line 3", 2]
    train, held_out = text_train_and_validation(TextData(spec=(str(path),), on_error="skip"))
    assert (train.size, held_out[0].text) == (3, "a")


def test_a_file_of_texts_is_opened_once(tmp_path, monkeypatch):
    path = write(tmp_path, "a.txt", "one\ntwo\n")
    source = open_texts(TextData(spec=(str(path),)))
    opened = []
    monkeypatch.setattr("io.open", opened.append)
    monkeypatch.setattr("os.open", opened.append)
    assert ([source[i].text for i in (1, 0, 1)], opened) == (["two", "one", "two"], [])
    monkeypatch.undo()
    handle = source._file
    del source
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_too_many_open_files_say_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a\n")

    def full(*given):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(lines_of.os, "open", full)
    with pytest.raises(MachineError, match="Too many open files") as caught:
        open_texts(TextData(spec=(str(tmp_path / "a.txt"),)))
    assert "ulimit -n" in caught.value.hint
