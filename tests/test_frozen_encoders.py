"""Frozen text encoders: named in a checkpoint, not stored in it, and found again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import fails
from encoders import text_encoder
from safetensors.torch import load_file


def recipe_of(encoder: object, caption_recipe: Path, path: Path) -> Path:
    """The recipe of captions, read by that encoder."""
    text = caption_recipe.read_text().replace('"transformer"', f'"pretrained"\nname = "{encoder}"')
    path.write_text(text.replace("length = 26", "length = 16").replace('"both"', '"en"'))
    return path


@pytest.fixture(scope="module")
def frozen(caption_recipe, tmp_path_factory):
    """A folder with a run, and the CLIP that it leans on."""
    from gentool.cli.main import run

    folder = tmp_path_factory.mktemp("frozen")
    clip = text_encoder("clip", folder / "clip")
    recipe = recipe_of(clip, caption_recipe, folder / "recipe.toml")
    command = ["train", "ddpm", "--recipe", str(recipe), "-q"]
    assert run([*command, "--steps", "3", "--out", str(folder / "run")]) == 0
    return folder


def test_a_frozen_encoder_is_named_and_not_stored(frozen, cli, tmp_path):
    written = json.loads((frozen / "run/config.json").read_text())
    assert written["config"]["model"]["text"]["name"] == str(frozen / "clip")
    assert len(written["data"]["text_encoder"]) == 64
    stored = load_file(frozen / "run/model.safetensors")
    assert [n for n in stored if n.startswith("text.")] and not [n for n in stored if "layers" in n]
    array = tmp_path / "x.npy"
    drawn = []
    for prompt in ("red circle", "blue square"):
        run = ("sample", "ddpm", "-c", frozen / "run", "-n", 1, "--prompt", prompt)
        assert cli(*run, "--out", array, "-q").code == 0
        drawn.append(np.load(array))
    assert not np.array_equal(*drawn)
    again = ("train", "ddpm", "--resume", frozen / "run", "--steps", 4, "-q")
    assert cli(*again).code == 0


def test_an_encoder_of_the_hub_is_found_again_when_its_branch_has_moved(caption_recipe, tmp_path):
    """With a cache of the Hub as huggingface_hub lays it out, and no network."""
    hub = tmp_path / "home/hub/models--someone--clip"
    commits = ["a" * 40, "b" * 40]
    for seed, commit in enumerate(commits):
        text_encoder("clip", hub / "snapshots" / commit, seed=seed)
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text(commits[0])
    recipe = recipe_of("someone/clip", caption_recipe, tmp_path / "recipe.toml")
    env = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}

    def train(*more: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "gentool", "train", "ddpm", "--recipe", recipe, "-q"]
        command += ["--out", tmp_path / "run", *more]
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stderr

    train("--steps", "2")
    written = json.loads((tmp_path / "run/config.json").read_text())
    assert written["config"]["model"]["text"]["revision"] == commits[0]
    (hub / "refs/main").write_text(commits[1])
    train("--steps", "3", "--resume", "latest")
    hub.rename(tmp_path / "gone")
    told = train("--steps", "4", "--resume", "latest", code=3)
    assert "someone/clip" in told and "a connection to the Hub" in told


def test_a_frozen_encoder_that_is_gone_or_another(frozen, cli, tmp_path):
    copy = shutil.copytree(frozen / "run", tmp_path / "run")
    command = ("sample", "ddpm", "-c", copy, "-n", 1, "-q", "--out", tmp_path / "x.png")
    (frozen / "clip").rename(frozen / "away")
    try:
        fails(cli(*command), 3, "text encoder", "clip")
        text_encoder("clip", frozen / "clip", seed=1)
        fails(cli(*command), 4, "is not the one that this model was trained with")
        shutil.rmtree(frozen / "clip")
    finally:
        (frozen / "away").rename(frozen / "clip")
