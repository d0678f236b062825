"""docs/backend.md, done: a backend in a package of its own, installed, trained and drawn from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
RUNNER = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from gentool.cli.main import run
done = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(arguments)
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where pip installed tests/flow, beside a package whose backend cannot be imported."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    offline = ("--no-build-isolation", "--disable-pip-version-check", "--target", str(folder))
    done = subprocess.run([*command, *offline, str(HERE / "flow")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    broken = folder / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    points = "[gentool.backends]\nbroken = no_such_module\nddpm = gentool_flow\n"
    (broken / "entry_points.txt").write_text(points)
    return folder


def gentool(site: Path, cwd: Path, *commands: str) -> list[tuple[int, str, str]]:
    """What each command does in one process that has `site`: exit code, output, errors."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", str(HERE.parent))])
    lines = json.dumps([command.split() for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, lines], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "80"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [tuple(result) for result in json.loads(done.stdout)]


def test_an_installed_backend_is_one_like_the_others(site, tmp_path):
    doctor, *results = gentool(
        site, tmp_path, "doctor",
        "list backends", "train flow --help", "sample flow --help", "train flow --dry-run",
        "train flow", "train flow --stop-at 7 --out cut",
        "train flow --resume latest --out cut", "inspect runs/flow-scenes",
        "sample flow -c runs/flow-scenes -n 3 --steps 4 --out a.npy --trace how.html",
        "sample flow -c runs/flow-scenes --index 2 --steps 4 --out b.npy",
        "eval flow -c runs/flow-scenes -n 8 --json", "bench flow -c runs/flow-scenes -n 2 --json "
        "--steps 1 --repeats 1",
    )  # fmt: skip
    assert doctor[0] == 1 and "ok  backend flow         gentool_flow" in doctor[1]
    assert "BAD backend broken" in doctor[1] and "no_such_module" in doctor[1]
    assert all(code == 0 for code, _, _ in results), [r for r in results if r[0]]
    out = [text for _, text, _ in results]
    assert "flow                         rectified flow over pixels" in out[0]
    assert "ddpm                         pixel diffusion" in out[0] and "broken" not in out[0]
    assert "gentool train flow" in out[1] and "Euler steps from noise" in out[2]
    assert "model.patch_size = 4" in out[3] and "new run" in out[3]
    run, cut = tmp_path / "runs" / "flow-scenes", tmp_path / "cut"
    for name in ("model.safetensors", "README.md"):
        assert (run / name).read_bytes() == (cut / name).read_bytes(), name
    assert (run / "samples" / "step-00000012.png").is_file()
    losses = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert losses[-1]["step"] == 12 and losses[-2]["loss"] < losses[0]["loss"]
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(a[2:], b, atol=1e-3)
    assert a.std() > 0.1 and 'data-total="4"' in (tmp_path / "how.html").read_text()
    metrics = {json.loads(line)["metric"] for line in out[-2].splitlines()}
    assert {"loss", "scene_validity"} <= metrics and json.loads(out[-1])["backend"] == "flow"


def test_what_it_cannot_do_is_said(site, tmp_path):
    (tmp_path / "lines").write_text("\na red cross\n")
    recipe = "--recipe ddpm-scenes"
    results = gentool(
        site, tmp_path, "train flow --steps 1 --out run --quiet",
        "decode flow -c run lines --out drawn.npy", "sample flow -c run --class cat",
        "sample flow -c run --prompt cat", "sample ddpm -c run", f"train flow {recipe}",
        "train flow --set model.chanels=3", "train broken",
    )  # fmt: skip
    assert [code for code, _, _ in results] == [0, 4, 2, 2, 4, 2, 2, 2]
    told = ("reads no captions", "knows no classes", "reads no captions", "is a flow checkpoint",
            "is not for flow", "channels", "broken")  # fmt: skip
    assert all(words in err for words, (_, _, err) in zip(told, results[1:], strict=True))
    drawn = np.load(tmp_path / "drawn.npy")
    assert (drawn[1] == 1).all() and not (drawn[0] == 1).all()


def test_an_algorithm_has_its_paper_to_answer_to(site, monkeypatch):
    """Along a straight line Euler's method is exact, with any number of steps."""
    import torch

    monkeypatch.syspath_prepend(str(site))
    from gentool_flow.algorithm import sample, training_loss

    x_0, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for steps in (1, 7):
        drawn = sample(lambda x, t: eps - x_0, eps, steps, lambda x: None)
        assert torch.allclose(drawn, x_0, atol=1e-5)
    t = torch.tensor([0.0, 0.5, 1.0])
    assert training_loss(lambda x, t: eps - x_0, x_0, t, eps).max() == 0
    assert training_loss(lambda x, t: torch.zeros_like(x), x_0, t, eps).min() > 0.5
