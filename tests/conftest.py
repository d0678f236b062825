"""A tiny ddpm recipe, the command line called in this process, and a small trained run."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

# Before torch is imported, and for the processes that tests start: the tensors are tiny, and
# threads that wait for one another crawl on a machine that has other work.
os.environ["OMP_NUM_THREADS"] = "1"
# A job in the background of a script ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# No test asks the Hub: what a name means there is not ours to say.
os.environ["HF_HUB_OFFLINE"] = "1"

from gentool.data.scenes import SceneTexts  # noqa: E402

RECIPE = """\
backend = "ddpm"
[data]
spec = "scenes"
[model]
channels = 8
multipliers = [1]
blocks = 1
attention = []
norm_groups = 4
dropout = 0.1
patch_size = 4
[diffusion]
T = 20
schedule = "cosine"
[train]
batch_size = 4
steps = 40
warmup_steps = 0
log_every = 5
save_every = 10
validate_every = 20
validation_examples = 8
sample_every = 0
[sample]
steps = 5
"""


@dataclass
class Result:
    """What a command did."""

    code: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Result]


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside():
    """The caller's GENTOOL_* variables do not reach the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GENTOOL_")]:
            patch.delenv(name)
        yield


@pytest.fixture
def cli(capfdbinary) -> Cli:
    """`cli("sample", "ddpm", …)` runs a command in this process."""

    def call(*arguments: object) -> Result:
        from gentool.cli.main import run

        capfdbinary.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Result(code, out, err.decode())

    return call


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    """A recipe file whose 40 steps take a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def tiny_run(recipe, tmp_path_factory) -> Path:
    """A run of the tiny recipe, 40 steps in one go. Not to be changed."""
    return trained("ddpm", recipe, tmp_path_factory.mktemp("runs") / "tiny")


def trained(backend: str, recipe: Path, out: Path) -> Path:
    """`out`, after a run of the recipe."""
    from gentool.cli.main import run

    assert run(["train", backend, "--recipe", str(recipe), "--out", str(out), "--quiet"]) == 0
    return out


TEXT_RECIPE = """\
backend = "diffusion-lm"
[data]
spec = "scenes"
length = 24
[tokenizer]
min_count = 1
[model]
embedding = 8
hidden = 16
layers = 1
heads = 2
time_features = 8
[diffusion]
T = 20
[train]
batch_size = 4
steps = 40
warmup_steps = 0
learning_rate = 0.003
ema_decay = 0.9
log_every = 5
save_every = 10
validate_every = 20
validation_examples = 8
sample_every = 40
[sample]
steps = 5
"""


@pytest.fixture(scope="session")
def text_recipe(tmp_path_factory) -> Path:
    """A recipe file of diffusion-lm whose 40 steps take a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny-text.toml"
    path.write_text(TEXT_RECIPE)
    return path


@pytest.fixture(scope="session")
def text_run(text_recipe, tmp_path_factory) -> Path:
    """A run of the tiny text recipe, 40 steps in one go. Not to be changed."""
    return trained("diffusion-lm", text_recipe, tmp_path_factory.mktemp("runs") / "tiny-text")


PAIRS_RECIPE = """\
backend = "mask-predict"
[data]
length = 30
[tokenizer]
min_count = 1
[model]
hidden = 16
feedforward = 32
encoder_layers = 1
decoder_layers = 2
heads = 2
dropout = 0.1
[train]
batch_size = 8
steps = 40
learning_rate = 0.01
warmup_steps = 4
ema_decay = 0.9
clip_norm = 1.0
log_every = 5
save_every = 10
validate_every = 20
validation_examples = 8
sample_every = 40
"""
CAPTIONED = """
[tokenizer]
min_count = 1
[model.text]
encoder = "transformer"
length = 26
width = 16
layers = 1
heads = 2
"""


@pytest.fixture(scope="session")
def pairs_recipe(tmp_path_factory) -> Path:
    """A recipe file of mask-predict whose 40 steps take a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny-pairs.toml"
    path.write_text(PAIRS_RECIPE)
    return path


@pytest.fixture(scope="session")
def pairs_run(pairs_recipe, tmp_path_factory) -> Path:
    """A run of the tiny recipe of pairs, 40 steps in one go. Not to be changed."""
    return trained("mask-predict", pairs_recipe, tmp_path_factory.mktemp("runs") / "tiny-pairs")


TEACHER_RECIPE = """\
backend = "teacher"
[data]
spec = "{corpus}"
length = 30
[tokenizer]
min_count = 1
[model]
hidden = 32
feedforward = 64
encoder_layers = 1
decoder_layers = 1
heads = 2
[train]
batch_size = 8
steps = 120
learning_rate = 0.01
warmup_steps = 4
schedule = "constant"
ema_decay = 0.9
log_every = 5
save_every = 60
validate_every = 60
validation_examples = 8
sample_every = 120
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> str:
    """`SOURCE,TARGET`: sixty captions in English and in Chinese, as parallel lines."""
    folder = tmp_path_factory.mktemp("corpus")
    pairs = [SceneTexts("train", "en-zh")[i] for i in range(60)]
    for name, lines in {"x.en": [p.source for p in pairs], "x.zh": [p.text for p in pairs]}.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return f"{folder / 'x.en'},{folder / 'x.zh'}"


