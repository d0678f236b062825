"""Texts by their spec: what is read, what is carried along, and every way a file can be wrong."""

import csv
import json
import random
from pathlib import Path

import datasets
import pytest

from gentool.data.config import TextData
from gentool.data.holdout import text_train_and_validation
from gentool.data.scenes import SPLITS, Scenes, SceneTexts, attributes, parse_caption
from gentool.data.source import Subset
from gentool.data.text import Text, open_texts
from gentool.errors import BadDataError, GentoolError, NotFoundError, UsageError
from gentool.settings import build

DATA = Path(__file__).parents[2] / "shared/data"


def texts(*specs, **config) -> list[Text]:
    source = open_texts(build(TextData, {"spec": list(map(str, specs)), **config}))
    return [source[index] for index in range(source.size)]


def plain(*specs, **config) -> list[str]:
    return [text.text for text in texts(*specs, **config)]


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# What is read


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_lines(tmp_path, start, end):
    path = file(tmp_path, "a.txt", start + end.join(["eins", "  ", "zwei\u2028drei ", "", "vier"]))
    assert [(text.key, text.text) for text in texts(path)] == [
        ("a.txt line 1", "eins"),
        ("a.txt line 2", ""),
        ("a.txt line 3", "zwei\u2028drei"),
        ("a.txt line 4", ""),
        ("a.txt line 5", "vier"),
    ]


@pytest.mark.parametrize("suffix, separator", [("csv", ","), ("tsv", "\t")])
def test_tables(tmp_path, suffix, separator):
    rows = [
        ["label", "text", "stars"],
        ["a", 'two\r\nlines, "quoted"\tand tabbed', "5"],
        ["b", "", ""],
        ["", "Käse", " 4 "],
    ]
    path = tmp_path / f"a.{suffix}"
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=separator).writerows(rows)
    found = texts(path, attributes=["label", "stars"])
    assert [text.key for text in found] == [f"{path.name} line {n}" for n in (2, 4, 5)]
    assert [text.text for text in found] == [rows[1][1], "", "Käse"]
    assert [text.attributes for text in found] == [
        {"label": ("a",), "stars": ("5",)},
        {"label": ("b",)},
        {"stars": ("4",)},
    ]
    assert plain(path, text_column="label") == ["a", "b", ""]


def test_json_lines(tmp_path):
    records = [
        {"text": "one", "meta": {"tags": ["x", "y"], "ok": True, "a.b": 1}},
        {"text": None, "meta": {}},
        {"text": "three", "n": 2.5},
    ]
    lines = [json.dumps(record) + "\n" for record in records]
    path = file(tmp_path, "a.jsonl", "\n".join(lines))
    found = texts(path, attributes=["meta.tags", "meta.ok", "meta.tags.1", "n"])
    assert [(text.key, text.text) for text in found if text.text] == [
        ("a.jsonl line 1", "one"),
        ("a.jsonl line 5", "three"),
    ]
    assert found[0].attributes == {
        "meta.tags": ("x", "y"), "meta.ok": ("true",), "meta.tags.1": ("y",)
    }  # fmt: skip
    assert (found[2].attributes, found[4].attributes) == ({}, {"n": ("2.5",)})
    path = file(tmp_path, "b.jsonl", '{"said": {"by": ["me", {"en": "hello"}]}}\n')
    assert plain(path, text_column="said.by.1.en") == ["hello"]


def test_the_attributes_of_e2e(tmp_path):
    path = file(
        tmp_path,
        "e2e.csv",
        'mr,ref\n"name[The Eagle], priceRange[£20-25], near[Café, Brazil], near[A]",The Eagle.\n'
        ",Nothing.\n",
    )
    first, second = texts(path, text_column="ref", mr_column="mr")
    assert first.attributes == {
        "name": ("The Eagle",), "priceRange": ("£20-25",), "near": ("Café, Brazil", "A")
    }  # fmt: skip
    assert second == Text("e2e.csv line 3", "Nothing.", {})


def test_the_only_column_is_the_text_and_several_files_are_one_source(tmp_path):
    one = file(tmp_path, "one.csv", "body\nb1\nb2\n")
    two = file(tmp_path, "two.jsonl", '{"n": 1, "body": "b3"}\n')
    three = file(tmp_path, "three.txt", "b4")
    assert plain(one, two, three) == ["b1", "b2", "b3", "b4"]


