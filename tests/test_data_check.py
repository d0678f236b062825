"""`gentool data check`: what a user is told of own data."""

import datasets
import pytest
from images import encoded, picture, write


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of `datasets` that is the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_what_the_metadata_leave_out_is_told(tmp_path, cli):
    for name in ("1.png", "2.png", "3.png"):
        write(tmp_path / name, encoded(picture(0)))
    (tmp_path / "metadata.csv").write_text("file_name,description\n1.png,a cat\n2.png,a dog\n")
    [summary] = cli("data", "check", tmp_path, "--json").records
    assert summary["records"] == 2 and summary["captions"] == 0
    assert summary["notes"] == [
        "1 images are not in the metadata and left out, such as 3.png",
        "columns that are not used: description (caption_column, label_column)",
    ]
    named = ("--set", "caption_column=description")
    [summary] = cli("data", "check", tmp_path, "--json", *named).records
    assert summary["captions"] == 2 and len(summary["notes"]) == 1


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"file_name,text\n1.png,caf\xe9\n", "metadata.csv line 2 is not UTF-8"),
        (b"file,text\n1.png,a\n", "metadata.csv has no column file_name, it has file, text"),
    ],
)
def test_metadata_that_are_none_are_told_by_line(tmp_path, cli, data, told):
    write(tmp_path / "1.png", encoded(picture(0)))
    (tmp_path / "metadata.csv").write_bytes(data)
    result = cli("data", "check", tmp_path)
    assert result.code == 4 and told in result.err and len(result.err.splitlines()) == 2


def test_many_problems_of_a_kind_are_not_listed_one_by_one(tmp_path, cli):
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_bytes(number * b"x")
    result = cli("data", "check", tmp_path)
    lines = [line for line in result.out.splitlines() if line.startswith("bad: ")]
    assert result.code == 4 and lines[-1] == "bad: 30" and lines[-2].startswith("bad: 10 more: ")
    assert len(lines) == 22
    assert len(cli("data", "check", tmp_path, "--json").records) == 31


def test_a_file_of_lines_may_be_named_by_its_language(tmp_path, cli):
    (tmp_path / "train.en").write_text("a\nb\n")
    result = cli("data", "check", tmp_path / "train.en")
    assert result.code == 2 and "gentool data check --text" in result.err
    result = cli("data", "check", tmp_path / "train.en", "--text")
    assert result.code == 0 and "records: 2" in result.out
