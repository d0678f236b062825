"""`gentool decode ddpm`: a picture for each line, and edits that keep what they should."""

import io
import sys

import numpy as np
import pytest
from conftest import fails
from PIL import Image

SIDE = 8


@pytest.fixture
def decode(cli, class_run, monkeypatch):
    """`decode(b"ant\\nbee\\n", …)` gives the model of classes these lines."""

    def call(lines, *arguments):
        stream = io.TextIOWrapper(io.BytesIO(lines or b""), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stream)
        return cli("decode", "ddpm", "-c", class_run, *arguments)

    return call


@pytest.fixture
def picture(tmp_path):
    """A picture of the model's size, every value of 8 bits in it."""
    path = tmp_path / "in.png"
    pixels = np.random.default_rng(1).permutation(256)[: 3 * SIDE * SIDE]
    Image.fromarray(pixels.astype(np.uint8).reshape(SIDE, SIDE, 3)).save(path)
    return path


def pixels_of(path):
    return np.asarray(Image.open(path))


# --- lines


def test_a_picture_for_each_line_in_order(decode, cli, class_run, tmp_path):
    out = f"{tmp_path}/drawn/"
    result = decode(b"bee\n\nant\r\nbee\n", "--batch-size", 3, "--seed", 4, "--out", out)
    files = sorted((tmp_path / "drawn").iterdir())
    assert result.code == 0 and result.out.split() == [str(file) for file in files]
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(4)]
    for i, chosen in enumerate((["--class", "bee"], [], ["--class", "ant"], ["--class", "bee"])):
        alone = tmp_path / "alone.png"
        sample = ("sample", "ddpm", "-c", class_run, "--seed", 4, "--index", i, *chosen)
        assert cli(*sample, "--out", alone).code == 0
        assert np.abs(pixels_of(alone).astype(int) - pixels_of(files[i])).max() <= 1


def test_lines_come_from_a_file_as_from_standard_input(decode, tmp_path):
    (tmp_path / "lines.txt").write_bytes(b"ant\ncat")
    array = tmp_path / "x.npy"
    arrays = []
    for lines, where in [
        (None, [tmp_path / "lines.txt"]),
        (b"ant\ncat\n", ["-"]),
        (b"ant\ncat", []),
    ]:
        result = decode(lines, *where, "--out", array, "--json")
        assert [record["class"] for record in result.records] == ["ant", "cat"]
        arrays.append(np.load(array))
    assert arrays[0].shape == (2, 3, SIDE, SIDE)
    assert all(np.array_equal(arrays[0], other) for other in arrays)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_line_that_names_no_class_is_a_white_picture(decode, tmp_path, batch_size):
    array, whole = tmp_path / "x.npy", tmp_path / "whole.npy"
    lines = b"ant\nand\nbee\ndog\n"
    result = decode(lines, "--batch-size", batch_size, "--out", array, "--json")
    assert result.code == 4 and "2 of 4 lines" in result.err.splitlines()[-1]
    for message in ("line 2: no class 'and'", "did you mean 'ant'?", "line 4: no class 'dog'"):
        assert message in result.err
    assert [record["skipped"] for record in result.records] == [False, True, False, True]
    assert [record["place"] for record in result.records] == [0, 1, 2, 3]
    drawn = np.load(array)
    assert (drawn[[1, 3]] == 1).all() and not (drawn[[0, 2]] == 1).all()
    assert decode(b"ant\n\nbee\n", "--out", whole).code == 0
    np.testing.assert_allclose(drawn[[0, 2]], np.load(whole)[[0, 2]], atol=1e-3)
    result = decode(b"x\ny\n", "--out", array)
    assert result.code == 4 and (np.load(array) == 1).all() and len(np.load(array)) == 2


def test_on_error_stop_draws_nothing(decode, tmp_path):
    out = ("-q", "--out", tmp_path / "x.png")
    fails(decode(b"ant\nand\n", "--on-error", "stop", *out), 4, "line 2: no class 'and'", "'ant'?")
    fails(decode(b"ant\n", "--on-error", "never", *out), 2, "--on-error")
    assert not list(tmp_path.iterdir())


def test_lines_that_cannot_be_read(decode, tmp_path):
    out = ("-q", "--out", tmp_path / "x.png")
    fails(decode(b"ant\nb\xffe\n", "--on-error", "stop", *out), 4, "line 2", "UTF-8")
    fails(decode(b"", *out), 4, "no lines")
    fails(decode(None, tmp_path / "none.txt", *out), 3, "none.txt")
    fails(decode(b"ant\n", "--num", 2, *out), 2, "--num")
    fails(decode(b"ant\n", "--out", "-", "--json"), 2, "--json")
    fails(decode(b"ant\n", "--steps", 21, *out), 2, "--steps 21")
    assert not list(tmp_path.iterdir())


