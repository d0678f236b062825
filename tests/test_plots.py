"""`gentool inspect RUN... --plot`: the curves of runs."""

import json
import sys

import numpy as np
from PIL import Image

from gentool.render.plots import curves


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_curves_of_several_runs(cli, tiny_run, text_run, tmp_path):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    result = cli("inspect", tiny_run, "--plot", one)
    assert result.code == 0 and result.out.strip() == str(one) and result.err == ""
    state = sorted((tiny_run / "state").iterdir())[-1]
    assert cli("inspect", state, "--plot", tmp_path / "state.png").code == 0
    result = cli("inspect", tiny_run, text_run, "--plot", two, "--json")
    assert result.code == 0 and result.records == [{"path": str(two)}]
    assert pixels(one).shape[0] > 500 and pixels(one).std() > 5
    assert pixels(one).shape != pixels(two).shape or (pixels(one) != pixels(two)).any()
    result = cli("inspect", tiny_run, "--plot", tmp_path / "new" / "x.svg")
    assert result.code == 0
    svg = (tmp_path / "new" / "x.svg").read_text()
    assert svg.count("<path") > 10


def test_a_run_without_validation_and_one_that_falls_far(tmp_path):
    records = [
        {"step": s, "loss": 10.0**-s, "grad_norm": 1.0, "learning_rate": 0.1} for s in (1, 2, 3)
    ]
    curves({"a": records, "b": records[:1]}, tmp_path / "x.png")
    assert pixels(tmp_path / "x.png").std() > 5


def test_where_there_are_no_curves(cli, tiny_run, tmp_path):
    result = cli("inspect", "ddpm-scenes", "--plot", tmp_path / "x.png")
    assert result.code == 3 and "log.jsonl" in result.err
    for target in ("x.gif", "x", "-"):
        result = cli("inspect", tiny_run, "--plot", target)
        assert result.code == 2 and ".png, .svg, .pdf" in result.err
    assert cli("inspect", tiny_run, tmp_path / "no", "--plot", tmp_path / "x.png").code == 3
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "log.jsonl").write_text(json.dumps({"step": 1, "val_loss": 1.0}))
    result = cli("inspect", tmp_path / "empty", "--plot", tmp_path / "x.png")
    assert result.code == 4 and not (tmp_path / "x.png").exists()


def test_without_matplotlib_the_command_that_brings_it_is_named(cli, tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = cli("inspect", tiny_run, "--plot", "x.png")
    assert result.code == 2 and "pip install matplotlib" in result.err


def test_several_checkpoints_are_described_one_after_the_other(cli, tiny_run, text_run):
    first, second = cli("inspect", tiny_run, text_run, "--json").records
    assert (first["backend"], second["backend"]) == ("ddpm", "diffusion-lm")
    text = cli("inspect", tiny_run, text_run).out
    assert "\n\nfolder" in text
