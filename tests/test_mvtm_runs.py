"""mvtm from the shell: two stages, pictures by class, edits, wrong input."""

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import CLASSES, log_of, states_of, weights_of
from pictures import classes, draw, picture
from PIL import Image

from gentool.backends.mvtm import DecodeConfig, SampleConfig
from gentool.checkpoint.config import read_config
from gentool.checkpoint.load import Loaded, load_checkpoint
from gentool.inputs import box_hole
from gentool.pixels import to_uint8
from gentool.resources import read_recipe
from gentool.rng import BatchRng
from gentool.sampling import draw_samples


@pytest.fixture(scope="module")
def loaded(mvtm_run) -> Loaded:
    return load_checkpoint(mvtm_run, "mvtm")


def test_a_run_has_both_stages(mvtm_run):
    names = {path.name for path in mvtm_run.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "README.md", "log.jsonl", "samples", "state",
        "tokenizer", "vq",
    }  # fmt: skip
    assert states_of(mvtm_run)[-1] == 60 and states_of(mvtm_run / "vq")[-1] == 40
    assert (mvtm_run / "tokenizer/image/vq.safetensors").is_file()
    first, last = ([r["loss"] for r in log_of(mvtm_run) if "loss" in r][i] for i in (0, -1))
    assert last < 0.8 * first


def cut(cli, monkeypatch, arguments, step, first_stage=True):
    """Run a command that SIGTERM reaches at `step` of one of its stages; the first one has 40."""
    from gentool.training.loop import Trainer

    update = Trainer.optimizer_step

    def patched(self):
        if self.step == step and (self.train.steps == 40) == first_stage:
            signal.raise_signal(signal.SIGTERM)
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "optimizer_step", patched)
        result = cli(*arguments)
    assert result.code == 143, result.err


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_run_cut_in_either_stage_ends_in_the_same_bytes(
    cli, mvtm_recipe, mvtm_run, tmp_path, monkeypatch, stage
):
    out = tmp_path / "run"
    arguments = ("train", "mvtm", "--recipe", mvtm_recipe, "--out", out)
    cut(cli, monkeypatch, arguments, 13 if stage == "first" else 33, stage == "first")
    if stage == "first":
        assert not (out / "config.json").exists()
        named = cli(*arguments[:-2], "--resume", out)
        assert named.code == 3 and f"--out {out} --resume latest" in named.err
        again = cli(*arguments)
        assert again.code == 2 and "--resume latest continues" in again.err
    assert cli(*arguments, "--resume", "latest").code == 0
    assert weights_of(out) == weights_of(mvtm_run) and log_of(out) == log_of(mvtm_run)
    assert weights_of(out / "vq") == weights_of(mvtm_run / "vq")
    assert not (out / "next").exists()