def test_a_data_set_of_the_hub(tmp_path):
    rows = {"text": ["a", "b", None], "stars": [1, 2, 3], "translation": [{"de": "A"}] * 3}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "set/train.parquet")
    spec = f"hf:{tmp_path}/set"
    found = texts(spec, attributes=["stars"])
    assert [(text.text, text.attributes) for text in found] == [
        ("a", {"stars": ("1",)}), ("b", {"stars": ("2",)}), ("", {"stars": ("3",)})
    ]  # fmt: skip
    assert found[1].key == f"{spec} row 1"
    assert plain(f"{spec}:train", text_column="translation.de") == ["A"] * 3
    for wrong, config, named in (
        (f"{spec}:test", {}, "Unknown split|Bad split"),
        (spec, {"text_column": "txet"}, "no column 'txet'"),
        (spec, {"text_column": "stars"}, "holds int, not text"),
    ):
        with pytest.raises(BadDataError, match=named):
            texts(wrong, **config)


@pytest.mark.skipif(not DATA.exists(), reason="the shared data are not here")
@pytest.mark.parametrize("name", ["captions/valid.txt", "e2e/testset_w_refs.csv"])
def test_random_access_is_sequential_reading(name):
    path = DATA / name
    with path.open(encoding="utf-8", newline="") as stream:
        if path.suffix == ".txt":
            expected, config = [line.strip() for line in stream.read().split("\n")[:-1]], {}
        else:
            expected = [row["ref"].strip() for row in csv.DictReader(stream)]
            config = {"text_column": "ref", "mr_column": "mr"}
    source = open_texts(build(TextData, {"spec": str(path), **config}))
    order = list(range(source.size))
    random.Random(0).shuffle(order)
    assert len(expected) == source.size > 4000
    assert {index: source[index].text for index in order} == dict(enumerate(expected))
    if "mr_column" in config:
        assert all(source[index].attributes["name"] for index in order)


def test_the_index_of_a_large_file_is_small(tmp_path):
    """Nothing is held but where each line begins: 12 bytes a line, whatever its length."""
    path = file(tmp_path, "large.txt", b"".join(b"%d\n" % n for n in range(1_000_000)))
    source = open_texts(TextData(spec=(str(path),)))
    arrays = [value for value in vars(source).values() if hasattr(value, "itemsize")]
    assert sum(a.itemsize * len(a) for a in arrays) <= 12 * 1_000_000 + 8
    others = [value for value in vars(source).values() if not hasattr(value, "itemsize")]
    assert not any(isinstance(value, list | dict | bytes) and value for value in others)
    assert [source[n].text for n in (999_999, 0, 123_456)] == ["999999", "0", "123456"]


def test_the_fingerprint_is_of_names_ends_and_columns(tmp_path):
    def fingerprint(content="a,b\n1,2\n", name="x.csv", folder="f", **config):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = file(tmp_path / folder, name, content)
        config = {"text_column": "a"} | config
        return open_texts(build(TextData, {"spec": str(path), **config})).fingerprint

    assert fingerprint() == fingerprint(folder="g")
    others = [
        fingerprint("a,b\n1,3\n"), fingerprint(name="y.csv"), fingerprint(text_column="b"),
        fingerprint(attributes=["b"]), fingerprint(mr_column="b"), fingerprint(),
    ]  # fmt: skip
    assert len(set(others)) == 6


# Pairs


def pairs(*specs, **config) -> list[tuple]:
    return [(text.key, text.source, text.text) for text in texts(*specs, **config)]


def test_pairs_of_parallel_lines(tmp_path):
    en, de = file(tmp_path, "a.en", "one\n\nthree\n"), file(tmp_path, "a.de", "eins\nzwei\ndrei")
    assert pairs(f"{en},{de}") == [
        ("a.en,a.de line 1", "one", "eins"),
        ("a.en,a.de line 2", "", "zwei"),
        ("a.en,a.de line 3", "three", "drei"),
    ]
    assert [text.empty for text in texts(f"{en},{de}")] == [False, True, False]
    file(tmp_path, "a.de", b"eins\nzwei\n\xff\n")
    with pytest.raises(BadDataError, match="^a.de line 3: not UTF-8"):
        texts(f"{en},{de}")
    file(tmp_path, "a.de", b"eins\n")
    with pytest.raises(BadDataError, match="a.en has 3 lines, .*a.de has 1: not parallel"):
        texts(f"{en},{de}")
    with pytest.raises(NotFoundError, match="no file .*b.de"):
        texts(f"{en},{tmp_path}/b.de")