def test_a_model_without_classes_draws_for_empty_lines_alone(cli, tiny_run, tmp_path):
    (tmp_path / "lines.txt").write_text("\n\nant\n")
    command = ("decode", "ddpm", "-c", tiny_run, tmp_path / "lines.txt")
    result = cli(*command, "--out", tmp_path / "x.npy")
    told = "line 3: 'ant': this model reads no captions and knows no classes"
    assert result.code == 4 and told in result.err
    assert cli("sample", "ddpm", "-c", tiny_run, "-n", 2, "--out", tmp_path / "y.npy").code == 0
    drawn, sampled = np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(drawn[:2], sampled, atol=1e-3)
    assert (drawn[2] == 1).all()


def test_a_model_always_told_a_class_cannot_draw_an_empty_line(cli, class_recipe, tmp_path):
    run, more = tmp_path / "run", ("--set", "diffusion.drop_condition=0", "--steps", 1, "-q")
    assert cli("train", "ddpm", "--recipe", class_recipe, "--out", run, *more).code == 0
    (tmp_path / "lines.txt").write_text("ant\n\n")
    command = ("decode", "ddpm", "-c", run, tmp_path / "lines.txt", "--out", tmp_path / "x.npy")
    result = cli(*command)
    assert result.code == 4 and "line 2: this model was trained with a class" in result.err
    drawn = np.load(tmp_path / "x.npy")
    assert (drawn[1] == 1).all() and not (drawn[0] == 1).all()
    fails(cli("sample", "ddpm", "-c", run, "-n", 1, "-q"), 2, "drop_condition 0")


# --- edits


def test_an_edit_changes_the_box_and_nothing_else(decode, picture, tmp_path):
    before, out = pixels_of(picture), tmp_path / "each/"
    edit = ("--image", picture, "--box", "1,2,4,3", "--resample", 2, "--jump", 2)
    result = decode(None, *edit, "-n", 3, "--out", f"{out}/", "--json")
    assert result.code == 0 and [record["class"] for record in result.records] == [""] * 3
    drawn = np.stack([pixels_of(record["path"]) for record in result.records])
    hole = np.zeros((SIDE, SIDE), dtype=bool)
    hole[2:5, 1:5] = True  # y, x: four wide and three high
    assert drawn.shape == (3, SIDE, SIDE, 3) and np.array_equal(
        drawn[:, ~hole], [before[~hole]] * 3
    )
    for image in drawn:
        assert (image[hole] != before[hole]).any(axis=1).all()
    assert (drawn[0] != drawn[1]).any() and (drawn[1] != drawn[2]).any()
    again = decode(None, *edit, "--out", tmp_path / "again.png")
    assert again.code == 0 and np.array_equal(pixels_of(tmp_path / "again.png"), drawn[0])


def test_an_edit_takes_classes_on_lines(decode, picture, tmp_path):
    edit, array = ("--image", picture, "--box", "0,0,8,4"), tmp_path / "x.npy"
    result = decode(b"ant\ndog\nbee\n\n", "-", *edit, "--out", array, "--batch-size", 2)
    assert result.code == 4 and "line 2" in result.err
    drawn = np.load(array).transpose(0, 2, 3, 1)
    kept = pixels_of(picture)[4:] / np.float32(127.5) - 1
    for i in (0, 2, 3):
        np.testing.assert_allclose(drawn[i, 4:], kept, atol=1e-6)
    assert (drawn[1] == 1).all() and drawn[0, :4].std() > 0.01
    assert decode(None, *edit, "--out", array).code == 0
    assert np.abs(np.load(array)[0].transpose(1, 2, 0)[:4] - drawn[0, :4]).max() > 1e-3


def test_progress_counts_every_walk_of_an_edit(decode, picture, tmp_path, monkeypatch):
    from gentool.cli.console import console

    seen = []
    monkeypatch.setattr(console, "progress", lambda done, total, _: seen.append((done, total)))
    edit = ("--image", picture, "--box", "0,0,2,2", "--resample", 3, "--jump", 2, "--steps", 7)
    assert decode(None, *edit, "-n", 3, "-b", 2, "--out", tmp_path / "x.png").code == 0
    assert seen == [(i + 1, 2 * 7 * 3) for i in range(42)]


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "RGBA"])
def test_a_mask_is_the_hole_where_it_is_white(decode, picture, tmp_path, mode):
    mask = np.full((SIDE, SIDE), 127, dtype=np.uint8)
    mask[0, 3], mask[5:, 6:] = 128, 255
    mask = Image.fromarray(mask)
    if mode == "1":
        mask = mask.point(lambda value: 255 * (value > 127), "1")
    if mode == "RGBA":  # white all over, and only there opaque
        mask = Image.merge("RGBA", [mask.point(lambda _: 255)] * 3 + [mask])
    mask.convert(mode).save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    result = decode(None, "--image", picture, "--mask", tmp_path / "mask.png", "--out", out)
    assert result.code == 0, result.err
    changed = (pixels_of(out) != pixels_of(picture)).any(axis=2)
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[0, 3], expected[5:, 6:] = True, True
    assert np.array_equal(changed, expected)


