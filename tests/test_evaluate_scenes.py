"""What `gentool eval scenes` says of pictures and their captions, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from drawn import draws, two_things

from gentool.data.scenes import Scenes, parse_caption
from gentool.evaluate.attributes import attribute_figures
from gentool.evaluate.scenes import Verdict

N = 24


@pytest.fixture(scope="module")
def truth():
    """Rendered scenes of the test split and their captions."""
    scenes = Scenes("test")
    return [scenes[i] for i in range(N)]


@pytest.fixture
def files(truth, tmp_path):
    """The scenes as an array and a file of captions."""
    images = np.stack([example.image for example in truth]).astype(np.float32)
    np.save(tmp_path / "x.npy", images.transpose(0, 3, 1, 2) / 127.5 - 1)
    text = "".join(example.caption + "\n" for example in truth)
    (tmp_path / "captions.txt").write_text(text, encoding="utf-8")
    return tmp_path / "x.npy", tmp_path / "captions.txt"


@pytest.fixture
def figures(cli):
    """`figures("--images", x)`: metric -> value."""

    def call(*arguments):
        result = cli("eval", "scenes", "--json", *arguments)
        assert result.code == 0, result.err
        return {record["metric"]: record["value"] for record in result.records}

    return call


def test_true_renders_score_one(figures, files):
    images, captions = files
    values = figures("--images", images)
    assert values["scene_validity"] == 1 and values["scene_split[test]"] == 1
    assert values["scene_share_min"] is not None
    values = figures("--images", images, "--captions", captions)
    assert values["scene_accuracy"] == 1 and values["scene_validity"] == 1


def test_each_picture_is_judged(cli, files):
    images, captions = files
    lines = captions.read_text(encoding="utf-8").splitlines()
    lines[2], lines[3] = lines[3], lines[2]
    captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ("eval", "scenes", "--images", images, "--captions", captions)
    records = {record["metric"]: record for record in cli(*command, "--json").records}
    right = [records[f"scene_right[{i}]"]["value"] for i in range(N)]
    assert right == [0.0 if i in (2, 3) else 1.0 for i in range(N)]
    assert records["scene_accuracy"]["value"] == (N - 2) / N
    wrong = records["scene_right[2]"]["settings"]
    assert wrong["caption"] == lines[2] and parse_caption(wrong["shows"]) == parse_caption(lines[3])
    told = cli(*command).out.splitlines()
    assert told[2].startswith("   2  wrong  ") and "shows: " in told[2]
    assert [line for line in told if line.startswith("scene_")][0].split()[0] == "scene_accuracy"
    assert not [line for line in told if line.startswith("scene_right")]


def test_captions_come_from_standard_input(files, truth, tmp_path):
    import subprocess
    import sys

    images, captions = files
    done = subprocess.run(
        [sys.executable, "-m", "gentool", "eval", "scenes", "--images", images, "--captions", "-",
         "--json"], input=captions.read_bytes(), capture_output=True,
    )  # fmt: skip
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records[0]["metric"] == "scene_accuracy" and records[0]["value"] == 1


def test_a_folder_of_pictures_scores_as_the_array_does(figures, files, truth, tmp_path):
    from PIL import Image

    folder = tmp_path / "drawn"
    folder.mkdir()
    for i, example in enumerate(truth):
        Image.fromarray(example.image).save(folder / f"{i:06d}.png")
    captions = ("--captions", files[1])
    assert figures("--images", folder, *captions) == figures("--images", files[0], *captions)


def test_shuffled_captions_score_at_chance(figures, files):
    images, captions = files
    lines = captions.read_text(encoding="utf-8").splitlines()
    captions.write_text("\n".join(lines[1:] + lines[:1]) + "\n", encoding="utf-8")
    values = figures("--images", images, "--captions", captions)
    assert values["scene_accuracy"] <= 2 / N and values["scene_validity"] == 1


def test_noise_scores_zero(figures, files, tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, (N, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    values = figures("--images", tmp_path / "noise.npy")
    assert values["scene_validity"] == 0 and values["scene_split[test]"] is None
    values = figures("--images", tmp_path / "noise.npy", "--captions", files[1])
    assert values["scene_accuracy"] == 0


def test_samples_go_from_sample_to_eval(cli, figures, tiny_run, tmp_path):
    for name in ("x.npy", "each/"):
        out = f"{tmp_path}/{name}"
        assert cli("sample", "ddpm", "-c", tiny_run, "-n", 3, "--out", out).code == 0
        assert figures("--images", out)["scene_validity"] == 0


def test_gates(cli, files):
    command = ("eval", "scenes", "--images", files[0])
    assert cli(*command, "--gate", "scene_validity>=0.9", "--gate", "scene_validity<=1").code == 0
    result = cli(*command, "--gate", "scene_validity<0.5")
    assert result.code == 7 and "scene_validity" in result.err and "scene_validity" in result.out
    assert len(result.err.splitlines()) <= 2
    assert cli(*command, "--gate", "scene_share[color=red]>=0").code == 0
    for gate in ("scene_validity", "scene_validity>=high", "scene_validity>=nan", "nonesuch>=1"):
        result = cli(*command, "--gate", gate)
        assert result.code == 2 and gate.partition(">")[0] in result.err


def test_an_undefined_figure_passes_no_gate(cli, tmp_path):
    np.save(tmp_path / "black.npy", -np.ones((2, 3, 32, 32), np.float32))
    command = ("eval", "scenes", "--images", tmp_path / "black.npy")
    for gate in ("scene_share_min>=0", "scene_share_max<=2"):
        assert cli(*command, "--gate", gate).code == 7


def arrays(folder):
    ones = np.ones((2, 3, 32, 32), np.float32)
    np.save(folder / "float64.npy", ones.astype(np.float64))
    np.save(folder / "small.npy", ones[:, :, :16])
    np.save(folder / "empty.npy", ones[:0])
    np.save(folder / "nan.npy", ones * np.nan)
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(folder / "several.npz", ones)
    (folder / "text.npy").write_text("not an array")
    np.save(folder / "cut.npy", ones)
    with (folder / "cut.npy").open("r+b") as file:
        file.truncate(500)


@pytest.mark.parametrize(
    "name",
    ["float64.npy", "small.npy", "empty.npy", "nan.npy", "object.npy", "several.npz", "text.npy",
     "cut.npy"],
)  # fmt: skip
def test_arrays_that_hold_no_pictures_are_bad_data(cli, tmp_path, name):
    arrays(tmp_path)
    result = cli("eval", "scenes", "--images", tmp_path / name)
    assert result.code == 4 and result.out == "", result.err
    assert name in result.err and len(result.err.splitlines()) <= 2


def test_wrong_captions_and_missing_files(cli, files, tmp_path):
    images, captions = files
    command = ("eval", "scenes", "--images", images, "--captions", captions)
    text = captions.read_text(encoding="utf-8").splitlines(keepends=True)
    captions.write_text("".join(text[:-1]), encoding="utf-8")
    assert cli(*command).code == 4
    captions.write_text("".join(["a dog\n", *text[1:]]), encoding="utf-8")
    result = cli(*command)
    assert result.code == 4 and "line 1" in result.err
    captions.write_bytes(b"\xff\n" * N)
    assert cli(*command).code == 4
    assert cli("eval", "scenes", "--images", images, "--captions", tmp_path / "no").code == 3
    assert cli("eval", "scenes", "--images", tmp_path / "no").code == 3
    (tmp_path / "none").mkdir()
    assert cli("eval", "scenes", "--images", tmp_path / "none").code == 4


def test_accuracy_by_attribute_names_what_is_confused(cli, figures, files, truth, tmp_path):
    images, captions = files
    values = figures("--images", images, "--captions", captions)
    kinds = ("count", "shape", "color", "size", "place", "relation")
    assert all(values[f"scene_accuracy[{kind}]"] == 1 for kind in kinds)
    assert not [name for name in values if "confusion" in name]
    # In words there is no line for each confusion.
    lines = captions.read_text(encoding="utf-8").splitlines()
    captions.write_text("\n".join(lines[1:] + lines[:1]) + "\n", encoding="utf-8")
    command = ("--images", images, "--captions", captions)
    assert [name for name in figures(*command) if name.startswith("scene_confusion[color: ")]
    result = cli("eval", "scenes", *command)
    assert "confusion" not in result.out and "scene_accuracy[place]" in result.out


def test_a_wrong_colour_and_a_turned_relation_are_told_apart():
    one = [scene for scene, _ in draws(60) if len(scene.things) == 1]
    two = [scene for scene, _ in two_things(60)]

    def blue(scene):
        things = (replace(t, color="blue" if t.color == "red" else t.color) for t in scene.things)
        return replace(scene, things=tuple(things))

    found = [Verdict("", scene, blue(scene)) for scene in one]
    shares, confusion = attribute_figures(found)
    reds = sum(scene.things[0].color == "red" for scene in one)
    assert shares["scene_accuracy[color]"] == pytest.approx(1 - reds / len(one)) and reds
    assert confusion == {"scene_confusion[color: red > blue]": 1.0}
    assert shares["scene_accuracy[place]"] == 1 and shares["scene_accuracy[relation]"] is None
    # The same told from the other side is right; with the things changed places it is not.
    shares, confusion = attribute_figures([Verdict("", s, s.inverted()) for s in two])
    assert set(shares.values()) == {1, None} and not confusion
    turned = [replace(s, relation=s.inverted().relation) for s in two if len(set(s.things)) == 2]
    shares, confusion = attribute_figures(
        [Verdict("", replace(t, relation=t.inverted().relation), t) for t in turned]
    )
    assert shares["scene_accuracy[relation]"] == 0 and shares["scene_accuracy[shape]"] == 1
    assert all("relation: " in name for name in confusion) and confusion
    shares, _ = attribute_figures([Verdict("", s, None) for s in one])
    assert shares["scene_accuracy[count]"] == 0 and shares["scene_accuracy[size]"] == 0


def test_accuracy_by_attribute_is_at_chance_for_shuffled_captions(figures, files, tmp_path):
    images, captions = files
    lines = captions.read_text(encoding="utf-8").splitlines()
    captions.write_text("\n".join(lines[1:] + lines[:1]) + "\n", encoding="utf-8")
    values = figures("--images", images, "--captions", captions)
    assert values["scene_accuracy[shape]"] < 0.7 and values["scene_accuracy[color]"] < 0.6
    noise = np.random.default_rng(0).uniform(-1, 1, (N, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    values = figures("--images", tmp_path / "noise.npy", "--captions", captions)
    assert values["scene_accuracy[shape]"] == 0 and values["scene_accuracy[count]"] == 0