def test_pairs_of_columns(tmp_path):
    path = file(tmp_path, "a.tsv", "en\tde\none\teins\n")
    assert pairs(path, source_column="en") == [("a.tsv line 2", "one", "eins")]
    path = file(tmp_path, "a.jsonl", '{"t": {"en": "one", "de": null}}')
    (text,) = texts(path, source_column="t.de", text_column="t.en")
    assert (text.source, text.text, text.empty) == ("", "one", True)
    with pytest.raises(BadDataError, match="a.jsonl line 1: no 't.fr' in it"):
        texts(path, source_column="t.fr", text_column="t.en")


@pytest.mark.skipif(not DATA.exists(), reason="the shared data are not here")
def test_pairs_of_multi30k():
    names = [DATA / "multi30k" / f"val.{language}" for language in ("en", "de")]
    en, de = (path.read_text().split("\n")[:-1] for path in names)
    found = pairs(",".join(map(str, names)))
    assert [pair[1:] for pair in found] == [
        (a.strip(), b.strip()) for a, b in zip(en, de, strict=True)
    ]


def test_pairs_of_scenes_say_one_thing_in_two_languages():
    into, back = SceneTexts("test", "en-zh"), SceneTexts("test", "zh-en")
    for text in (source[index] for source in (into, back) for index in range(50)):
        told = parse_caption(text.text)
        assert told == parse_caption(text.source) is not None
        assert attributes(told) == text.attributes
        assert text.text.isascii() != text.source.isascii()
    assert into[0].source.isascii() and back[0].text.isascii()
    assert into.fingerprint != back.fingerprint
    for wrong in ("en-de", "de-en", "both-en", "en-en-zh"):
        with pytest.raises(UsageError, match="unknown language"):
            SceneTexts("test", wrong)


# Scenes


@pytest.mark.parametrize("language", ["en", "zh", "both"])
def test_captions_of_scenes_carry_what_is_true_of_them(language):
    for split in SPLITS:
        source, pictures = SceneTexts(split, language), Scenes(split, language)
        for index in range(60):
            text = source[index]
            assert (text.key, text.text) == (pictures[index].key, pictures[index].caption)
            told = parse_caption(text.text)
            assert told is not None and text.attributes == attributes(told)
            shapes = text.attributes["shape"]
            assert set(shapes) == {thing.shape for thing in told.things}
            assert ("place" in text.attributes) == (len(told.things) == 1)
            assert text.attributes.get("relation", ("left of",))[0] in ("left of", "above")


# What is wrong