def test_a_run_cut_in_its_first_stage_becomes_what_was_asked_for(
    cli, mvtm_recipe, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    where = ("--out", out, "--resume", "latest")
    given = ("--steps", 7, "--seed", 3, "--set", "masking.label_smoothing=0")
    cut(cli, monkeypatch, ("train", "mvtm", "--recipe", mvtm_recipe, "--out", out, *given), 2)
    other = cli("train", "mvtm", *where, "--set", "model.layers=9")
    assert other.code == 2 and "model.layers is 1 in the run, 9 now" in other.err
    other = cli("train", "ddpm", *where)
    assert other.code == 4 and "is a mvtm run, not ddpm" in other.err
    assert cli("train", "mvtm", *where, "--steps", 5).code == 0
    run_config = read_config(out)
    assert (run_config.recipe, states_of(out)[-1]) == ("tiny-mvtm", 5)
    assert run_config.config["train"]["seed"] == 3
    assert run_config.config["masking"]["label_smoothing"] == 0


def test_a_first_stage_goes_on_with_data_that_were_moved(cli, mvtm_recipe, tmp_path, monkeypatch):
    pictures, out = tmp_path / "pictures", tmp_path / "run"
    shutil.copytree(read_recipe(str(mvtm_recipe))[1]["data"]["spec"][0], pictures)
    given = ("--recipe", mvtm_recipe, "--data", pictures)
    cut(cli, monkeypatch, ("train", "mvtm", *given, "--out", out), 2)
    (pictures / "ant/0.png").rename(tmp_path / "kept.png")
    resume = ("train", "mvtm", "--out", out, "--resume", "latest", "--steps", 2, "-q")
    assert cli(*resume).code == 4, "changed"
    (tmp_path / "kept.png").rename(pictures / "ant/0.png")
    pictures.rename(tmp_path / "moved")
    assert cli(*resume).code == 3
    assert cli(*resume, "--data", tmp_path / "moved").code == 0


def test_overwrite_replaces_a_first_stage(cli, mvtm_recipe, mvtm_run, tmp_path, monkeypatch):
    out = tmp_path / "run"
    arguments = ("train", "mvtm", "--recipe", mvtm_recipe, "--out", out, "--steps", 2)
    cut(cli, monkeypatch, (*arguments, "--seed", 3), 2)
    given = ("--set", f"tokenizer.image={mvtm_run}", "--overwrite")
    assert cli(*arguments, *given).code == 0
    assert not (out / "vq").exists() and read_config(out).config["train"]["seed"] == 0


def test_overwrite_checks_both_stages_before_it_deletes(cli, mvtm_recipe, mvtm_run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(mvtm_run, out)
    again = ("train", "mvtm", "--recipe", mvtm_recipe, "--out", out, "--overwrite")
    for wrong, code in ((("--data", tmp_path / "nothing"), 3), (("--set", "model.classes=7"), 2)):
        result = cli(*again, *wrong)
        assert result.code == code and "stage one" not in result.err, result.err
        assert weights_of(out) == weights_of(mvtm_run)
    # In a process of its own, of which accelerate fixes the precision once and for all.
    command = [sys.executable, "-m", "gentool", *map(str, again), "--precision", "bf16"]
    result = subprocess.run([*command, "--stop-at", "1"], capture_output=True, text=True)
    assert result.returncode == 0 and states_of(out)[-1] == 1, result.stderr


def test_a_tokenizer_that_is_given_is_not_trained(cli, mvtm_recipe, mvtm_run, tmp_path):
    for given in (mvtm_run / "vq", mvtm_run):
        out = tmp_path / given.name
        result = cli(
            "train", "mvtm", "--recipe", mvtm_recipe, "--out", out, "--steps", 1,
            "--set", f"tokenizer.image={given}",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "stage one" not in result.err and not (out / "vq").exists()
        same = (out / "tokenizer/image/vq.safetensors").read_bytes()
        assert same == (mvtm_run / "tokenizer/image/vq.safetensors").read_bytes()


def test_a_walk_is_a_term_of_the_loss(cli, mvtm_recipe, mvtm_run, tmp_path):
    out, given = tmp_path / "run", f"tokenizer.image={mvtm_run}"
    train = ("train", "mvtm", "--recipe", mvtm_recipe, "--out", out, "--set", given)
    train += ("--set", "masking.walk=0.5", "--steps", 12)
    result = cli(*train)
    assert result.code == 2 and "--set sample.order=undecided" in result.err
    result = cli(*train, "--set", "sample.order=undecided", "--set", "sample.steps=3")
    assert result.code == 0, result.err
    records = [record for record in log_of(out) if "loss" in record]
    assert all(r["loss"] == pytest.approx(r["nll"] + r["walk"]) for r in records)
    assert records[-1]["walk"] < records[0]["walk"]
    shared = tmp_path / "shared"
    some = ("--set", "masking.walk_share=0.2", "--out", shared, "--stop-at", 1)
    result = cli(*train, *some, "--set", "sample.order=undecided", "--set", "sample.steps=3")
    assert result.code == 0, result.err
    one = next(record for record in log_of(shared) if "loss" in record)
    assert one["nll"] == records[0]["nll"] and one["walk"] != records[0]["walk"]


def test_a_dry_run_trains_nothing(cli, mvtm_recipe, tmp_path):
    result = cli("train", "mvtm", "--recipe", mvtm_recipe, "--out", tmp_path / "run", "--dry-run")
    assert result.code == 0 and "stage one: " in result.out and not (tmp_path / "run").exists()


def test_weights_and_tokenizer_belong_together(cli, mvtm_run, tmp_path):
    shutil.copytree(mvtm_run, tmp_path / "run")
    path = tmp_path / "run/tokenizer/image/gentool.json"
    path.write_text(path.read_text().replace('"dimensions": 4', '"dimensions": 5'))
    result = cli("sample", "mvtm", "-c", tmp_path / "run")
    assert result.code == 4 and "SHA-256" in result.err
    shutil.rmtree(tmp_path / "run/tokenizer")
    assert cli("sample", "mvtm", "-c", tmp_path / "run").code == 4


def test_classes_show(cli, mvtm_run, tmp_path):
    """Pictures of a class have its brightness; the other classes' are told apart."""
    out = tmp_path / "x.npy"
    result = cli(
        "sample", "mvtm", "-c", mvtm_run, "-n", 8, "--out", out, "--guidance-scale", 2,
        *(word for name in CLASSES for word in ("--class", name)),
    )  # fmt: skip
    assert result.code == 0, result.err
    ant, bee, cat = np.load(out).reshape(3, 8, -1).mean(axis=(1, 2))
    assert ant < cat < bee and bee - ant > 0.4


def test_a_sample_is_the_same_in_any_batch(loaded):
    y = classes("ant", "bee", "cat", "bee", "ant")
    whole = draw(loaded, 5, y=y)
    for i in range(5):
        assert torch.allclose(draw(loaded, 1, i, y=y[i : i + 1]), whole[i : i + 1], atol=1e-5)
    batches = draw_samples(loaded, range(5), 0, SampleConfig(steps=4), given={"y": y}, batch_size=2)
    assert torch.allclose(torch.cat([images for _, images in batches]), whole, atol=1e-5)


def test_guidance_is_one_batch_and_none_at_one(loaded, monkeypatch):
    sizes, network = [], loaded.network
    hook = network.register_forward_hook(lambda m, args, out: sizes.append(len(args[0])))
    y = classes("ant", "bee")
    plain = draw(loaded, 2, y=y)
    assert {*sizes} == {2}
    guided = draw(loaded, 2, y=y, sample=SampleConfig(steps=4, guidance_scale=3.0))
    hook.remove()
    assert sizes[4:] == [4] * 4 and not torch.equal(plain, guided)
    null = torch.full((2,), loaded.backend.null_class)
    assert torch.equal(draw(loaded, 2), draw(loaded, 2, y=null))
    zero = draw(loaded, 2, y=y, sample=SampleConfig(steps=4, guidance_scale=0.0))
    assert torch.allclose(zero, draw(loaded, 2), atol=1e-5)


def test_a_dropped_condition_is_dropped_and_learned_from(loaded):
    """The right way round: drop_condition is the share that does not show its class."""
    backend = loaded.backend
    source = backend.sources()[0]
    examples = [
        backend.prepare(source, i % source.size, torch.Generator().manual_seed(i), False)
        for i in range(400)
    ]
    rng = BatchRng.for_samples(1, range(400))
    shown = backend.collate(examples, rng)["y"]
    assert (shown == backend.null_class).float().mean() == pytest.approx(0.1, abs=0.05)
    labels = torch.tensor([example.label for example in examples])
    assert torch.equal(shown[shown != 3], labels[shown != 3])
    # What stands for no class is learnt: a gradient reaches it where it is read. (As a row of the
    # output, which shares the table, every loss reaches it.)
    batch = backend.collate(examples[:4], BatchRng.for_samples(1, range(4)))
    batch["y"] = torch.full((4,), backend.null_class)
    seen = []

    def keep(_, read, embedded):
        embedded.retain_grad()
        seen.append((read[0], embedded))

    hook = loaded.network.embedding.register_forward_hook(keep)
    backend.loss(loaded.network, batch)["nll"].sum().backward()
    hook.remove()
    [(ids, embedded)] = seen
    assert (ids[:, 0] == backend.K + 3).all() and embedded.grad[:, 0].abs().sum() > 0


@pytest.fixture
def heard(monkeypatch) -> list:
    """What the decoding loop says of each step."""
    from gentool.backends.mvtm import backend

    said, loop = [], backend.decode

    def listening(*arguments, on_step, **how):
        return loop(*arguments, on_step=lambda *step: (said.append(step), on_step(*step)), **how)

    monkeypatch.setattr(backend, "decode", listening)
    return said


def test_unmasked_tokens_of_an_edit_stay(loaded, heard):
    """What is known comes back as the tokenizer reconstructs it, or with blend exactly."""
    backend = loaded.backend
    x_0 = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_0, y = x_0.expand(3, -1, -1, -1), classes("ant", "bee", "cat")
    hole = box_hole("0,0,2,2", (3, 8, 8)).expand(3, 1, 8, 8)
    edit = DecodeConfig(steps=3)
    images = draw(loaded, 3, sample=edit, y=y, x_0=x_0, hole=hole)
    tokens = backend.image.encode(x_0).view(3, 4, 4)
    ids = heard[-1][1].view(3, 4, 4)
    drawn = torch.zeros(4, 4, dtype=torch.bool)
    drawn[:2, :2] = True  # the box is one token, and its neighbours
    assert torch.equal(ids[:, ~drawn], tokens[:, ~drawn])
    assert torch.allclose(images, backend.image.decode(ids.flatten(1)), atol=1e-6)
    edit = DecodeConfig(steps=3, blend=True, candidates=1)
    blended = draw(loaded, 3, sample=edit, y=y, x_0=x_0, hole=hole)
    outside = ~hole.expand_as(x_0)
    assert torch.equal(blended[outside], x_0[outside])
    assert torch.equal(blended[~outside], images[~outside])


def test_of_several_candidates_one_that_continues_into_the_picture_is_kept(loaded, heard):
    """Each picture of a batch has its own; what is told of the steps is its walk."""
    x_0 = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y, hole = classes("ant", "bee", "cat", "ant"), box_hole("1,1,5,5", (3, 8, 8))
    hole = hole.expand(4, 1, 8, 8)
    edit = DecodeConfig(steps=2, blend=True, candidates=3)
    looks = []
    rng = BatchRng.for_samples(0, range(4))
    tell = lambda look: looks.append(look(range(4)))  # noqa: E731
    best = loaded.backend.draw(loaded.network, rng, edit, tell, y=y, x_0=x_0, hole=hole)
    walked = [loaded.backend.image.decode(ids) for step, ids, *_ in heard if step == 1]
    misfit = torch.stack([((x - x_0) ** 2 * ~hole).mean((1, 2, 3)) for x in walked])  # [3, 4]
    assert len(walked) == 3 and len(set(misfit.argmin(0).tolist())) > 1
    assert len(looks) == 2
    for row, chosen in enumerate(misfit.argmin(0)):
        x = walked[chosen][row]
        assert torch.equal(best[row], torch.where(hole[row], x, x_0[row]))
        assert np.array_equal(looks[-1][row].images["picture"], to_uint8(x[None])[0])


def test_strength_is_the_share_of_tokens_drawn_anew(loaded, heard):
    x_0 = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    hole = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    tokens = loaded.backend.image.encode(x_0)
    for strength, n in ((0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)):
        heard.clear()
        draw(loaded, 1, sample=DecodeConfig(steps=3, strength=strength), x_0=x_0, hole=hole)
        known = heard[0][2].isinf()
        assert (~known).sum() == n and torch.equal(heard[-1][1][known], tokens[known])


def test_decode_draws_lines_and_edits_pictures(cli, mvtm_run, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("bee\n\nant\n")
    result = cli("decode", "mvtm", lines, "-c", mvtm_run, "--out", f"{tmp_path}/drawn/")
    assert result.code == 0 and len([*(tmp_path / "drawn").iterdir()]) == 3
    given = picture(tmp_path / "in.png")
    before = np.asarray(Image.open(given))
    for extra, same in ((("--box", "2,2,4,4", "--blend"), True), (("--strength", 0.5), False)):
        out = tmp_path / "out.png"
        result = cli("decode", "mvtm", "-c", mvtm_run, "--image", given, *extra, "--out", out)
        assert result.code == 0, result.err
        after = np.asarray(Image.open(out))
        hole = np.zeros((8, 8), bool)
        hole[2:6, 2:6] = True
        assert (after != before).any() and np.array_equal(after[~hole], before[~hole]) == same
    lines.write_text("bee\n")
    result = cli(
        "decode", "mvtm", lines, "-c", mvtm_run, "--image", given, "--box", "0,0,8,8", "--out", out
    )
    assert result.code == 0, result.err


def test_wrong_input(cli, mvtm_recipe, mvtm_run, tiny_run, tmp_path):
    small, big = picture(tmp_path / "in.png"), picture(tmp_path / "big.png", 16)
    decode = ("decode", "mvtm", "-c", mvtm_run)
    sample = ("sample", "mvtm", "-c", mvtm_run)
    train = ("train", "mvtm", "--recipe", mvtm_recipe, "--out", tmp_path / "run")
    for arguments, code, words in [
        ((*decode, "--image", big, "--box", "0,0,2,2"), 2, "16 × 16 pixels, this model draws 8"),
        ((*decode, "--image", small, "--box", "4,4,8,8"), 2, "does not lie within"),
        ((*decode, "--image", small), 2, "--box and --mask"),
        ((*decode, "--box", "0,0,2,2"), 2, "--image"),
        ((*decode, "--image", tmp_path / "no.png", "--box", "0,0,2,2"), 3, "no such file"),
        ((*sample, "--class", "ants"), 2, "no class 'ants'"),
        ((*sample, "--steps", 0), 2, "--steps"),
        ((*sample, "--steps", 17), 2, "--steps 1 to 16"),
        ((*sample, "--guidance-scale", 2), 2, "without a class or caption"),
        ((*sample, "--init-noise", "x.npy"), 2, "init-noise"),
        (("sample", "mvtm", "-c", tiny_run), 4, "is a ddpm checkpoint"),
        (("sample", "mvtm", "-c", mvtm_run / "vq"), 4, "is a vq checkpoint"),
        ((*train, "--set", f"tokenizer.image={tmp_path / 'no'}"), 3, "no tokenizer folder"),
        ((*train, "--set", f"tokenizer.image={tiny_run}"), 4, "it is a ddpm checkpoint"),
        ((*train, "--set", "tokenizer.recipe=ddpm-scenes"), 2, "is for ddpm, not vq"),
        ((*train, "--set", "data.image_size=9"), 2, "not a multiple"),
        ((*train, "--set", f"tokenizer.image={mvtm_run}", "--set", "sample.steps=17"), 2, "16 tok"),
        ((*train, "--set", f"tokenizer.image={mvtm_run}", "--set", "data.image_size=16"), 2, "16"),
    ]:
        result = cli(*arguments)
        assert result.code == code and words in result.err, (arguments, result.err)
    stdin = tmp_path / "lines"
    stdin.write_text("ant\nwolf\n")
    result = cli(*decode, stdin, "--out", tmp_path / "x.png")
    assert result.code == 4 and "line 2: no class 'wolf'" in result.err


def test_eval_measures_the_tokenizer(cli, mvtm_run, tmp_path):
    shown = tmp_path / "pairs.png"
    arguments = ("eval", "mvtm", "-c", mvtm_run, "--num", 16, "--json", "--pictures", shown)
    result = cli(*arguments, "--metric", "reconstruction", "--metric", "loss")
    assert result.code == 0, result.err
    figures = {r["metric"]: r["value"] for r in result.records}
    assert {*figures} == {"loss", "psnr", "codebook_usage", "codebook_perplexity"}
    assert figures["psnr"] > 15 and Image.open(shown).size == (2 * 8 + 2, 8)  # one is held out
    result = cli("eval", "mvtm", "-c", mvtm_run, "--metric", "bpd")
    assert result.code == 2 and "no metric 'bpd'" in result.err
