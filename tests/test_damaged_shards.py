"""Shards that are damaged in one way or another, and single records of theirs."""

import gzip
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from tars import loaded, png, record, shard

from gentool.data.config import ImageData
from gentool.data.holdout import training_texts
from gentool.errors import BadDataError


def broken(folder: Path, name: str) -> Path:
    """A shard of six records with the damage called `name`, in the fourth where it has a place."""
    members = [m for k in range(6) for m in record(f"k{k}", k)]
    path = folder / "x.tar"
    change = {
        "image": lambda: members.__setitem__(9, ("k3.png", png(3)[:50])),
        "no image": lambda: members.pop(9),
        "text": lambda: members.__setitem__(10, ("k3.txt", b"caf\xe9")),
        "json": lambda: members.__setitem__(11, ("k3.json", b'{"en": ')),
        "list": lambda: members.__setitem__(11, ("k3.json", b"[1]")),
        "no json": lambda: members.pop(11),
        "twice": lambda: members.__setitem__(slice(9, 12), record("k2", 3)),
        "again": lambda: members.insert(12, ("k1.png", png(1))),
        "two images": lambda: members.insert(10, ("k3.jpg", png(3))),
        "no records": members.clear,
    }
    change.get(name, lambda: None)()
    shard(path, members)
    data = path.read_bytes()
    if name == "cut":
        with tarfile.open(path) as tar:
            data = data[: tar.getmember("k3.png").offset_data + 20]
    elif name == "no end":
        with tarfile.open(path) as tar:
            data = data[: tar.getmember("k4.png").offset]
    elif name == "header":
        with tarfile.open(path) as tar:
            at = tar.getmember("k3.txt").offset
        data = data[:at] + b"\xff" * 300 + data[at + 300 :]
    elif name == "compressed":
        data = gzip.compress(data)
    else:
        data = {"empty": b"", "html": b"<html>404</html>" * 99}.get(name, data)
    path.write_bytes(data)
    return path


DAMAGES = [
    ("image", "x.tar k3: damaged image", 6),
    ("no image", "x.tar k3: no .png", 6),
    ("text", "x.tar k3: .txt is not UTF-8 at byte 3", 6),
    ("json", "x.tar k3: .json is invalid", 6),
    ("list", "x.tar k3: .json is not an object", 6),
    ("no json", "x.tar k3: no .json", 6),
    ("twice", "x.tar k2: the key occurs twice", 5),
    ("again", "x.tar k1: the key occurs twice", 7),
    ("two images", "x.tar k3: several images: .png, .jpg", 6),
    ("cut", "x.tar: cut off inside k3.png", 2),
    ("no end", "x.tar: damaged or cut off after k3.json", 3),
    ("header", "x.tar: damaged or cut off after k3.png", 3),
    ("no records", "x.tar: no records", 0),
    ("compressed", "x.tar: compressed", 0),
    ("empty", "x.tar: an empty file", 0),
    ("html", "x.tar: not a tar file", 0),
]


@pytest.mark.parametrize(("damage", "message", "places"), DAMAGES)
def test_damages(tmp_path, cli, damage, message, places):
    path = broken(tmp_path, damage)
    field = {"caption_column": "en"} if "json" in damage or damage == "list" else {}
    with pytest.raises(BadDataError) as caught:
        loaded(path, 20, **field)
    assert str(caught.value).startswith(message)

    settings = [a for k, v in field.items() for a in ("--set", f"{k}={v}")]
    result = cli("data", "check", path, *settings)
    assert result.code == 4 and f"bad: {message}" in result.out and "Traceback" not in result.err
    assert "\nbad: 1\n" in result.out

    # Skipped: the rest is used, each record as often as it must be to fill in, and it is counted.
    shard(tmp_path / "y.tar", record("y", 200))
    examples, loader, told = loaded(tmp_path / "[xy].tar", places + 1, on_error="skip", **field)
    assert "x.tar k3" not in {e.key for e in examples} or damage in ("twice", "again")
    assert "y.tar y" in {e.key for e in examples} and all(e.epoch == 0 for e in examples)
    examples, loader, told = loaded(tmp_path / "[xy].tar", 2 * places + 2, on_error="skip", **field)
    assert loader.skipped >= 1 and told[0].startswith(f"skipped: {message}")


def test_json_that_is_not_asked_for_may_be_broken(tmp_path):
    assert len(loaded(broken(tmp_path, "json"), 6)[0]) == 6


def test_a_stand_in_is_of_the_same_window_and_moves_nothing(tmp_path, window):
    members = [m for k in range(12) for m in record(f"k{k}", k)]
    whole = shard(tmp_path / "w.tar", members)
    members[15] = ("k5.png", b"?")
    bad = shard(tmp_path / "x.tar", members)
    keys = [[e.key.split()[1] for e in loaded(p, 24, on_error="skip")[0]] for p in (whole, bad)]
    assert keys[1] == ["k6" if key == "k5" else key for key in keys[0]]


@pytest.mark.parametrize(("damage", "captions"), [("cut", 2), ("header", 3), ("no json", 5)])
def test_captions_are_collected_up_to_where_a_shard_is_damaged(tmp_path, damage, captions):
    path = broken(tmp_path, damage)
    (tmp_path / "whole").mkdir()
    shard(tmp_path / "whole/y.tar", [m for k in range(6) for m in record(f"y{k}", k)])
    spec = (str(path), f"{tmp_path}/whole/y.tar")
    config = ImageData(spec=spec, image_size=4, caption_column="en", on_error="skip")
    found = list(training_texts(config, "both"))
    assert len(found) == captions + 5, "one is held out"
    with pytest.raises(BadDataError, match="x.tar"):
        list(training_texts(replace(config, on_error="stop"), "both"))


def test_a_shard_without_a_usable_record_has_stand_ins_of_others(tmp_path):
    shard(tmp_path / "a.tar", [("bad.png", b"?"), *record("bad")[1:]])
    shard(tmp_path / "b.tar", [m for k in range(5) for m in record(f"b{k}", k)])
    examples, loader, told = loaded(tmp_path / "[ab].tar", 12, on_error="skip")
    keys = [example.key for example in examples]
    assert len(keys) == 12 and sorted(keys[:6])[:2] == ["b.tar b0"] * 2 and loader.skipped == 2
    assert told == ["skipped: a.tar bad: not a PNG, JPEG, WEBP, BMP image"] * 2
    with pytest.raises(BadDataError, match="a.tar bad"):
        loaded(tmp_path / "[ab].tar", 12)
