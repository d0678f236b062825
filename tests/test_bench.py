"""`gentool bench`: quality, time and calls by number of steps, and their plot."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

BENCH = ("-n", 4, "--repeats", 2, "-q")


def test_a_record_for_each_sampler_and_number_of_steps(cli, tiny_run):
    result = cli(
        "bench", "ddpm", "-c", tiny_run, "--steps", "5,2", "--sampler", "ddim,dpm++", *BENCH,
        "--json",
    )  # fmt: skip
    assert result.code == 0 and result.err == ""
    found = [(record["sampler"], record["steps"]) for record in result.records]
    assert found == [("ddim", 2), ("ddim", 5), ("dpm++", 2), ("dpm++", 5)]
    for record in result.records:
        assert record["calls_per_sample"] == record["steps"]
        assert record["metric"] == "scene_validity" and record["quality"] == 0
        assert record["seconds_least"] <= record["seconds_per_sample"] <= record["seconds_most"]
        assert record["peak_memory_mb"] > 50 and record["library"] == "gentool"
        assert (record["num"], record["repeats"], record["seed"]) == (4, 2, 0)


def test_guidance_calls_the_network_twice(cli, class_run, monkeypatch):
    """And where no scenes are drawn there is no quality, unless a metric is named."""
    [record] = cli("bench", "ddpm", "-c", class_run, "--steps", "3", *BENCH, "--json").records
    assert record["calls_per_sample"] == 3 and record["quality"] is None
    result = cli("bench", "ddpm", "-c", class_run, "--steps", "3", *BENCH, "--metric", "loss")
    assert result.code == 2 and "loss" in result.err


def test_repeats_have_their_own_seeds_and_quality_is_that_of_eval(cli, text_run):
    common = ("-c", text_run, "-n", 6, "-q", "--json")
    bench = ("bench", "diffusion-lm", *common, "--steps", "2", "--metric", "diversity")
    values = []
    for seed in (5, 6):
        records = cli("eval", "diffusion-lm", *common, "--metric", "diversity", "--steps", 2,
                      "--seed", seed).records  # fmt: skip
        values.append(records[0]["value"])
    assert values[0] != values[1]
    [record] = cli(*bench, "--seed", 5, "--repeats", 2).records
    assert record["metric"] == "distinct-1" and record["quality"] == pytest.approx(np.mean(values))
    assert record["quality_deviation"] == pytest.approx(np.std(values, ddof=1))


def test_sentences_by_steps_and_lengths(cli, pairs_run, tmp_path):
    """Each pass of the decoder counts once for each length that is tried."""
    command = ("bench", "mask-predict", "-c", pairs_run, *BENCH)
    plot = tmp_path / "x.png"
    result = cli(*command, "--steps", "3,1", "--length-beam", "1,4", "--json", "--plot", plot)
    assert result.code == 0 and plot.is_file(), result.err
    found = [(r["length_beam"], r["steps"], r["calls_per_sample"]) for r in result.records]
    assert found == [(1, 1, 1), (1, 3, 3), (4, 1, 4), (4, 3, 12)]
    for record in result.records:
        assert record["metric"] == "scene_accuracy" and record["quality"] == 0
        assert record["seed"] is record["quality_deviation"] is record["sampler"] is None
        assert record["num"] == 4 and record["seconds_per_sample"] > 0
    fast = cli(*command, "--steps", "30", "--fast", "--json", "--metric", "quality").records[0]
    assert fast["metric"] == "bleu" and fast["fast"] and fast["calls_per_sample"] < 5 * 30
    bleu = cli("eval", "mask-predict", "-c", pairs_run, "-n", 4, "--steps", 30, "--fast",
               "--metric", "quality", "-q", "--json").records[0]  # fmt: skip
    assert bleu["value"] == fast["quality"]
    table = cli(*command, "--steps", "2", "--fast").out
    assert "beam 5, fast" in table and "±" not in table
    for name, lines in {"x.en": ["a red circle"] * 3, "x.de": ["ein roter Kreis"] * 3}.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    data = ("--data", f"{tmp_path / 'x.en'},{tmp_path / 'x.de'}", "--metric", "quality")
    [record] = cli(*command, *data, "--steps", "1", "--json").records
    assert record["num"] == 3 and record["quality"] < 20


def test_what_reads_captions_is_asked_for_scenes_in_its_languages(cli, caption_run):
    common = ("-c", caption_run, "--steps", "2", "-q", "--json")
    [record] = cli("bench", "ddpm", *common, "-n", 3, "--repeats", 1).records
    assert record["metric"] == "scene_accuracy[test]" and record["quality"] == 0
    assert record["num"] == 6 and record["calls_per_sample"] == 2  # English and Chinese
    [record] = cli("bench", "ddpm", *common, "-n", 3, "--guidance-scale", 2).records
    assert record["calls_per_sample"] == 4


def test_pictures_of_tokens(cli, mvtm_run):
    records = cli("bench", "mvtm", "-c", mvtm_run, *BENCH, "--json").records
    assert [record["steps"] for record in records] == [1, 2, 4, 8, 16]
    for record in records:
        assert record["calls_per_sample"] == record["steps"] and record["sampler"] is None
        assert record["quality"] is None  # they are no scenes


def test_the_table_and_the_plots(cli, tiny_run, text_run, tmp_path):
    command = ("bench", "ddpm", "-c", tiny_run, "-c", tiny_run, "--steps", "1,2", *BENCH)
    result = cli(*command, "--plot", tmp_path / "a.png")
    head, *lines = result.out.splitlines()
    assert head.split()[:4] == ["checkpoint", "way", "steps", "s/sample"] and len(lines) == 4
    assert all("scene_validity 0.0000 ±" in line for line in lines)
    one = cli("bench", "ddpm", "-c", tiny_run, "--steps", "1,2", *BENCH, "--json")
    two = cli("bench", "diffusion-lm", "-c", text_run, "--steps", "1,3", *BENCH, "--json")
    (tmp_path / "one.jsonl").write_bytes(one.stdout)
    (tmp_path / "two.jsonl").write_bytes(two.stdout)
    for names in (["one"], ["one", "two"]):
        files = [tmp_path / f"{name}.jsonl" for name in names]
        plot = tmp_path / f"{len(names)}.png"
        assert cli("bench", "plot", *files, "--out", plot).code == 0
        assert np.asarray(Image.open(plot).convert("L")).std() > 5
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "2.png").read_bytes()


def test_what_is_wrong_is_said_before_any_work(cli, tiny_run, pairs_run, tmp_path):
    command = ("bench", "ddpm", "-c", tiny_run, *BENCH)
    for arguments, words in [
        (("--steps", "five"), "5,10,25"),
        (("--steps", "0,5"), "5,10,25"),
        (("--steps", "2,21"), "takes 20 at the most"),
        (("--sampler", "euler"), "euler"),
        (("--metric", "nonesuch"), "nonesuch"),
        (("--against", "nonesuch"), "nonesuch"),
        (("--plot", "x.gif"), ".png, .svg, .pdf"),
    ]:
        result = cli(*command, *arguments)
        assert result.code == 2 and words in result.err, (arguments, result.err)
        assert result.out == ""
    assert cli("bench", "diffusion-lm", "-c", tiny_run).code == 4
    for backend, option in [
        ("diffusion-lm", "--against"), ("diffusion-lm", "--features"), ("mvtm", "--sampler"),
        ("ddpm", "--judge"), ("mask-predict", "--seed"),
    ]:  # fmt: skip
        result = cli("bench", backend, option, "x")
        assert result.code == 2 and "No such option" in result.err
    for text in ('{"metric": "loss"}\n', '{"seconds_per_sample": 0.5, "steps": 2}\n', "[]\n"):
        (tmp_path / "bad.jsonl").write_text(text)
        result = cli("bench", "plot", tmp_path / "bad.jsonl", "--out", tmp_path / "x.png")
        assert result.code == 4 and "line 1" in result.err
    command = ("bench", "mask-predict", "-c", pairs_run, *BENCH)
    for arguments, words in [
        (("--length-beam", "0,1"), "--length-beam takes numbers"),
        (("--length-beam", "31"), "lengths up to 30"),
        (("--metric", "table"), "no metric 'table' of samples"),
    ]:
        result = cli(*command, *arguments)
        assert result.code == 2 and words in result.err and result.out == ""
    record = {"seconds_per_sample": 0.1, "steps": 3, "quality": None}
    (tmp_path / "bad.jsonl").write_text(json.dumps(record) + "\n")
    assert cli("bench", "plot", tmp_path / "bad.jsonl", "--out", tmp_path / "x.png").code == 4


def test_diffusers_draws_the_same_pictures(cli, train, tmp_path):
    pytest.importorskip("diffusers")
    from gentool.backends.ddpm.peer import peer
    from gentool.checkpoint.load import load_checkpoint
    from gentool.sampling import draw_samples, sample_settings

    wide = ("--set", "model.patch_size=1", "--set", "data.image_size=8", "--set", "diffusion.T=20")
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(np.full((8, 8, 3), 30 * i, np.uint8)).save(folder / f"{i}.png")
    assert train("--steps", 2, "--data", folder, *wide, "-q").code == 0
    loaded = load_checkpoint(tmp_path / "run", "ddpm")
    theirs = peer(loaded)
    settings = sample_settings(loaded, {"sampler": "ddim", "steps": 20})
    drawn = []
    for side in (loaded, theirs):
        [(_, images)] = draw_samples(side, range(3), 0, settings, batch_size=3)
        drawn.append(images)
    assert torch.allclose(drawn[0], drawn[1], atol=2e-3), (drawn[0] - drawn[1]).abs().max()
    command = ("bench", "ddpm", "-c", tmp_path / "run", "--steps", "3", *BENCH, "--json")
    ours, others = cli(*command, "--against", "diffusers").records
    assert (ours["library"], others["library"]) == ("gentool", "diffusers")
    assert others["calls_per_sample"] == 3 and others["parameters"] == ours["parameters"]
    alone = cli(*command, "--spacing", "quadratic", "--against", "diffusers")
    assert alone.code == 2 and "no quadratic spacing" in alone.err
