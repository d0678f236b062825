"""Several processes under a launcher: what one process with their batches together does.

Two gloo processes on this machine. A launch costs seconds, so one of them runs several commands.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import log_of, states_of, weights_of
from safetensors.torch import load_file
from test_vq_runs import VQ_RECIPE

# torchrun, but with processes forked after the imports, which take most of the time. They run the
# commands of a JSON list one after the other, after `patch`, and note their exit codes.
LAUNCHER = """
import json, os, pathlib, sys
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from gentool.cli.main import run
from gentool.training import start
from gentool.training.loop import Trainer
folder, processes, patch, commands = pathlib.Path(sys.argv[1]), *map(json.loads, sys.argv[2:])

def process():
    rank = int(os.environ["RANK"])
    exec(patch, globals() | {"rank": rank})
    codes = [run(command) for command in commands]
    (folder / f"codes-{rank}").write_text(json.dumps(codes))
    sys.exit(codes[-1])

logs = DefaultLogsSpecs(folder / "logs", redirects=Std.ALL)
config = LaunchConfig(
    1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork",
    logs_specs=logs, max_restarts=0,
)
elastic_launch(config, process)()
"""

# Process 1 alone meets a loss that is not a number, in the run that is called "broken".
BROKEN = """
from gentool.backends.ddpm.backend import Backend
loss, fit = Backend.loss, Trainer.fit
def poisoned(self, network, batch):
    return {k: v * float("nan") for k, v in loss(self, network, batch).items()}
def fitting(self, run, *more):
    if run.name == "broken" and rank == 1:
        Backend.loss = poisoned
    fit(self, run, *more)
Trainer.fit = fitting
"""

# Process 1 alone cannot read a record of the third step.
UNREADABLE = """
from gentool.data.loader import Loader
from gentool.errors import BadDataError
following, calls = Loader.next, iter(range(1000))
def failing(self, n):
    if rank == 1 and next(calls) == 2:
        raise BadDataError("b.png is cut short", "mend it")
    return following(self, n)
Loader.next = failing
"""

# Updates take a while; `ready` says that they have begun.
SLOW = """
import time
update = Trainer.optimizer_step
def slow(self):
    (folder / "ready").touch()
    time.sleep(0.05)
    return update(self)
Trainer.optimizer_step = slow
"""


# Each process says what its codebook is at the end of a run.
CODEBOOKS = """
fit = Trainer.fit
def fitting(self, run, *more):
    fit(self, run, *more)
    sums = [buffer.double().sum().item() for buffer in self.model.buffers()]
    (folder / f"codebook-{rank}").write_text(repr(sums))