WRONG = [
    ("a.txt", b"fine\n\xff\n", {}, 4, "a.txt line 2: not UTF-8 at byte 1"),
    ("a.txt", "ä\n".encode("utf-16"), {}, 4, "a.txt line 1: not UTF-8"),
    ("a.txt", b"", {}, 4, "no text in it"),
    ("a.txt", b"\n \n", {}, 4, "no text in it"),
    ("a.txt", b"fine\n" + b"x" * 1_100_000, {}, 4, "a.txt line 2: longer than 1 MiB"),
    ("a.txt", b"fine", {"text_column": "x"}, 4, "plain text and has no column 'x'"),
    ("a.txt", b"fine", {"language": "zh"}, 2, "is for scenes"),
    ("a.txt", b"fine", {"split": "test"}, 2, "is for scenes alone"),
    ("a.csv", b"text,x\n", {}, 4, "no text in it"),
    ("a.csv", b"x,y\n1,2\n", {}, 4, "which column is the text? There are: x, y"),
    ("a.csv", b"x,y\n1,2\n", {"text_column": "z"}, 4, "no column 'z'"),
    ("a.csv", b"text,y\n1,2\n", {"attributes": ["w"]}, 4, "no column 'w'"),
    ("a.csv", b"text,text\n1,2\n", {}, 4, "two columns have one name"),
    ("a.csv", b"text,y\n1,2\n\n1\n", {}, 4, "a.csv line 4: 1 values for 2 columns"),
    ("a.csv", b'text,y\n1,2\n"a"b,2\n3,4\n', {}, 4, "a.csv line 3: "),
    ("a.csv", b'text,y\n1,2\n"open,2\n3,4\n', {}, 4, "a.csv line 3: unexpected end of data"),
    ("a.csv", b"text,y\n1,2\n\xe4,2\n", {}, 4, "a.csv line 3: not UTF-8"),
    ("a.csv", b"text,m\n1,name[a]\n2,name[b\n", {"mr_column": "m"}, 4, "line 3: 'm' is not name["),
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', {}, 4, "a.jsonl line 2: not JSON: "),
    ("a.jsonl", b'{"text": "a"}\n["text"]\n', {}, 4, "a.jsonl line 2: not a JSON object"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', {}, 4, "line 2: no 'text' in it, only txt"),
    ("a.jsonl", b'{"text": "a"}\n{"text": 7}\n', {}, 4, "line 2: 'text' holds int, not text"),
    ("a.jsonl", b'{"text": "a", "m": {"n": 1}}\n', {"attributes": ["m"]}, 4, "'m' holds an object"),
    ("a.jsonl", b'{"a": "1", "b": "2"}\n', {}, 4, "which column is the text? There are: a, b"),
    ("a.jsonl", b"[" * 100_000 + b"\n", {}, 4, "a.jsonl line 1: not JSON"),
    ("a.pdf", b"fine", {}, 2, "is not a kind of text data"),
]


@pytest.mark.parametrize("name, content, config, code, message", WRONG)
def test_what_is_wrong_is_named(tmp_path, name, content, config, code, message):
    path = file(tmp_path, name, content)
    with pytest.raises(GentoolError) as caught:
        texts(path, **config)
    assert caught.value.exit_code == code and message in str(caught.value)


def test_other_specs_that_are_no_texts(tmp_path):
    for spec, error, message in (
        (tmp_path, UsageError, "is a folder, texts are in files"),
        (tmp_path / "none.txt", NotFoundError, "no file"),
        (tmp_path / "none.en", NotFoundError, "no file"),
        (f"hf:{tmp_path}/none", NotFoundError, "none"),
    ):
        with pytest.raises(error, match=message):
            texts(spec)
    with pytest.raises(UsageError, match="scenes have no columns"):
        TextData(attributes=("shape",))


def test_a_bad_record_hides_no_other(tmp_path):
    path = file(tmp_path, "a.csv", b'text,y\n1,2\n"a"b,2\nsound,4\n\xff,4\nlast,6\n')
    source = open_texts(TextData(spec=(str(path),)))
    assert source.size == 5
    assert [Subset(source, [0, 2, 4])[i].text for i in range(3)] == ["1", "sound", "last"]


# The commands


def test_check_counts(cli, tmp_path):
    path = file(
        tmp_path, "a.csv", b"text,kind\na b c d,x\n\n,y\na b c d,\n\xff,x\na b,x\n"
    )  # fmt: skip
    result = cli("data", "check", path, "--json", "--set", "attributes=kind")
    bad, summary = result.records
    assert result.code == 4 and "1 of 6 records cannot be used" in result.err
    assert bad == {"bad": "a.csv line 6", "reason": "not UTF-8 at byte 1"}
    del summary["fingerprint"]
    assert summary == {
        "records": 6, "bad": 1, "empty": 2, "duplicates": 1, "longest_characters": 7,
        "attributes": {"kind": {"x": 2}},
    }  # fmt: skip
    assert "attribute kind: x × 2" in cli("data", "check", path, "--set", "attributes=kind").out
    assert cli("data", "check", "scenes", "--text", "-n", 20).code == 0
    assert "--text" in cli("data", "check", "scenes", "--tokenizer", tmp_path).err


def test_check_counts_what_is_too_long(cli, tmp_path):
    from gentool.tokenizers import train

    path = file(tmp_path, "a.txt", "a b c d\na b\n")
    train("words", ["a b c d"]).save(tmp_path / "tokens")
    options = ("--tokenizer", tmp_path / "tokens", "--set", "length=5", "--json")
    result = cli("data", "check", path, *options)
    assert (result.code, result.records[-1]["too_long"]) == (0, 1)


def test_show_prints(cli, tmp_path):
    path = file(tmp_path, "a.tsv", "text\tkind\none\x1b[31m\tx\ntwo\ty\nthree\t\n")
    result = cli("data", "show", path, "-n", 9, "--start", 1, "--set", "attributes=kind")
    assert (result.code, result.out) == (0, "1  two  kind=y\n2  three\n")
    assert cli("data", "show", path, "-n", 1).out == "0  one [31m\n"
    assert cli("data", "show", path, "--start", 3).code == 2
    shown = cli("data", "show", "scenes", "--text", "-n", 1, "--set", "language=zh").out
    assert not shown.isascii() and "shape=circle" in shown


def test_a_lone_surrogate_is_told_as_a_character_that_is_none(tmp_path):
    path = file(tmp_path, "a.jsonl", '{"text": "cut \\ud83d"}\n{"text": "whole \\ud83d\\ude00"}\n')
    train, held_out = text_train_and_validation(TextData(spec=(str(path),)))
    found = {source[i].text for source in (train, held_out) for i in range(source.size)}
    assert found == {"cut \ufffd", "whole \U0001f600"}