def test_a_grey_picture_can_be_edited_by_a_model_of_colour(decode, tmp_path):
    Image.fromarray(np.full((SIDE, SIDE), 77, dtype=np.uint8)).save(tmp_path / "grey.png")
    edit = ("--image", tmp_path / "grey.png", "--box", "0,0,1,1")
    assert decode(None, *edit, "--out", tmp_path / "x.png").code == 0
    assert (pixels_of(tmp_path / "x.png")[1:] == 77).all()


@pytest.fixture
def files(picture, tmp_path):
    """Pictures that cannot be used."""
    black = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(black).save(tmp_path / "black.png")
    Image.fromarray(black[:, :5]).save(tmp_path / "thin.png")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:100])
    return tmp_path


@pytest.mark.parametrize(
    "edit, code, words",
    [
        ("--image in.png", 2, ["--image", "--box", "--mask"]),
        ("--box 0,0,2,2", 2, ["--image"]),
        ("--mask black.png", 2, ["--image"]),
        ("--image in.png --box 0,0,2,2 --mask black.png", 2, ["one of --box and --mask"]),
        ("--image in.png --box 0,0,2", 2, ["x,y,w,h", "'0,0,2'"]),
        ("--image in.png --box 0,0,2,2,2", 2, ["x,y,w,h"]),
        ("--image in.png --box 0,0,a,2", 2, ["x,y,w,h"]),
        ("--image in.png --box=-1,0,2,2", 2, ["-1,0,2,2", "8 × 8"]),
        ("--image in.png --box 0,0,0,2", 2, ["within"]),
        ("--image in.png --box 7,0,2,2", 2, ["within"]),
        ("--image in.png --box 0,7,2,2", 2, ["within"]),
        ("--image in.png --mask black.png", 2, ["black.png", "white"]),
        ("--image in.png --mask thin.png", 2, ["thin.png", "5 × 8", "8 × 8"]),
        ("--image thin.png --box 0,0,2,2", 2, ["thin.png", "5 × 8", "8 × 8"]),
        ("--image none.png --box 0,0,2,2", 3, ["none.png"]),
        ("--image in.png --mask none.png", 3, ["none.png"]),
        ("--image text.png --box 0,0,2,2", 4, ["text.png"]),
        ("--image cut.png --box 0,0,2,2", 4, ["cut.png"]),
        ("--image in.png --mask text.png", 4, ["text.png"]),
        ("--image in.png --box 0,0,2,2 -n 0", 2, ["num"]),
        ("--image in.png --box 0,0,2,2 -n 2 -", 2, ["--num"]),
        ("--image in.png --box 0,0,2,2 --jump 0", 2, ["jump"]),
        ("--image in.png --box 0,0,2,2 --resample 0", 2, ["resample"]),
        ("--image in.png --box 0,0,2,2 --out x.jpg", 2, ["x.jpg"]),
    ],
)
def test_wrong_edits_are_one_line(decode, files, monkeypatch, edit, code, words):
    monkeypatch.chdir(files)
    before = sorted(path.name for path in files.iterdir())
    fails(decode(None, "-q", *edit.split()), code, *words)
    assert sorted(path.name for path in files.iterdir()) == before


def test_a_picture_in_colour_does_not_fit_a_grey_model(cli, class_recipe, picture, tmp_path):
    run, more = tmp_path / "run", ("--set", "data.channels=1", "--steps", 1, "-q")
    assert cli("train", "ddpm", "--recipe", class_recipe, "--out", run, *more).code == 0
    command = ("decode", "ddpm", "-c", run, "--box", "0,0,8,7", "-q", "--out", tmp_path / "x.png")
    fails(cli(*command, "--image", picture), 2, "in.png", "grey")
    grey = tmp_path / "grey.png"
    Image.open(picture).convert("L").save(grey)
    assert cli(*command, "--image", grey).code == 0
    drawn = pixels_of(tmp_path / "x.png")
    assert drawn.shape == (SIDE, SIDE) and np.array_equal(drawn[7], pixels_of(grey)[7])
