"""mvtm from captions, and from a cache of tokens."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import trained
from pictures import VQ, draw, picture

from gentool.backends.mvtm import SampleConfig
from gentool.backends.mvtm.algorithm import lowest, training_loss
from gentool.checkpoint.load import load_checkpoint
from gentool.data.images import first_pictures
from gentool.resources import shipped
from gentool.rng import BatchRng


@pytest.fixture(scope="module")
def told(mvtm_recipe, tmp_path_factory) -> Path:
    """A few steps on captioned scenes."""
    folder = tmp_path_factory.mktemp("told")
    text = mvtm_recipe.read_text().partition("[tokenizer]")
    model = text[2].replace("classes = 3\n", "").replace("steps = 60", "steps = 6")
    model = model.replace("sample_every = 60", "sample_every = 6").replace("= 30", "= 6")
    first = 'backend = "mvtm"\n[data]\nlanguage = "both"\n[model.text]\nencoder = "transformer"\n'
    first += "width = 16\nheads = 2\n[tokenizer]\nmin_count = 1\n"
    small = folder / "tiny-vq.toml"
    small.write_text(
        VQ.replace("steps = 40", "steps = 3").replace("patch_size = 2", "patch_size = 4")
    )
    recipe = folder / "told.toml"
    recipe.write_text(first + model.replace(str(mvtm_recipe.parent / "tiny-vq.toml"), str(small)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gentool.data.holdout.ENOUGH", 500)
        return trained("mvtm", recipe, folder / "run")


def test_captions_are_learned_from_and_drawn(cli, told, tmp_path):
    assert (told / "tokenizer/text/vocab.tsv").is_file()
    lines = (told / "samples/step-00000006.txt").read_text().splitlines()
    assert len(lines) == 16
    loaded = load_checkpoint(told, "mvtm")
    assert loaded.tokenizer.text.hash != loaded.tokenizer.image.hash
    backend, captions = loaded.backend, loaded.backend.captions
    text = captions.rows(lines[:2])
    calls = []
    hook = loaded.network.text.register_forward_hook(lambda *call: calls.append(1))
    guided = draw(loaded, 2, text=text, sample=SampleConfig(steps=4, guidance_scale=2.0))
    hook.remove()
    assert len(calls) == 1 and guided.shape == (2, 3, 32, 32)  # encoded once, both branches
    nothing = captions.rows(["", ""])
    assert torch.equal(draw(loaded, 2), draw(loaded, 2, text=nothing))
    source = backend.sources()[0]
    rng = torch.Generator().manual_seed(0)
    examples = [backend.prepare(source, i, rng, False) for i in range(200)]
    batch = backend.collate(examples, BatchRng.for_samples(0, range(200)))
    dropped = (batch["text"] == captions.null).all(dim=1)
    assert dropped.float().mean() == pytest.approx(0.1, abs=0.06)
    assert torch.equal(
        batch["text"][~dropped], captions.rows([e.caption for e in examples])[~dropped]
    )
    (tmp_path / "lines.txt").write_text(f"{lines[0]}\n\na mauve circle\n")
    decode = ("decode", "mvtm", tmp_path / "lines.txt", "-c", told, "--out", f"{tmp_path}/drawn/")
    result = cli(*decode)
    assert result.code == 0 and "line 3" in result.err and "does not know" in result.err
    assert len([*(tmp_path / "drawn").iterdir()]) == 3
    result = cli(
        "sample", "mvtm", "-c", told, "-n", 2, "--prompt", lines[0], "--out", tmp_path / "x.png"
    )
    assert result.code == 0, result.err
    given = picture(tmp_path / "in.png", 32)
    edit = ("--image", given, "--box", "8,8,8,8", "--blend")
    assert cli(*decode, *edit).code == 0


def test_tokenizers_of_captions_and_pictures_are_both_tied_to_the_weights(cli, told, tmp_path):
    for name in ("image", "text"):
        run = shutil.copytree(told, tmp_path / name)
        about = run / "tokenizer" / name / "gentool.json"
        about.write_text(about.read_text().replace('"sha256": "', '"sha256": "0'))
        result = cli("sample", "mvtm", "-c", run)
        assert result.code == 4 and "SHA-256" in result.err
    shutil.rmtree(tmp_path / "text/tokenizer/text")
    result = cli("sample", "mvtm", "-c", tmp_path / "text")
    assert result.code == 4 and "is not the tokenizer" in result.err


def test_a_token_cache_is_trained_on_in_place_of_pictures(
    cli, mvtm_recipe, mvtm_run, tmp_path, monkeypatch
):
    pictures, cache = load_checkpoint(mvtm_run, "mvtm").config.data.spec[0], tmp_path / "tokens"
    made = cli(
        "tokenizer", "cache", "-t", mvtm_run / "vq", "--data", pictures, "--set", "image_size=8",
        "--set", "flip=true", "--views", 3, "--out", cache,
    )  # fmt: skip
    assert made.code == 0, made.err
    loaded = load_checkpoint(mvtm_run, "mvtm")
    loaded.config.tokenizer.cache, loaded.config.data.flip = str(cache), True
    train, held_out = loaded.backend.sources()
    assert train.size + held_out.size == 24
    loaded.config.tokenizer.cache = ""
    plain = loaded.backend.sources()[0]
    seen = set()
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        found = loaded.backend.prepare(train, 3, rng, True)
        seen.add(found.views.tobytes())
        batch = loaded.backend.collate([found], BatchRng([rng]))
        assert batch["ids"].shape == (1, 16) and "x" not in batch
        original = loaded.backend.prepare(plain, 3, rng, False)
        assert (found.key, found.label) == (original.key, original.label)
        either = torch.stack([original.image, original.image.flip(-1)])
        assert (loaded.backend.image.encode(either) == batch["ids"]).all(dim=1).any()
    assert len(seen) == 2  # of three views some are mirrored, some are not

    encoded = []
    encode = type(loaded.backend.image).encode
    monkeypatch.setattr(
        type(loaded.backend.image), "encode",
        lambda self, x: encoded.append(len(x)) or encode(self, x),
    )  # fmt: skip
    train_it = ("train", "mvtm", "--recipe", mvtm_recipe, "--steps", 2)
    train_it += ("--set", "train.validate_every=0", "--set", f"tokenizer.cache={cache}")
    train_it += ("--set", f"tokenizer.image={mvtm_run}", "--out")
    result = cli(*train_it, tmp_path / "run", "--set", "data.crop=random")
    assert result.code == 4 and "--set data.flip=true --set data.crop=center here" in result.err
    train_it = (*train_it[:-1], "--set", "data.flip=true", "--out")
    assert cli(*train_it, tmp_path / "run").code == 0 and not encoded
    more = ("--init", mvtm_run, *train_it[4:])
    assert cli("train", "mvtm", "--recipe", mvtm_recipe, *more, tmp_path / "on").code == 0
    (tmp_path / "vq.toml").write_text(VQ)
    other = ("--recipe", tmp_path / "vq.toml", "--data", pictures, "--out", tmp_path / "vq")
    assert cli("train", "vq", *other, "--set", "data.image_size=8", "--steps", 1).code == 0
    more = (*more[:-1], "--set", f"tokenizer.image={tmp_path}/vq", "--out")
    result = cli("train", "mvtm", "--recipe", mvtm_recipe, *more, tmp_path / "no")
    assert result.code == 2 and "--init keeps the checkpoint's tokenizer" in result.err
    moved = cache.rename(tmp_path / "moved")
    again = ("train", "mvtm", "--resume", tmp_path / "on", "--steps", 3, "-q")
    assert cli(*again, "--set", f"tokenizer.cache={moved}").code == 0 and not encoded
    moved.rename(cache)
    result = cli(*train_it, tmp_path / "again", "--set", "tokenizer.image=", "--dry-run")
    assert result.code == 2 and "tokenizer.image=RUN" in result.err
    about = (cache / "about.json").read_text()
    (cache / "about.json").write_text(about.replace('"tokenizer": "', '"tokenizer": "0'))
    whole = np.load(cache / "tokens.npy")
    np.save(cache / "tokens.npy", whole[..., :4])  # as of another grid
    result = cli(*train_it, tmp_path / "again")
    assert result.code == 4 and "another tokenizer" in result.err
    np.save(cache / "tokens.npy", whole)
    (cache / "about.json").write_text(about.replace("{}", '{"caption_column": "de"}'))
    result = cli(*train_it, tmp_path / "again")
    assert result.code == 4 and "other parts of the data" in result.err
    earlier = json.loads(about)
    del earlier["views_by"]
    (cache / "about.json").write_text(json.dumps(earlier))
    unknown = cli(*train_it, tmp_path / "again", "--set", "data.crop=random", "--dry-run")
    assert unknown.code == 0, unknown.err
    (cache / "about.json").write_text(about)
    (cache / "records.jsonl").write_text("")
    result = cli(*train_it, tmp_path / "again")
    assert result.code == 4 and "not a whole token cache" in result.err
    result = cli(*train_it, tmp_path / "again", "--set", f"tokenizer.cache={tmp_path}")
    assert result.code == 3 and "gentool tokenizer cache" in result.err


def test_a_token_cache_is_whole_or_not_there(cli, mvtm_run, tmp_path):
    data = shutil.copytree(load_checkpoint(mvtm_run, "mvtm").config.data.spec[0], tmp_path / "data")
    bad = sorted(data.rglob("*.png"))[0]
    bad.write_bytes(bad.read_bytes()[:60])
    make = ("tokenizer", "cache", "-t", mvtm_run / "vq", "--data", data, "--set", "image_size=8",
            "--views", 2, "--out", tmp_path / "tokens")  # fmt: skip
    result = cli(*make)
    assert result.code == 4 and bad.name in result.err and "on_error=skip" in result.err
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    result = cli(*make, "--set", "on_error=skip")
    assert result.code == 0 and f"skipped: {bad.relative_to(data)}" in result.err
    tokens = np.load(tmp_path / "tokens/tokens.npy")
    records = (tmp_path / "tokens/records.jsonl").read_text().splitlines()
    keys = {json.loads(record)["key"] for record in records}
    assert tokens.shape == (len(records), 2, 16) and str(bad.relative_to(data)) not in keys


def test_eval_scores_captions_and_untrained_weights_score_nothing(cli, told):
    result = cli("eval", "mvtm", "-c", told, "--metric", "scenes", "--num", 4, "--json")
    assert result.code == 0, result.err
    figures = {r["metric"]: r["value"] for r in result.records}
    names = {f"{s}-{lang}" for s in ("test", "test-novel") for lang in ("en", "zh")}
    assert {f"scene_accuracy[{name}]" for name in names} <= figures.keys()
    assert not any(value for name, value in figures.items() if "accuracy" in name)
    result = cli("eval", "mvtm", "-c", told, "--metric", "reconstruction", "--num", 8, "--json")
    figures = {r["metric"]: r["value"] for r in result.records}
    assert figures["scene_read_back"] == 0 and 0 < figures["codebook_usage"] <= 1


def test_the_more_is_hidden_the_less_is_known():
    """Of the shipped checkpoint: the loss of a token rises with the share that is masked."""
    loaded = load_checkpoint(shipped("checkpoints")["mvtm-scenes"], "mvtm")
    backend = loaded.backend
    held_out = first_pictures(backend.sources()[1], 64, loaded.config.data)
    rng = BatchRng.for_samples(0, range(64))
    with torch.no_grad():
        ids = backend.image.encode(torch.stack([picture.image for picture in held_out]))
        scores, losses = rng.uniform(backend.L), []
        for share in (0.2, 0.5, 0.9):
            hidden = lowest(scores, torch.full((64,), round(share * backend.L)))
            loss = training_loss(loaded.network, ids, hidden, backend.mask_id)
            losses.append(loss.mean().item())
    assert losses[0] < losses[1] < losses[2]