Trainer.fit = fitting
"""


class Launch:
    """A launcher at work on processes whose streams go to files."""

    def __init__(self, folder: Path, *command: object) -> None:
        self.folder = folder
        words = [sys.executable, *map(str, command)]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)

    def end(self) -> int:
        """Wait for the end; the launcher's exit code, and what it wrote in `err`."""
        try:
            _, self.err = self.process.communicate(timeout=120)
        except subprocess.TimeoutExpired:  # it hangs: its processes must not outlive the test
            self.process.terminate()
            self.process.communicate(timeout=60)
            raise
        return self.process.returncode

    def wrote(self, rank: int) -> str:
        """Both streams of one process."""
        logs = sorted((self.folder / "logs").rglob(f"{rank}/std*.log"))
        return "".join(path.read_text() for path in logs)

    def codes(self) -> list[list[int]]:
        """The exit codes of each process's commands."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("codes-*"))]


@pytest.fixture
def launch(tmp_path):
    """`launch(commands, patch)` runs them in two processes."""

    def start(commands: list[list[str]], patch: str = "", processes: int = 2) -> Launch:
        given = [json.dumps(value) for value in (processes, patch, commands)]
        return Launch(tmp_path, "-c", LAUNCHER, tmp_path, *given)

    return start


@pytest.fixture
def words(recipe, tmp_path):
    """`words("two", "--steps", 20)`: the command that trains into tmp_path / "two"."""

    def make(name: str, *more: object, batch: int = 4) -> list[str]:
        settings = ["model.dropout=0.0", "train.log_every=1", f"train.batch_size={batch}"]
        command = ["train", "ddpm", "--recipe", recipe, "--out", tmp_path / name, *more]
        command += ["--precision", "fp32", "--device", "cpu"]
        return [str(w) for w in command] + [w for text in settings for w in ("--set", text)]

    return make


def losses_of(run):
    return [record["loss"] for record in log_of(run) if "loss" in record]


def cut_back(run, step, name):
    """A copy of `run` that stopped at `step`."""
    copy = shutil.copytree(run, run.with_name(name))
    for later in [s for s in states_of(copy) if s > step]:
        shutil.rmtree(copy / f"state/step-{later:08d}")
    return copy


def test_two_processes_do_what_one_does_with_twice_the_batch(cli, words, launch, tmp_path):
    steps = ("--steps", 20)
    assert cli(*words("one", *steps, batch=8)).code == 0
    cut_back(tmp_path / "one", 10, "one-two")
    commands = [
        words("two", *steps),
        words("cut", *steps, "--stop-at", 10),
        words("cut", *steps, "--resume", "latest"),
        words("one-two", *steps, "--resume", "latest"),
        words("halves", "--steps", 3, "--set", "train.accumulate=2", batch=2),
        words("tried", "--dry-run"),
        words("broken", *steps),
    ]
    both = launch(commands, BROKEN)
    assert both.end() != 0 and "exitcode  : 5" in both.err
    assert both.codes() == [[0, 0, 0, 0, 0, 0, 5]] * 2

    one = losses_of(tmp_path / "one")
    assert len(one) == 20 and len({f"{loss:.6f}" for loss in one}) == 20
    assert losses_of(tmp_path / "two") == pytest.approx(one, rel=1e-4)
    assert losses_of(tmp_path / "halves") == pytest.approx(one[:3], rel=1e-4)
    assert log_of(tmp_path / "two")[-1]["step"] == 20
    examples = json.loads((tmp_path / "two/config.json").read_text())["metrics"]["examples"]
    assert examples == 20 * 8

    # Cut and resumed: the same bytes; by another number of processes: the same to rounding.
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "two")
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "two")
    assert losses_of(tmp_path / "one-two") == pytest.approx(one, rel=1e-4)
    back = cut_back(tmp_path / "two", 10, "two-one")
    refused = cli(*words("two-one", *steps, "--resume", "latest"))
    assert refused.code == 2 and "train.accumulate=2" in refused.err
    assert cli(*words("two-one", *steps, "--resume", "latest", batch=8)).code == 0
    assert losses_of(back) == pytest.approx(one, rel=1e-4)
    first, second = (load_file(run / "model.safetensors") for run in (back, tmp_path / "one"))
    assert all((first[name] - second[name]).abs().max() < 1e-5 for name in first)

    # The main process speaks; of a failure of all, the first to meet it.
    assert [both.wrote(0).count(text) for text in ("new run in", "train.steps = ")] == [4, 1]
    told = [line for rank in (0, 1) for line in both.wrote(rank).splitlines()]
    errors = [line for line in told if line.startswith("error: ")]
    assert len(errors) == 1 and "step 1: loss nan" in errors[0] and "8 examples" in errors[0]
    spoken = [line for line in both.wrote(1).splitlines() if "not finite" not in line]
    assert all(line.startswith("  ") for line in spoken), spoken  # the error's hint at most


def test_a_cut_run_of_three_ends_in_the_same_bytes(words, launch, tmp_path):
    """Of three summands the order matters: it must not depend on where a run began."""
    steps = ("--steps", 6)
    commands = [
        words("uncut", *steps, batch=2),
        words("cut", *steps, "--stop-at", 3, batch=2),
        words("cut", *steps, "--resume", "latest", batch=2),
    ]
    assert launch(commands, processes=3).end() == 0
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "uncut")


def test_codebooks_of_two_processes_stay_equal_and_are_resumed(launch, tmp_path):
    """What training moves without gradients: counts and sums are those of both. And a discriminator
    that has no part in the loss before step 4, an encoder that has none after step 2."""
    (tmp_path / "vq.toml").write_text(VQ_RECIPE)

    def words(name: str, *more: object) -> list[str]:
        settings = ("train.batch_size=2", "train.validate_every=0", "train.sample_every=0")
        settings += ("adversarial.weight=0.8", "adversarial.start=4", "adversarial.channels=4")
        settings += ("quantizer.start=0.25", "quantizer.entropy=0")
        command = ["train", "vq", "--recipe", tmp_path / "vq.toml", "--out", tmp_path / name]
        command += ["--steps", 8, "--device", "cpu", *more]
        return [str(w) for w in command] + [w for text in settings for w in ("--set", text)]

    commands = [words("uncut"), words("cut", "--stop-at", 3), words("cut", "--resume", "latest")]
    assert launch(commands, CODEBOOKS).end() == 0
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "uncut")
    sums = [(tmp_path / f"codebook-{rank}").read_text() for rank in range(2)]
    assert sums[0] == sums[1]
    seen = float(load_file(tmp_path / "uncut/model.safetensors")["n"].sum())
    assert seen == pytest.approx(2 * 2 * 64, rel=0.2)  # tokens of both processes' batches


def test_batches_of_tokens_are_dealt_out_as_micro_batches_are(
    cli, launch, pairs_recipe, corpus, tmp_path
):
    def words(name: str, accumulate: int, *more: object) -> list[str]:
        command = ["train", "mask-predict", "--recipe", pairs_recipe, "--data", corpus, "-q"]
        command += ["--out", tmp_path / name, *more, "--precision", "fp32", "--device", "cpu"]
        settings = ["model.dropout=0.0", "train.log_every=1", "train.batch_tokens=120"]
        settings.append(f"train.accumulate={accumulate}")
        return [str(w) for w in command] + [w for text in settings for w in ("--set", text)]

    assert cli(*words("one", 2, "--steps", 12)).code == 0
    first = words("two", 1, "--steps", 12, "--stop-at", 5)
    cut = launch([first, words("two", 1, "--resume", "latest", "--steps", 8)])
    assert cut.end() == 0, cut.wrote(0)
    assert cli(*words("two", 2, "--resume", "latest", "--steps", 12)).code == 0, "one goes on"
    ours, theirs = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [r.get("examples") for r in ours[:8]] == [r.get("examples") for r in theirs[:8]]
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-3)


def test_a_failure_of_one_process_ends_both_and_is_told_once(words, launch, tmp_path):
    both = launch([words("run", "--steps", 1000)], UNREADABLE)
    assert both.end() != 0
    assert both.wrote(1) == "error: process 1: b.png is cut short\n  mend it\n"
    assert "error" not in both.wrote(0) and "exitcode  : 4" in both.err
    assert states_of(tmp_path / "run") == [0]


def test_a_folder_in_use_is_told_once_and_nobody_waits(words, tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    accelerate = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", 2]
    accelerate += ["--main_process_port", 0, "-m", "gentool"]
    both = Launch(tmp_path, "-m", *accelerate, *words("run"))
    assert both.end() != 0 and "exitcode  : 2" in both.err
    assert both.err.count("already holds a run") == 1


def test_sigterm_to_the_launcher_saves_once_and_stops_both(words, launch, tmp_path):
    often = ("--steps", 100_000, "--set", "train.save_every=100000")
    both = launch([words("run", *often)], SLOW)
    deadline = time.monotonic() + 120
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    both.process.send_signal(signal.SIGTERM)
    both.end()
    assert both.codes() == [[143], [143]]
    first, last = states_of(tmp_path / "run")
    assert first == 0 and f"stopped at step {last}, saved" in both.wrote(0)
    assert both.wrote(1) == ""
    assert not [name for name in os.listdir(tmp_path / "run/state") if name.endswith(".tmp")]
