"""`gentool eval`: figures that come out the same twice, gates, and controls at chance."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import draws, states_of, two_things

from gentool.data.scenes import Scenes, draw_scene, parse_caption, render, split_of
from gentool.evaluate.attributes import attribute_figures
from gentool.evaluate.figures import parse_gate
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


def test_records_have_six_fields_and_come_out_the_same_twice(cli, tiny_run):
    command = ("eval", "ddpm", "--checkpoint", tiny_run, "-n", 8, "--json", "--seed", 2)
    first, second = cli(*command, "-q"), cli(*command, "-q")
    assert first.code == 0 and first.stdout == second.stdout and first.err == ""
    for record in first.records:
        assert list(record) == ["metric", "value", "n", "seed", "split", "settings"]
        assert record["n"] == 8 and record["settings"]["checkpoint_step"] == 40
    values = {record["metric"]: record["value"] for record in first.records}
    assert 0 < values["loss"] < 2
    assert values["scene_validity"] == 0, "a model trained for 40 steps draws no scene"
    assert states_of(tiny_run) == [20, 30, 40]


@pytest.mark.parametrize("gate", ["loss=>0", "loss==0", "loss", ">=1", "loss>=x", "loss>=nan"])
def test_a_gate_that_cannot_be_read_is_told_of_before_anything_is_measured(cli, tiny_run, gate):
    result = cli("eval", "ddpm", "-c", tiny_run, "-n", 4, "-q", "--gate", gate)
    assert (result.code, result.out) == (2, "") and "--gate takes, e.g.," in result.err


@pytest.mark.parametrize(
    ("backend", "run", "other"),
    [
        ("ddpm", "tiny_run", ("--batch-size", 3)),
        ("diffusion-lm", "text_run", ("--batch-size", 3)),
        ("mask-predict", "pairs_run", ("--batch-tokens", 99)),
        ("mvtm", "mvtm_run", ("--batch-size", 3)),
    ],
)
def test_figures_do_not_depend_on_the_batch_and_gates_hold_or_do_not(
    cli, request, backend, run, other
):
    command = ("eval", backend, "-c", request.getfixturevalue(run), "-n", 4, "--json", "-q")
    first, again = cli(*command, "--gate", "loss>0"), cli(*command, "--gate", "loss<=0")
    assert (first.code, first.err) == (0, "") and first.stdout == again.stdout
    assert again.code == 7 and again.err.startswith("error: gate failed: loss is ")
    assert again.err.endswith(", not loss<=0\n") and len(again.err.splitlines()) == 1
    records = cli(*command, *other).records
    assert len(records) == len(first.records) > 1
    for mine, theirs in zip(first.records, records, strict=True):
        assert {**mine, "value": 0} == {**theirs, "value": 0}
        assert (mine["value"] or 0) == pytest.approx(theirs["value"] or 0, rel=1e-3)


def test_loss_is_measured_on_the_data_given(cli, tiny_run):
    command = ("eval", "ddpm", "-c", tiny_run, "-n", 8, "--json", "--metric", "loss")
    found = {}
    for spec in ("scenes", "scenes:test", "scenes:test-novel", "scenes:train"):
        [record] = cli(*command, "--data", spec).records
        assert record["split"] == (spec.partition(":")[2] or "test")
        found[spec] = record["value"]
    assert found["scenes"] == found["scenes:test"] and len(set(found.values())) == 3
    assert cli(*command, "--data", "scenes:nonesuch").code == 2
    assert cli(*command, "--data", "nothing-here").code == 3
    assert cli(*command[:-1], "nonesuch").code == 2


def test_pictures_of_another_size_are_measured_without_being_read(train, cli, tmp_path):
    smaller = ("--set", "data.image_size=16", "--set", "train.sample_every=0")
    assert train("--steps", 1, *smaller).code == 0
    result = cli("eval", "ddpm", "-c", tmp_path / "run", "-n", 2, "--json")
    assert result.code == 0, result.err
    assert [record["metric"] for record in result.records] == ["loss"]


def bound(cli, run, *arguments):
    result = cli("eval", "ddpm", "-c", run, "-n", 6, "--metric", "bpd", "--json", *arguments)
    assert result.code == 0, result.err
    return {record["metric"]: record["value"] for record in result.records}, result


def test_the_bound_is_the_sum_of_its_parts(cli, tiny_run):
    values, result = bound(cli, tiny_run, "--steps", 20, "-q")
    steps = [values[f"bpd[t={t}]"] for t in range(20)]
    assert len(values) == 24 and list(values)[:4] == [
        "bpd", "bpd[prior]", "bpd[kl]", "bpd[decoder]"
    ]  # fmt: skip
    assert values["bpd[decoder]"] == steps[0]
    assert values["bpd[kl]"] == pytest.approx(sum(steps[1:]))
    parts = values["bpd[prior]"] + values["bpd[kl]"] + values["bpd[decoder]"]
    assert values["bpd"] == pytest.approx(parts, rel=1e-9)
    assert all(value >= 0 for value in values.values())
    assert values["bpd"] > 1, "a model trained for 40 steps compresses nothing"
    for record in result.records:
        assert list(record) == ["metric", "value", "n", "seed", "split", "settings"]
        assert record["n"] == 6 and record["split"] == "held out"
        assert record["settings"]["steps"] == 20 and record["settings"]["checkpoint_step"] == 40


def test_the_bound_comes_out_the_same_twice_and_steps_shorten_it(cli, tiny_run):
    short, result = bound(cli, tiny_run, "--steps", 3)
    assert bound(cli, tiny_run, "--steps", 3)[1].stdout == result.stdout
    assert [name for name in short if "t=" in name] == [f"bpd[t={t}]" for t in range(3)]
    small, _ = bound(cli, tiny_run, "--steps", 3, "--variance", "fixed_small")
    assert small["bpd[prior]"] == short["bpd[prior]"] and small["bpd[kl]"] != short["bpd[kl]"]
    other, _ = bound(cli, tiny_run, "--steps", 3, "--data", "scenes:test-novel")
    assert other["bpd"] != short["bpd"]


def test_the_bound_in_words_has_no_line_per_step_and_can_be_a_gate(cli, tiny_run):
    command = ("eval", "ddpm", "-c", tiny_run, "-n", 2, "--steps", 3, "--metric", "bpd")
    result = cli(*command, "--gate", "bpd<0.01", "--gate", "bpd[t=0]>=0")
    assert result.code == 7 and "bpd is" in result.err and "t=0" not in result.err
    names = [line.split()[0] for line in result.out.splitlines()]
    assert names == ["bpd", "bpd[prior]", "bpd[kl]", "bpd[decoder]"]
    assert cli(*command, "--steps", 21).code == 2


def test_the_bound_is_given_the_class_of_each_picture(cli, class_run):
    values, _ = bound(cli, class_run)
    assert values["bpd"] > 0 and len(values) == 4 + 5
    guided, _ = bound(cli, class_run, "--guidance-scale", 3)
    assert guided["bpd[kl]"] != values["bpd[kl]"]


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


# --- checkpoints that read captions


def accuracy(cli, run, *arguments):
    command = ("eval", "ddpm", "-c", run, "-n", 6, "--steps", 1, "--metric", "scenes")
    result = cli(*command, "--json", "-q", *arguments)
    assert result.code == 0, result.err
    return {record["metric"]: record for record in result.records}


def test_captioned_figures_are_of_both_splits_in_both_languages(cli, caption_run):
    found = accuracy(cli, caption_run)
    names = [f"{s}-{spoken}" for s in ("test", "test-novel") for spoken in ("en", "zh")]
    told = [f"{m}[{name}]" for name in names for m in ("scene_accuracy", "scene_validity")]
    assert list(found)[-8:] == told and "scene_split[test]" in found
    assert all(found[name]["value"] == 0 for name in told), "it has hardly been trained"
    assert found["scene_validity"]["value"] == 0, "of samples without a caption"
    assert found["scene_accuracy[test-novel-zh]"]["split"] == "test-novel"
    assert len(accuracy(cli, caption_run, "--data", "scenes:test")) == 4


@pytest.mark.parametrize("shift, expected", [(0, 1.0), (1, 0.0)])
def test_a_model_that_draws_what_is_said_scores_one_and_any_other_scene_nothing(
    cli, caption_run, monkeypatch, shift, expected
):
    import torch

    from gentool.backends.ddpm.backend import Backend

    def draw(self, network, rng, sample, on_step=None, *, text):
        pictures = []
        for row in text.roll(shift, 0):
            words = self.tokenizer.decode(row.tolist())
            scene = parse_caption(words)
            assert scene, words
            generator = np.random.default_rng(0)
            while (drawn := draw_scene(generator, split_of(scene)))[0].canonical() != scene:
                pass
            pictures.append(torch.from_numpy(render(*drawn)).permute(2, 0, 1) / 127.5 - 1)
        return torch.stack(pictures)

    monkeypatch.setattr(Backend, "draw", draw)
    found = accuracy(cli, caption_run, "--data", "scenes:test")
    for name, record in found.items():
        assert record["value"] == (expected if "accuracy" in name else 1.0), name


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
    assert cli(*command).code in (2, 4)
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


def test_a_gate_on_a_figure_with_a_comparison_in_its_name():
    metric, compare, limit = parse_gate("scene_confusion[color: red > blue]<=0.1")
    assert (metric, limit) == ("scene_confusion[color: red > blue]", 0.1)
    assert compare(0.1, limit) and not compare(0.2, limit)


def test_pictures_that_nothing_would_write_are_refused(cli):
    for options in (("--pictures", "x.jpg"), ("--pictures", "x.png", "--metric", "loss")):
        result = cli("eval", "mvtm", *options)
        assert result.code == 2 and "--pictures" in result.err


def test_texts_that_are_all_empty_are_bad_data(cli, text_run, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n" * 9)
    result = cli("eval", "diffusion-lm", "-c", text_run, "--data", empty, "-n", 4,
                 "--metric", "diversity", "-q")  # fmt: skip
    assert result.code == 4 and "empty" in result.err and len(result.err.splitlines()) <= 2


def test_steering_without_a_control_is_refused(cli, text_run):
    result = cli("eval", "diffusion-lm", "-c", text_run, "--guidance-scale", 5, "-q")
    assert result.code == 2 and "without a control" in result.err
