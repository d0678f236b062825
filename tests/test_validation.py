"""Data that are validated on because they are named, `data.validation`, or that are held out."""

import tracemalloc

import numpy as np
import pytest
import torch
from conftest import fails, log_of
from PIL import Image

from gentool.data.config import ImageData, PairData, TextData
from gentool.data.holdout import (
    elsewhere,
    split_texts,
    text_train_and_validation,
    train_and_validation,
    training_texts,
)
from gentool.data.text import open_texts
from gentool.errors import BadDataError
from gentool.rng import generator
from gentool.teacher.distill import open_corpus


@pytest.fixture
def folders(tmp_path):
    """A folder of 24 dark pictures in two classes, one of 6 bright ones, and one of other ones."""
    rng = np.random.default_rng(0)
    for name, classes, n, brightness in (
        ("dark", ("a", "b"), 12, 30),
        ("bright", ("a", "b"), 3, 220),
        ("others", ("a", "c"), 1, 220),
    ):
        for label in classes:
            (tmp_path / name / label).mkdir(parents=True)
            for i in range(n):
                pixels = rng.normal(brightness, 5, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"{i}.png")
    return tmp_path


def test_pictures_to_validate_on(folders):
    config = ImageData(spec=(f"{folders}/dark",), validation=(f"{folders}/bright",), image_size=8)
    train, held_out = train_and_validation(config)
    assert (train.size, held_out.size) == (24, 6), "nothing else is held out"
    assert train[0].image.mean() < 60 and held_out[0].image.mean() > 180
    assert train.labels == held_out.labels == ("a", "b")


