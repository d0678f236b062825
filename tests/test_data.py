"""Image data: configuration, sources, checking, contact sheets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from images import classes, encoded, picture, write
from PIL import Image

from gentool import render
from gentool.data.check import Report, scan
from gentool.data.config import ImageData
from gentool.data.images import open_images
from gentool.data.sheet import contact_sheet, describe
from gentool.data.source import Example
from gentool.errors import BadDataError, MachineError, NotFoundError, UsageError
from gentool.pixels import to_uint8
from gentool.settings import build

CIFAR = Path(__file__).parents[2] / "shared/data/cifar10/train.parquet"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of `datasets` that is the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def parquet(path: Path, columns: dict) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


# Configuration


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"split": "tst"}, "did you mean 'test'?"),
        ({"crop": "middle"}, "crop"),
        ({"on_error": "ignore"}, "on_error"),
        ({"channels": 4}, "channels"),
        ({"image_size": 0}, "image_size"),
        ({"workers": 0}, "workers"),
        ({"spec": ""}, "spec"),
        ({"spec": "photos", "split": "test"}, "split"),
    ],
)
def test_a_bad_value_is_named(values, named):
    with pytest.raises(UsageError) as caught:
        build(ImageData, values)
    assert named in f"{caught.value} {caught.value.hint}"


# Sources


def test_folder_of_classes(tmp_path):
    source = open_images(ImageData(spec=(str(classes(tmp_path / "a[1] b")),)))
    assert (source.size, source.labels) == (6, ("cat", "dog"))
    example = source[4]
    assert (example.key, example.label, example.caption) == ("dog/1.png", 1, "")
    assert np.array_equal(example.image, picture(4))


def test_folder_with_captions(tmp_path):
    classes(tmp_path)
    rows = [{"file_name": "dog/1.png", "text": "a dog"}, {"file_name": "no.png", "text": "gone"}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_images(ImageData(spec=(str(tmp_path),)))
    assert (source.size, source[0].key, source[0].caption) == (2, "dog/1.png", "a dog")
    with pytest.raises(BadDataError, match="^no.png: no such file or directory"):
        source[1]
    listed = (tmp_path / "metadata.jsonl").read_text()
    (tmp_path / "metadata.jsonl").write_text(listed.replace("a dog", "my pet"))
    edited = open_images(ImageData(spec=(str(tmp_path),)))
    assert edited[0].caption == "my pet"
    assert edited.fingerprint != source.fingerprint


def test_metadata_cannot_name_files_outside(tmp_path):
    classes(tmp_path / "in")
    write(tmp_path / "secret.png", encoded(picture(0)))
    (tmp_path / "in/metadata.csv").write_text("file_name,text\n../secret.png,x\n")
    with pytest.raises(BadDataError, match="Invalid metadata file_name"):
        open_images(ImageData(spec=(str(tmp_path / "in"),)))


def test_folder_is_the_same_elsewhere_and_changes_are_noticed(tmp_path):
    def fingerprint(folder):
        return open_images(ImageData(spec=(str(folder),))).fingerprint

    first, second = classes(tmp_path / "first"), classes(tmp_path / "second")
    before = fingerprint(first)
    assert before == fingerprint(second)
    write(first / "cat/0.png", encoded(picture(99, 31)))
    after = open_images(ImageData(spec=(str(first),)))
    assert after.fingerprint != before
    assert np.array_equal(after[0].image, picture(99, 31))
    (first / "cat/1.png").unlink()
    assert open_images(ImageData(spec=(str(first),))).size == 5


def test_folders_are_reached_by_links(tmp_path):
    plain = classes(tmp_path / "plain")
    linked = tmp_path / "linked"
    linked.mkdir()
    (plain / "cat").rename(tmp_path / "cats")
    (linked / "cat").symlink_to(tmp_path / "cats")
    (linked / "dog").symlink_to(plain / "dog")
    (tmp_path / "cats/round").symlink_to(tmp_path / "cats")
    (tmp_path / "cats/back").symlink_to(linked)
    source = open_images(ImageData(spec=(str(linked),)))
    assert (source.size, source.labels) == (6, ("cat", "dog"))
    assert [source[i].key for i in (0, 5)] == ["cat/0.png", "dog/2.png"]
    (linked / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(BadDataError, match="linked/gone is a link to nothing"):
        open_images(ImageData(spec=(str(linked),)))


def test_a_closed_folder_of_a_folder_is_told(tmp_path, monkeypatch):
    classes(tmp_path)
    scandir = os.scandir

    def refused(top):
        if str(top).endswith(("dog", "lost+found")):
            raise PermissionError(13, "Permission denied", str(top))
        return scandir(top)

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(PermissionError, match="dog"):
        open_images(ImageData(spec=(str(tmp_path),)))
    (tmp_path / "dog").rename(tmp_path / "lost+found")
    assert open_images(ImageData(spec=(str(tmp_path),))).size == 3


def test_parquet(tmp_path):
    data = [encoded(picture(i)) for i in range(4)]
    captions = ["one", None, "three", "four"]
    columns = {
        "id": [b"x"] * 4,
        "photo": [{"bytes": d, "path": "/etc/passwd"} for d in data],
        "text": captions,
        "label": [7, 3, None, 7],
    }
    parquet(tmp_path / "a.parquet", columns)
    parquet(tmp_path / "b.parquet", columns)
    source = open_images(ImageData(spec=(str(tmp_path / "[ab].parquet"),)))
    assert (source.size, source.labels) == (8, ("3", "7"))
    assert [source[i].label for i in range(4)] == [1, 0, None, 1]
    assert [source[i].caption for i in range(4)] == ["one", "", "three", "four"]
    assert source[6].key == "b.parquet row 2"
    assert np.array_equal(source[6].image, picture(2))

    one = open_images(ImageData(spec=(str(tmp_path / "a.parquet"),)))
    (tmp_path / "away").mkdir()
    moved = parquet(tmp_path / "away/c.parquet", columns)
    assert (
        one.fingerprint == open_images(ImageData(spec=(moved,))).fingerprint != source.fingerprint
    )


def test_parquet_of_binary_and_what_it_cannot_be(tmp_path):
    path = tmp_path / "x.parquet"
    data = encoded(picture(1))
    spec = parquet(path, {"jpg": [data, None], "kind": ["b", "a"], "n": [1.5, 2.5]})
    source = open_images(ImageData(spec=(spec,), label_column="kind"))
    assert (source.labels, source[0].label) == (("a", "b"), 1)
    with pytest.raises(BadDataError, match="^x.parquet row 1: no image bytes"):
        source[1]
    with pytest.raises(BadDataError, match="no column 'kin'") as caught:
        open_images(ImageData(spec=(spec,), label_column="kin"))
    assert caught.value.hint == "did you mean 'kind'?"
    with pytest.raises(BadDataError, match="'n' does not hold labels"):
        open_images(ImageData(spec=(spec,), label_column="n"))
    with pytest.raises(BadDataError, match="'n' does not hold images"):
        open_images(ImageData(spec=(spec,), image_column="n"))
    parquet(path, {"a": [data], "b": [data]})
    with pytest.raises(BadDataError, match="several columns could be the image: a, b"):
        open_images(ImageData(spec=(spec,)))
    parquet(path, {"kind": ["b"], "n": [1]})
    with pytest.raises(BadDataError, match="columns are kind, n"):
        open_images(ImageData(spec=(spec,)))
    parquet(path, {"jpg": pa.array([], pa.binary())})
    with pytest.raises(BadDataError, match="no rows"):
        open_images(ImageData(spec=(spec,)))
    path.write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(BadDataError, match="not a readable parquet file"):
        open_images(ImageData(spec=(spec,)))


def test_parquet_with_a_damaged_page(tmp_path, capfd):
    spec = parquet(tmp_path / "x.parquet", {"jpg": [encoded(picture(i)) for i in range(9)]})
    data = bytearray(Path(spec).read_bytes())
    data[4:200] = bytes(196)
    Path(spec).write_bytes(data)
    with pytest.raises(BadDataError, match="cannot be read"):
        open_images(ImageData(spec=(spec,)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not CIFAR.exists(), reason="no CIFAR-10 here")
def test_cifar_quietly():
    code = (
        "from gentool.data.config import ImageData; from gentool.data.images import open_images\n"
        "s = open_images(ImageData(spec=(__import__('sys').argv[1],))); e = s[49_999]\n"
        "print(s.size, s.labels[:2], e.image.shape, e.label, e.key)"
    )
    command = [sys.executable, "-c", code, str(CIFAR)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("50000 ('airplane', 'automobile') (32, 32, 3)")
    assert done.stdout.endswith("train.parquet row 49999\n")


def test_what_is_not_image_data(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(BadDataError, match="no images in") as caught:
        open_images(ImageData(spec=(str(tmp_path),)))
    assert ".png" in caught.value.hint
    for spec in ("x.jsonl", str(tmp_path / "notes.txt")):
        with pytest.raises(UsageError, match="not a kind of image data"):
            open_images(ImageData(spec=(spec,)))
    for spec in ("nowhere", "nowhere.parquet"):
        with pytest.raises(NotFoundError):
            open_images(ImageData(spec=(spec,)))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    classes(tmp_path / "images")
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file/cache")
    with pytest.raises(MachineError, match="cannot write the data cache"):
        open_images(ImageData(spec=(str(tmp_path / "images"),)))


def test_scenes():
    source = open_images(ImageData(split="test"))
    assert source.size is None
    assert source[3].image.shape == (32, 32, 3)
    assert source.fingerprint != open_images(ImageData()).fingerprint


# Looking


def test_check_finds_what_is_wrong(tmp_path):
    classes(tmp_path)
    whole = encoded(picture(0))
    write(tmp_path / "dog/8: cut.png", whole[:-200])
    write(tmp_path / "dog/9.png", encoded(picture(0)[:20, :, 0]))
    write(tmp_path / "dog/a.png", encoded(Image.new("RGBA", (40, 40))))
    config = ImageData(spec=(str(tmp_path),))
    report = Report()
    problems = list(scan(open_images(config), config, report))
    assert report.bad == problems and report.n == 9
    [problem] = problems
    assert problem.key == "dog/8: cut.png" and problem.reason.startswith("damaged image")
    assert report.sizes == {"32x32": 6, "32x20": 1, "40x40": 1}
    assert report.modes == {"RGB": 6, "L": 1, "RGBA": 1}
    assert report.labels == {"cat": 3, "dog": 5}
    notes = "\n".join(report.notes)
    for part in ("1 of 8 images are grey", "1 images have transp", "1 images are smaller than 32"):
        assert part in notes


def test_check_of_scenes_looks_at_the_first_few():
    config, report = ImageData(image_size=64), Report()
    assert list(scan(open_images(config), config, report, num=5)) == []
    assert (report.n, report.sizes, report.small) == (5, {"32x32": 5}, 5)


def test_contact_sheet_and_lines():
    examples = [Example("k", picture(0), "a \x1b[31mdog", 1), Example("k", picture(1, 300, 100))]
    sheet = contact_sheet([17, 18], examples, columns=2)
    assert sheet.size == (2 * 132 + 4, 14 + 132 + 4)
    enlarged = np.asarray(sheet)[18 : 18 + 128, 4 : 4 + 128]
    assert np.array_equal(enlarged, picture(0).repeat(4, 0).repeat(4, 1))
    assert describe(17, examples[0], ("cat", "dog")) == "17  dog  a  [31mdog"


def test_render():
    pixels = np.stack([picture(i) for i in range(5)])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    assert np.array_equal(to_uint8(x), pixels)
    assert to_uint8(torch.tensor([-9.0, 9.0, 0.0]).reshape(1, 1, 1, 3)).ravel().tolist() == [
        0,
        255,
        128,
    ]
    sheet = np.asarray(render.grid(pixels))
    assert sheet.shape == (2 * 34 - 2, 3 * 34 - 2, 3)
    assert np.array_equal(sheet[34:, 34:66], pixels[4])
    assert render.grid(pixels[:, :, :, :1], columns=5).mode == "L"
