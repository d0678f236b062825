"""The tokenizer of pictures as a run, a folder and a command."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import log_of, trained, weights_of
from PIL import Image
from safetensors.torch import load_file
from tars import shards
from test_vq import pictures, tiny

from gentool.checkpoint.tokenizer import find_tokenizer
from gentool.errors import BadCheckpointError
from gentool.pixels import to_uint8
from gentool.rng import torch_seed
from gentool.settings import build
from gentool.tokenizers import load
from gentool.tokenizers.vq import Config
from gentool.tokenizers.vq.network import VQ
from gentool.tokenizers.vq.tokenizer import VQTokenizer, tokenizer_of

VQ_RECIPE = """\
backend = "vq"
[model]
patch_size = 4
channels = 8
multipliers = [1]
blocks = 1
middle = 0
norm_groups = 4
codes = 16
dimensions = 4
[quantizer]
revive_every = 5
[train]
batch_size = 4
steps = 20
learning_rate = 0.003
ema_decay = 0.9
log_every = 5
save_every = 10
validate_every = 10
validation_examples = 8
sample_every = 20
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny-vq.toml"
    path.write_text(VQ_RECIPE)
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> Path:
    """A run of the tiny recipe. Not to be changed."""
    return trained("vq", recipe, tmp_path_factory.mktemp("runs") / "vq")


@pytest.fixture(scope="module")
def tokenizer(run) -> VQTokenizer:
    return find_tokenizer(str(run))


def test_ids_mean_the_codes_the_decoder_was_given(tokenizer):
    """ids -> codebook is what the way through the encoder gave, bit for bit."""
    network, x = tokenizer.network, pictures(4)
    with torch.no_grad():
        out = VQ.forward(network, x)
    ids = tokenizer.encode(x)
    assert torch.equal(ids, out.ids) and ids.shape == (4, 64)
    assert torch.equal(network.e[ids], out.e_id)
    assert torch.allclose(tokenizer.decode(ids), out.x_hat.clamp(-1, 1), atol=1e-6)
    assert tokenizer.decode(ids).shape == x.shape
    one = torch.cat([tokenizer.encode(row[None]) for row in x])
    assert torch.equal(one, ids)  # whatever the batch