def test_texts_and_pairs_to_validate_on(tmp_path):
    (tmp_path / "train.txt").write_text("one\n\ntwo\nthree\n")
    (tmp_path / "dev.txt").write_text("four\n\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    spec, dev = (str(tmp_path / "train.txt"),), (str(tmp_path / "dev.txt"),)
    config = TextData(spec=spec, validation=dev)
    train, held_out = text_train_and_validation(config)
    assert [train[i].text for i in range(train.size)] == ["one", "two", "three"]
    assert [held_out[i].text for i in range(held_out.size)] == ["four"]
    assert list(training_texts(config, "both")) == ["one", "two", "three"]
    with pytest.raises(BadDataError, match="empty.txt: no text in it"):
        text_train_and_validation(TextData(spec=spec, validation=(str(tmp_path / "empty.txt"),)))

    for name, lines in {"s.en": "a\nb\n", "s.de": "A\nB\n", "d.en": "c\n", "d.de": "C\n"}.items():
        (tmp_path / name).write_text(lines)
    pairs = PairData(
        spec=(f"{tmp_path}/s.en,{tmp_path}/s.de",), validation=(f"{tmp_path}/d.en,{tmp_path}/d.de",)
    )
    train, held_out = text_train_and_validation(pairs)
    assert (train.size, held_out.size) == (2, 1)
    assert (held_out[0].source, held_out[0].text) == ("c", "C")


def test_unreadable_texts_to_validate_on_are_left_out_where_those_are_skipped(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"one\n\xff\ntwo\n")
    (tmp_path / "dev.txt").write_bytes(b"\xff\nfour\n\nfive\n")
    config = TextData((f"{tmp_path}/train.txt",), (f"{tmp_path}/dev.txt",), on_error="skip")
    train, held_out = text_train_and_validation(config)
    assert [held_out[i].text for i in range(held_out.size)] == ["four", "five"]
    assert (train.size, held_out.empty) == (3, 1), "the loader skips and counts those of training"
    with pytest.raises(BadDataError, match="dev.txt line 1: not UTF-8"):
        text_train_and_validation(TextData(validation=config.validation))
    (tmp_path / "dev.txt").write_bytes(b"\xff\n")
    with pytest.raises(BadDataError, match="no text in .*dev.txt"):
        text_train_and_validation(config)


def test_scenes_are_validated_on_their_test_split():
    _, held_out = train_and_validation(ImageData(language="zh", validation=("scenes",)))
    assert held_out.fingerprint == "scenes-1-test-zh"


def test_training_and_eval_know_the_data_to_validate_on(folders, train, cli):
    run = folders / "run"
    given = ("--data", folders / "dark", "--set", "data.image_size=8", "--steps", 4, "--set",
             "train.validate_every=4")  # fmt: skip
    named = ("--set", f"data.validation={folders}/bright")
    assert train(*given, *named, out=run).code == 0
    [record] = [record for record in log_of(run) if "val_loss" in record]
    assert record["val_examples"] == 6
    [figure] = cli("eval", "ddpm", "-c", run, "--metric", "loss", "--json").records
    assert (figure["n"], figure["split"]) == (6, "held out")
    resume = ("train", "ddpm", "--out", run, "--resume", "latest", "-q")
    fails(cli(*resume, "--set", "data.validation=[]"), 2, "data.validation is []")
    (folders / "bright").rename(folders / "moved")
    moved = ("--set", f"data.validation={folders}/moved", "--steps", 5)
    assert cli(*resume, *moved).code == 0
    (folders / "moved/a/0.png").unlink()
    fails(cli(*resume, "--steps", 6), 2, "or those have changed")

    wrong = ("--set", f"data.validation={folders}/others", "-q")
    fails(train(*given, *wrong, out=folders / "new"), 2, "has the classes ['a', 'c']")
    wrong = ("--set", f"data.validation={folders}/nothing", "-q")
    fails(train(*given, *wrong, out=folders / "new"), 3, "nothing")
    assert not (folders / "new").exists()


def test_other_data_have_columns_and_records_of_their_own(tmp_path):
    (tmp_path / "t.csv").write_text("text,kind\none,a\ntwo,b\n")
    (tmp_path / "dev.txt").write_text("three\n")
    config = TextData(
        spec=(f"{tmp_path}/t.csv",), text_column="text", attributes=("kind",),
        validation=(f"{tmp_path}/dev.txt",),
    )  # fmt: skip
    _, held_out = text_train_and_validation(config)
    assert held_out[0].text == "three"
    shards = ImageData(spec=("a.tar",), where=("width>=64",), validation=("photos",))
    assert elsewhere(shards, shards.validation).where == ()
    shards = ImageData(spec=("a.tar",), image_column="png", caption_column="de")
    assert elsewhere(shards, ("b.tar",)).caption_column == "de"
    table = ImageData(spec=("a.parquet",), image_column="png", caption_column="de")
    assert elsewhere(table, ("hf:b",)).image_column == "png"
    for config in (shards, table):
        other = elsewhere(config, ("photos",))
        assert (other.image_column, other.caption_column) == ("", "")


def test_a_source_of_several_lines_is_held_out_as_the_line_that_is_made_of_it(tmp_path):
    sources = [f"first {i}\nsecond" for i in range(60)]
    rows = "".join(f'"{source}",t{i}\n' for i, source in enumerate(sources))
    (tmp_path / "t.csv").write_text("source,target\n" + rows)
    (tmp_path / "s.txt").write_text("".join(f"first {i} second\n" for i in range(60)))
    (tmp_path / "t.txt").write_text("".join(f"t{i}\n" for i in range(60)))
    table = PairData(spec=(f"{tmp_path}/t.csv",), source_column="source", text_column="target")
    lines = PairData(spec=(f"{tmp_path}/s.txt,{tmp_path}/t.txt",))
    (_, one), (_, other) = (split_texts(open_texts(config), config) for config in (table, lines))
    assert one.indices.tolist() == other.indices.tolist() and len(one.indices) == 3


def test_distilling_holds_nothing_out_where_others_are_validated_on(tmp_path):
    for name, lines in {"s.en": "a\nb\n", "s.de": "A\nB\n", "d.en": "c\n", "d.de": "C\n"}.items():
        (tmp_path / name).write_text(lines)
    spec, dev = f"{tmp_path}/s.en,{tmp_path}/s.de", f"{tmp_path}/d.en,{tmp_path}/d.de"
    corpus = open_corpus(PairData(spec=(spec,), validation=(dev,)), None)
    assert (len(corpus.indices), corpus.held_out) == (2, set())
    assert len(open_corpus(PairData(spec=(spec,)), None).held_out) == 1


def test_what_is_held_out_is_told_in_few_bytes_a_record(monkeypatch, tmp_path):
    class Many:
        size, labels, fingerprint = 300_000, (), ""

    monkeypatch.setattr("gentool.data.holdout.open_images", lambda config: Many())
    tracemalloc.start()
    train, held_out = train_and_validation(ImageData())
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 100_000, "one tensor, 8 bytes a record, which is not traced"
    order = torch.randperm(Many.size, generator=generator("hold out")).tolist()
    assert list(held_out.indices) == sorted(order[:512])
    assert list(train.indices) == sorted(order[512:])
