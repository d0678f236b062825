"""`gentool eval`: figures that come out the same twice, gates, and controls at chance."""

import numpy as np
import pytest
import torch
from conftest import states_of
from PIL import Image

from gentool.backends.ddpm.backend import Backend
from gentool.data.scenes import Scenes, draw_scene, parse_caption, render, split_of
from gentool.errors import BadDataError
from gentool.evaluate.figures import parse_gate
from gentool.evaluate.tokens import Losses


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


def test_what_was_measured_is_told_if_what_comes_after_it_fails(cli, tiny_run, monkeypatch):
    def fails(*given, **more):
        raise BadDataError("no more")

    monkeypatch.setattr(Backend, "draw", fails)
    result = cli("eval", "ddpm", "-c", tiny_run, "-n", 4, "-q", "--json")
    assert result.code == 4 and [record["metric"] for record in result.records] == ["loss"]


def test_a_record_that_cannot_be_read_is_left_out_on_demand(cli, tiny_run, tmp_path):
    for i in range(3):
        Image.fromarray(np.full((32, 32, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    command = ("eval", "ddpm", "-c", tiny_run, "--data", tmp_path, "--metric", "loss", "-q")
    result = cli(*command)
    assert result.code == 4 and "eval: --on-error skip" in result.err
    assert cli(*command, "--on-error", "skip").code == 0
    assert cli(*command, "--on-error", "ignore").code == 2


def test_no_text_counts_twice_in_the_loss(cli, text_run, tmp_path):
    (tmp_path / "texts.txt").write_text("a red circle\na blue square\n" + 4 * f"{99 * 'red '}\n")
    command = ("eval", "diffusion-lm", "-c", text_run, "--data", tmp_path / "texts.txt",
               "--metric", "loss", "-q", "--json")  # fmt: skip
    [record] = cli(*command).records
    assert record["n"] == 2
    (tmp_path / "texts.txt").write_text(4 * f"{99 * 'red '}\n")
    assert cli(*command).code == 4


def test_texts_that_cannot_be_read_are_left_out_on_demand(cli, text_run, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"a red circle\n\xff\na blue square\n")
    command = ("eval", "diffusion-lm", "-c", text_run, "--data", tmp_path / "texts.txt", "-n", 3,
               "--metric", "diversity", "-q", "--json")  # fmt: skip
    result = cli(*command)
    assert result.code == 4 and "eval: --on-error skip" in result.err
    records = {record["metric"]: record for record in cli(*command, "--on-error", "skip").records}
    assert records["distinct-1[real]"]["n"] == 2
    assert records["distinct-1"]["settings"]["precision"] == "fp32"


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


def test_token_figures_and_their_controls():
    def lost(*pictures):
        losses = Losses(32)
        for batch in zip(*(tensor.split(3) for tensor in pictures), strict=True):
            losses.add(*batch)
        assert losses.n == 4
        return losses.figures()

    def read_back(scenes, others):
        losses = Losses(1)
        losses.add(x, x, torch.zeros_like(ids))
        losses.read_back(zip(scenes, others, strict=True))
        return losses.figures()["scene_read_back"]

    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = torch.arange(16).view(4, 4)
    figures = lost(x, x + 0.02, ids)
    assert figures["psnr"] == pytest.approx(40) and figures["codebook_usage"] == 0.5
    assert figures["codebook_perplexity"] == pytest.approx(16)
    assert lost(x, x.flip(0), ids)["psnr"] < 12  # other pictures
    assert lost(x, x, torch.zeros_like(ids))["codebook_perplexity"] == 1
    scenes = [Scenes("test")[i].image for i in range(8)]
    assert read_back(scenes, scenes) == 1
    assert read_back(scenes, scenes[1:] + scenes[:1]) <= 0.125
    noise = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3)).astype(np.uint8)
    assert read_back(scenes, noise) == 0
