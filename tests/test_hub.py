"""Streamed data sets of the Hub, here of a local folder."""

import datasets
import pytest
from conftest import weights_of
from tars import loaded, places, png, tars

from gentool.data.config import TextData
from gentool.data.stream import open_stream
from gentool.data.text import open_texts
from gentool.errors import BadDataError


@pytest.fixture
def hub(tmp_path) -> str:
    """A data set of two parquet files in a folder."""
    feature = {"image": datasets.Image(), "text": datasets.Value("string")}
    features = datasets.Features(feature | {"label": datasets.ClassLabel(names=["cat", "dog"])})
    for i in range(2):
        rows = {
            "image": [{"bytes": png(10 * i + k), "path": None} for k in range(10)],
            "text": [f"number {10 * i + k}" for k in range(10)],
            "label": [k % 2 for k in range(10)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            tmp_path / "set" / f"train-{i}.parquet"
        )
    return f"hf:{tmp_path}/set"


def test_a_data_set_of_the_hub(hub, window, train, cli, tmp_path):
    source = tars(hub)
    assert (source.shards, source.labels) == (2, ("cat", "dog"))
    whole = places(open_stream(source, 1), 45)
    assert sorted(place[1:3] for place in whole[:20]) == [(s, i) for s in (0, 1) for i in range(10)]
    for cut in range(0, 45, 3):
        stream = open_stream(source, 1)
        stream.seek(first_cursor(source, cut))
        assert places(stream, 45 - cut) == whole[cut:]
    example = list(source.records(1, 7))[0].raw().example()
    assert (example.caption, example.label, int(example.image[0, 0, 0])) == ("number 17", 1, 17)
    assert tars(f"{hub}:train").fingerprint == source.fingerprint
    for spec, named in ((f"{hub}:test", "Bad split"), (f"{hub}:other:train", "'other' not found")):
        with pytest.raises(BadDataError, match=named):
            tars(spec)
    assert "labels: cat × 10, dog × 10" in cli("data", "check", hub).out
    run = tmp_path / "run"
    assert train("--data", hub, "--steps", 10).code == 0
    assert train("--data", hub, "--steps", 10, "--stop-at", 3, out=tmp_path / "cut").code == 0
    again = ("--data", hub, "--steps", 10, "--resume", "latest")
    assert train(*again, out=tmp_path / "cut").code == 0
    assert weights_of(run) == weights_of(tmp_path / "cut")


def first_cursor(source, n):
    stream = open_stream(source, 1)
    stream.next(n)
    return stream.cursor


def test_a_damaged_file_of_the_hub(hub, tmp_path):
    path = tmp_path / "set/train-1.parquet"
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    with pytest.raises(BadDataError, match="cannot be read"):
        loaded(hub, 20)
    examples, loader, told = loaded(hub, 20, on_error="skip")
    assert (
        len({e.key for e in examples}) == 10 and loader.skipped >= 1 and "cannot be read" in told[0]
    )


def test_a_column_may_have_a_dot_in_its_name(tmp_path):
    folder = tmp_path / "set"
    datasets.Dataset.from_dict({"meta.title": ["one", "two"]}).to_parquet(folder / "train.parquet")
    assert [text.text for text in open_texts(TextData(spec=(f"hf:{folder}",)))] == ["one", "two"]


def test_parts_of_a_data_set_are_known_by_their_files(hub, tmp_path):
    for part in ("train", "test"):
        rows = datasets.Dataset.from_dict({"text": [part] * 3})
        rows.to_parquet(tmp_path / "both" / f"{part}.parquet")
    spec = f"hf:{tmp_path}/both:train+test"
    before = open_texts(TextData(spec=(spec,)))
    assert before.size == 6
    datasets.Dataset.from_dict({"text": ["other"] * 3}).to_parquet(tmp_path / "both/test.parquet")
    assert open_texts(TextData(spec=(spec,))).fingerprint != before.fingerprint
