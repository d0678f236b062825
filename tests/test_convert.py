"""`gentool import diffusers` and `gentool export diffusers` from the shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gentool.backends.ddpm import Config
from gentool.backends.ddpm.backend import Backend
from gentool.backends.ddpm.diffusers import WEIGHTS, write
from gentool.checkpoint.weights import load_tensors
from gentool.rng import torch_seed
from gentool.settings import build

CONFIG = {
    "data": {"image_size": 16},
    "model": {
        "channels": 16,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [8],
        "head_channels": 8,
        "norm_groups": 4,
        "classes": 3,
        "time_features": "cos_sin",
    },
    "diffusion": {"T": 20, "schedule": "cosine", "drop_condition": 0.0},
    "sample": {"steps": 20},
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """A DDPMPipeline of random weights, written without diffusers. Not to be changed."""
    folder = tmp_path_factory.mktemp("pipeline") / "theirs"
    folder.mkdir()
    config = build(Config, CONFIG)
    with torch_seed("test"):
        network = Backend(config).network()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.05)
                if name == "classes.weight":
                    parameter[-1] = 0
    write(config, network, folder, folder)
    return folder


def shell(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gentool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_import_use_and_export(theirs, cli, tmp_path):
    """From the shell: a checkpoint like any other, and the same bytes when it is written back."""
    pytest.importorskip("diffusers")
    out, back = tmp_path / "made/here", tmp_path / "back"
    done = shell("import", "diffusers", theirs, "--out", out)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert "largest difference on a random batch" in done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["here"]

    (inspected,) = cli("inspect", out, "--json").records
    assert inspected["recipe"] == "theirs" and inspected["config"]["diffusion"]["T"] == 20
    assert inspected["data"]["labels"] == ["0", "1", "2"]
    assert inspected["data"]["fingerprint"].startswith("imported-")
    card = (out / "README.md").read_text()
    assert "diffusers folder `theirs`" in card and "elsewhere" in card and "EMA" not in card
    drawn = cli("sample", "ddpm", "-c", out, "-n", 2, "--class", "1", "--out", tmp_path / "x.png")
    assert drawn.code == 0, drawn.err

    done = cli("export", "diffusers", out, "--out", back, "--json")
    assert done.code == 0, done.err
    (record,) = done.records
    assert record["path"] == str(back) and record["difference"] < 1e-5 * record["largest_output"]
    for name in (f"unet/{WEIGHTS}", "unet/config.json", "scheduler/scheduler_config.json"):
        assert (back / name).read_bytes() == (theirs / name).read_bytes()


def test_training_goes_on_from_an_imported_checkpoint(theirs, cli, train, tmp_path):
    out = tmp_path / "imported"
    assert cli("import", "diffusers", theirs, "--out", out).code == 0
    size = ("--set", "data.image_size=16", "--steps", 1)
    refused = train("--init", out, *size)
    assert refused.code == 4 and "another" in refused.err
    options = refused.err.splitlines()[1].split()
    assert "model.norm_groups=4" not in options and "model.classes=3" in options
    # The scenes have no classes to go on with: a checkpoint without them does.
    config = build(Config, CONFIG | {"model": CONFIG["model"] | {"classes": 0}})
    plain = tmp_path / "plain"
    plain.mkdir()
    write(config, Backend(config).network(), plain, plain)
    assert cli("import", "diffusers", plain, "--out", tmp_path / "other").code == 0
    refused = train("--init", tmp_path / "other", *size)
    options = refused.err.splitlines()[1].split()
    assert 'model.time_features="cos_sin"' in options
    went_on = train("--init", tmp_path / "other", *size, *options)
    assert went_on.code == 0, went_on.err


def test_without_diffusers_it_is_converted_all_the_same(theirs, cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    done = cli("import", "diffusers", theirs, "--out", tmp_path / "a", "--json")
    assert done.code == 0 and "pip install diffusers" in done.err
    assert done.records == [
        {"path": str(tmp_path / "a"), "difference": None, "largest_output": None}
    ]
    done = cli("export", "diffusers", tmp_path / "a", "--out", tmp_path / "b")
    assert done.code == 0 and "pip install diffusers" in done.err
    tensors = [load_tensors(folder / "unet" / WEIGHTS)[0] for folder in (theirs, tmp_path / "b")]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


def test_a_folder_without_a_scheduler_is_the_papers(theirs, cli, tmp_path):
    done = cli("import", "diffusers", theirs / "unet", "--out", tmp_path / "a")
    assert done.code == 0 and "no scheduler" in done.err and "linear" in done.err


def test_sampling_settings_that_stay_behind_are_named(theirs, cli, tmp_path):
    out = tmp_path / "a"
    assert cli("import", "diffusers", theirs, "--out", out).code == 0
    tree = json.loads((out / "config.json").read_text())
    tree["config"]["sample"] |= {"steps": 5, "sampler": "ddim"}
    (out / "config.json").write_text(json.dumps(tree))
    done = cli("export", "diffusers", out, "--out", tmp_path / "b")
    assert done.code == 0 and "steps 5, sampler ddim" in done.err


def test_a_shifted_chain_has_no_name_there(theirs, cli, tmp_path):
    out = tmp_path / "a"
    assert cli("import", "diffusers", theirs, "--out", out).code == 0
    tree = json.loads((out / "config.json").read_text())
    tree["config"]["diffusion"]["shift"] = 2.0
    (out / "config.json").write_text(json.dumps(tree))
    done = cli("export", "diffusers", out, "--out", tmp_path / "b")
    assert done.code == 4 and "diffusion.shift = 2.0" in done.err


def test_exit_codes(theirs, tiny_run, cli, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    new = tmp_path / "new"
    for arguments, code, words in [
        (("import", "diffusers", theirs), 2, "--out"),
        (("import", "diffusers", theirs, "--out", full), 2, "already exists"),
        (("export", "diffusers", tiny_run, "--out", full), 2, "already exists"),
        (("import", "diffusers", tmp_path / "none", "--out", new), 3, "none"),
        (("import", "diffusers", full, "--out", new), 3, "config.json"),
        (("import", "nonesuch", theirs, "--out", new), 2, "nonesuch"),
        (("export", "diffusers", tmp_path / "none", "--out", new), 3, "none"),
        (("export", "diffusers", tiny_run, "--out", new), 4, "model.patch_size = 4"),
        (("export", "diffusers", theirs, "--out", new), 3, "theirs"),
    ]:
        result = cli(*arguments)
        assert result.code == code and words in result.err and result.out == "", arguments
        assert len(result.err.splitlines()) <= 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