def test_a_run_is_a_tokenizer_and_its_folder_is_the_same(run, tokenizer, tmp_path):
    assert (tokenizer.kind, tokenizer.size, tokenizer.length) == ("vq", 16, 64)
    tokenizer.save(tmp_path / "t")
    again = load(tmp_path / "t")
    assert again.hash == tokenizer.hash == find_tokenizer(str(run)).hash
    assert torch.equal(again.encode(pictures(2)), tokenizer.encode(pictures(2)))
    data = bytearray((tmp_path / "t" / "vq.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "t" / "vq.safetensors").write_bytes(data)
    with pytest.raises(BadCheckpointError, match="SHA-256"):
        load(tmp_path / "t")


def test_another_codebook_is_another_hash(tokenizer, run):
    other = tiny()
    config = build(Config, {"model": {"patch_size": 4, "multipliers": [1], "norm_groups": 4}})
    with torch_seed("test"):
        other.train()(pictures(2))
    made = tokenizer_of(other, other.config, config.data)
    assert made.hash != tokenizer.hash


def test_the_log_tells_of_the_codebook_and_training_helps(run):
    records = [r for r in log_of(run) if "loss" in r]
    assert {"reconstruction", "commitment", "entropy", "codebook_usage"} <= records[-1].keys()
    assert 1 <= records[-1]["codebook_perplexity"] <= 16
    assert records[-1]["reconstruction"] < 0.7 * records[0]["reconstruction"]
    assert (run / "samples" / "step-00000020.png").is_file()


def test_previews_do_without_pictures_that_are_held_out(cli, recipe, tmp_path):
    spec = shards(tmp_path, (40,))
    out = ("--data", spec, "--out", tmp_path / "run", "-q", "--set", "train.sample_every=10")
    none = ("--set", "data.where=n==1", "--set", "train.validate_every=0")
    assert cli("train", "vq", "--recipe", recipe, *out, *none).code == 0
    assert not list((tmp_path / "run/samples").glob("*.png"))


def test_a_cut_run_ends_in_the_same_bytes(cli, recipe, run, tmp_path):
    """The codebook and its averages are part of the state."""
    out = tmp_path / "run"
    arguments = ("train", "vq", "--recipe", recipe, "--out", out)
    assert cli(*arguments, "--stop-at", 7).code == 0
    state = load_file(out / "state/step-00000007/model.safetensors")
    assert {"e", "n", "m", "idle", "seen"} <= state.keys() and int(state["seen"]) == 7 * 4
    assert cli(*arguments, "--resume", "latest").code == 0
    assert weights_of(out) == weights_of(run) and log_of(out) == log_of(run)


def test_an_encoder_at_rest_is_not_moved_by_momentum(cli, recipe, tmp_path):
    out = tmp_path / "run"
    settings = ("quantizer.start=0.5", "quantizer.entropy=0", "train.optimizer=muon")
    more = [word for text in settings for word in ("--set", text)]
    assert cli("train", "vq", "--recipe", recipe, "--out", out, *more).code == 0
    before, after = (
        load_file(out / f"state/step-000000{step}/model.safetensors") for step in (10, 20)
    )
    assert not before["n"].any() and after["n"].all()
    with pytest.raises(BadCheckpointError, match="no codes yet: it stands at step 10"):
        find_tokenizer(f"{out}/state/step-00000010")
    assert find_tokenizer(f"{out}/state/step-00000020").hash == find_tokenizer(str(out)).hash
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("encoder."), name
    stopped = tmp_path / "stopped"
    assert cli("train", "vq", "--recipe", recipe, "--out", stopped, *more, "--stop-at", 5).code == 0
    with pytest.raises(BadCheckpointError, match="no codes yet: it stands at step 5"):
        find_tokenizer(str(stopped))
    warm, *_, last = [record for record in log_of(out) if "loss" in record]
    assert "codebook_usage" not in warm and last["codebook_usage"] > 0


def test_eval_tells_what_pictures_lose_and_shows_it(cli, recipe, run, tmp_path):
    both = tmp_path / "both.png"
    result = cli("eval", "vq", "-c", run, "--num", 40, "--pictures", both, "--json")
    assert result.code == 0, result.err
    found = {record["metric"]: record["value"] for record in result.records}
    assert found.keys() >= {"loss", "psnr", "codebook_usage", "codebook_perplexity"}
    assert found["psnr"] > 10 and 0 < found["codebook_usage"] <= 1
    assert Image.open(both).size == (8 * 34 - 2, 8 * 34 - 2), "32 of them, each twice"
    assert cli("eval", "vq", "-c", run, "--num", 8, "--gate", "psnr>=99", "-q").code == 7
    assert cli("eval", "vq", "-c", run, "--pictures", tmp_path / "x.gif").code == 2
    assert cli("eval", "vq", "-c", run, "--pictures", both, "--metric", "loss").code == 2
    assert cli("eval", "vq").code == 3
    warm = tmp_path / "warm"
    arguments = ("--set", "quantizer.start=0.5", "--set", "quantizer.entropy=0", "--stop-at", 5)
    assert cli("train", "vq", "--recipe", recipe, "--out", warm, *arguments).code == 0
    result = cli("eval", "vq", "-c", warm)
    assert result.code == 4 and "no codes yet" in result.err and result.out == ""


def test_tokenizer_train_is_the_same_run(cli, recipe, run, tmp_path):
    out = tmp_path / "tokens"
    result = cli(
        "tokenizer", "train", "--kind", "vq", "--data", "scenes", "--out", out,
        "--set", "model.patch_size=4", "--set", "model.channels=8", "--set", "model.middle=0",
        "--set", "model.multipliers=[1]", "--set", "model.norm_groups=4", "--size", 16,
        "--set", "train.steps=2", "--set", "train.sample_every=0", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.records[-1]["kind"] == "vq" and result.records[-1]["size"] == 16
    assert find_tokenizer(str(out)).hash == result.records[-1]["hash"]
    shown = cli("tokenizer", "show", out, "--json").records[0]
    assert shown["specials"] == {} and shown["size"] == 16


def test_wrong_input(cli, recipe, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    result = cli("train", "vq", "--recipe", recipe, "--out", tmp_path / "run")
    assert result.code == 2 and "already holds a run" in result.err
    result = cli("train", "vq", "--recipe", recipe, "--set", "data.image_size=30", "--dry-run")
    assert result.code == 2 and "multiple of 4" in result.err


def test_pictures_to_ids_and_back_from_the_shell(cli, run, tokenizer, tmp_path):
    names = []
    for i, x in enumerate(pictures(2)):
        names.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(to_uint8(x[None])[0]).save(names[-1])
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    result = cli("tokenizer", "encode", tmp_path / "names.txt", "-t", run)
    ids = [[int(word) for word in line.split()] for line in result.out.splitlines()]
    assert ids == tokenizer.encode(pictures(2)).tolist()
    (tmp_path / "ids.txt").write_text(result.out)
    out = tmp_path / "again.npy"
    assert cli("tokenizer", "decode", tmp_path / "ids.txt", "-t", run, "--out", out).code == 0
    assert np.allclose(np.load(out), tokenizer.decode(torch.tensor(ids)).numpy(), atol=1e-6)
    (tmp_path / "ids.txt").write_text("1 2 3\n")
    result = cli("tokenizer", "decode", tmp_path / "ids.txt", "-t", run, "--out", out)
    assert result.code == 4 and "3 ids, a picture has 64" in result.err


def test_ids_without_a_target_become_a_new_picture(cli, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids").write_text(" ".join(["0"] * 64) + "\n")
    for name in ("decoded.png", "decoded-2.png"):
        assert cli("tokenizer", "decode", "ids", "-t", run).out == f"{name}\n"
    assert {path.name for path in tmp_path.glob("*.png")} == {"decoded.png", "decoded-2.png"}