@pytest.fixture(scope="session")
def teacher_recipe(corpus, tmp_path_factory) -> Path:
    """A recipe file of a teacher whose 120 steps on the corpus take seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny-teacher.toml"
    path.write_text(TEACHER_RECIPE.format(corpus=corpus))
    return path


@pytest.fixture(scope="session")
def teacher_run(teacher_recipe, tmp_path_factory) -> Path:
    """A teacher trained for 120 steps. Not to be changed."""
    return trained("teacher", teacher_recipe, tmp_path_factory.mktemp("runs") / "teacher")


@pytest.fixture(scope="session")
def caption_recipe(tmp_path_factory) -> Path:
    """The tiny recipe, drawing from captions in both languages."""
    path = tmp_path_factory.mktemp("recipe") / "tiny-captions.toml"
    text = RECIPE.replace('spec = "scenes"', 'spec = "scenes"\nlanguage = "both"')
    text = text.replace("attention = []", "attention = [8]").replace("sample_every = 0", "")
    path.write_text(text + CAPTIONED)
    return path


@pytest.fixture(scope="session")
def caption_run(caption_recipe, tmp_path_factory) -> Path:
    """A run of that recipe, 40 steps in one go. Not to be changed."""
    return trained("ddpm", caption_recipe, tmp_path_factory.mktemp("runs") / "captions")


CLASSES = ("ant", "bee", "cat")
CLASS_RECIPE = """\
backend = "ddpm"
[data]
spec = ["{folder}"]
image_size = 8
[model]
channels = 8
multipliers = [1]
blocks = 1
attention = []
norm_groups = 4
classes = 3
[diffusion]
T = 20
schedule = "cosine"
[train]
batch_size = 8
steps = 30
learning_rate = 0.003
warmup_steps = 0
validate_every = 0
sample_every = 30
[sample]
steps = 5
"""


@pytest.fixture(scope="session")
def class_recipe(tmp_path_factory) -> Path:
    """A recipe file beside a folder of small pictures in three classes, one brightness each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for name, brightness in zip(CLASSES, (40, 200, 120), strict=True):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.normal(brightness, 15, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{i}.png")
    path = folder / "classes.toml"
    path.write_text(CLASS_RECIPE.format(folder=folder / "pictures"))
    return path


@pytest.fixture(scope="session")
def class_run(class_recipe, tmp_path_factory) -> Path:
    """A run on the pictures in classes. Not to be changed."""
    return trained("ddpm", class_recipe, tmp_path_factory.mktemp("runs") / "classes")


@pytest.fixture(scope="session")
def mvtm_recipe(class_recipe, tmp_path_factory) -> Path:
    """A recipe file of mvtm on the same pictures, beside that of its tokenizer."""
    from pictures import MVTM, VQ

    folder = tmp_path_factory.mktemp("recipe")
    (folder / "tiny-vq.toml").write_text(VQ)
    pictures = class_recipe.parent / "pictures"
    text = MVTM.format(folder=pictures, first=folder / "tiny-vq.toml")
    (folder / "tiny-mvtm.toml").write_text(text)
    return folder / "tiny-mvtm.toml"


@pytest.fixture(scope="session")
def mvtm_run(mvtm_recipe, tmp_path_factory) -> Path:
    """A run of both its stages. Not to be changed."""
    return trained("mvtm", mvtm_recipe, tmp_path_factory.mktemp("runs") / "mvtm")


@pytest.fixture
def train(cli, recipe, tmp_path) -> Cli:
    """`train("--steps", 5)` trains the tiny recipe into tmp_path / "run"."""

    def call(*arguments: object, out: Path | None = None) -> Result:
        out = out or tmp_path / "run"
        return cli("train", "ddpm", "--recipe", recipe, "--out", out, *arguments)

    return call


def fails(result: Result, code: int, *words: str) -> None:
    """Assert that a command failed with `code`, in a line or two that say `words`."""
    assert result.code == code, result.err
    assert result.out == "" and "Traceback" not in result.err and "bug" not in result.err
    assert 1 <= len(result.err.splitlines()) <= 2, result.err
    assert all(word in result.err for word in words), result.err


@pytest.fixture
def window(monkeypatch) -> None:
    """Windows of four records."""
    from gentool.data import source, tar

    monkeypatch.setattr(source, "WINDOW", 4)
    monkeypatch.setattr(tar, "WINDOW", 4)


def states_of(run: Path) -> list[int]:
    """The steps that `run` holds states of, half-made ones not counted."""
    return sorted(int(path.name[5:]) for path in (run / "state").glob("step-*"))


def log_of(run: Path) -> list[dict]:
    """The records of log.jsonl without what a clock made."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "examples_per_second"} for r in records]


def weights_of(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()
