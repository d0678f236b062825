"""Training that is told to stop, or killed: what was saved is whole and goes on to the same end."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import log_of, states_of, weights_of

from gentool.training.loop import Trainer
from gentool.training.signals import stop_request

# `python -m gentool`, but update 23 waits until the file GO is there.
PAUSED = """
import pathlib, runpy, sys, time
from gentool.training.loop import Trainer
paused, go = map(pathlib.Path, sys.argv[1:3])
update = Trainer.optimizer_step
def waiting(self):
    if self.step == 22:
        paused.touch()
        while not go.exists():
            time.sleep(0.01)
    return update(self)
Trainer.optimizer_step = waiting
sys.argv[1:] = sys.argv[3:]
runpy.run_module("gentool", run_name="__main__")
"""

# `python -m gentool`, told to stop while a module is read or as it draws.
TOLD = """
import signal, sys
from gentool.__main__ import main
number, when = int(sys.argv[1]), sys.argv[2]
class Finder:
    def find_spec(self, name, *more):
        if name == when:
            try:
                signal.raise_signal(number)
            except BaseException:
                sys.stderr.write("swallowed")
if when == "draws":
    from gentool.backends.ddpm.backend import Backend
    def draw(*more, **given):
        signal.raise_signal(number)
    Backend.draw = draw
sys.meta_path.insert(0, Finder())
sys.argv[1:] = sys.argv[3:]
main()
"""

# Children of one process, so that torch is imported once. Each dies of SIGKILL at its n-th touch
# of the disk; where n is negative, with the -n-th tensor file half written.
KILLED = """
import os, signal, sys
from gentool.cli.main import run
from gentool.checkpoint import state, weights
from gentool.training import start
root, out, recipe, *moments = sys.argv[1:]
TOUCH = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}

def die_at(moment):
    left = abs(moment)
    def tick():
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    if moment > 0:
        def hook(event, args):
            if event in TOUCH or event == "open" and str(args[0]).startswith(root):
                tick()
        sys.addaudithook(hook)
    elif moment < 0:
        for module in (state, weights):
            def half(tensors, path, *more, save=module.save_tensors):
                save(tensors, path, *more)
                os.truncate(path, os.path.getsize(path) // 2)
                tick()
                save(tensors, path, *more)
            module.save_tensors = half

for moment in [int(text) for text in moments] + [0]:
    resume = "latest" if os.path.exists(out) else "auto"
    pid = os.fork()
    if not pid:
        die_at(moment)
        command = ["train", "ddpm", "--recipe", recipe, "--out", out, "--resume", resume]
        os._exit(run([*command, "--set", "train.save_every=1"]))
    status = os.waitpid(pid, 0)[1]
    names = os.listdir(os.path.join(out, "state")) if os.path.exists(out) else []
    print(os.waitstatus_to_exitcode(status), max(names, default="none"), flush=True)
"""


def interrupt(monkeypatch, *signals):
    """Raise the signals in update 23."""
    update = Trainer.optimizer_step

    def patched(self):
        if self.step == 22:
            for number in signals:
                signal.raise_signal(number)
        return update(self)

    monkeypatch.setattr(Trainer, "optimizer_step", patched)


def test_sigterm_saves_and_a_new_process_goes_on(recipe, tiny_run, tmp_path, train):
    paused, go, run = (tmp_path / name for name in ("paused", "go", "run"))
    command = ["train", "ddpm", "--recipe", recipe, "--out", run]
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, paused, go, *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not paused.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    go.touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert out == "" and "Traceback" not in err
    saved = states_of(run)[-1]
    assert 20 < saved < 40 and re.search(rf"\b{saved}\b", err)
    assert train("--resume", "latest").code == 0
    assert weights_of(run) == weights_of(tiny_run) and log_of(run) == log_of(tiny_run)


@pytest.mark.parametrize("when", ["gentool.cli.main", "torch", "draws"])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_stop_cleans_up(tmp_path, number, code, when):
    words = [sys.executable, "-c", TOLD, str(int(number)), when]
    words += ["sample", "ddpm", "-n", "1", "--out", "new/x.npy"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    told = done.stderr.splitlines()[-1]
    assert done.returncode == code, done.stderr
    assert told == f"error: {'interrupted' if code == 130 else 'terminated'}"
    assert "swallowed" not in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*"))


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As `nohup` and a shell's background have it."""
    words = f"trap '' INT TERM; {sys.executable} -c \"$CODE\" 2 gentool.cli.main list backends"
    done = subprocess.run(
        words, shell=True, capture_output=True, text=True, env={**os.environ, "CODE": TOLD}
    )
    assert done.returncode == 0 and "ddpm" in done.stdout, done.stderr


def test_ctrl_c_saves_and_exits_130(train, tiny_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, signal.SIGINT)
        result = train()
    assert result.code == 130 and result.out == "" and "--resume" in result.err
    assert states_of(tmp_path / "run")[-1] == 23
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train("--resume", "latest").code == 0
    assert weights_of(tmp_path / "run") == weights_of(tiny_run)


def test_a_second_ctrl_c_quits_at_once(train, tiny_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, signal.SIGINT, signal.SIGINT)
        result = train()
    assert result.code == 130 and "Traceback" not in result.err
    assert states_of(tmp_path / "run")[-1] == 20
    assert train("--resume", "latest").code == 0
    assert weights_of(tmp_path / "run") == weights_of(tiny_run)


def test_a_signal_does_not_wait_for_samples(train, tmp_path, monkeypatch):
    from gentool.backends.ddpm.backend import Backend

    draw, steps = Backend.draw, []

    def interrupted(self, network, rng, sample, on_step=None, **given):
        def step(*arguments):
            steps.append(1)
            if len(steps) == 2:
                signal.raise_signal(signal.SIGTERM)
            on_step(*arguments)

        return draw(self, network, rng, sample, step, **given)

    monkeypatch.setattr(Backend, "draw", interrupted)
    result = train("--set", "train.sample_every=10")
    assert result.code == 143 and len(steps) == 2
    assert states_of(tmp_path / "run")[-1] == 10
    assert not list((tmp_path / "run/samples").iterdir())


@pytest.mark.parametrize("seed", [0, 1])
def test_sigkill_at_any_moment_loses_nothing(recipe, tiny_run, tmp_path, seed):
    rng = random.Random(seed)
    moments = [rng.randrange(1, 60), *(rng.randrange(1, 250) for _ in range(5))]
    moments += [-rng.randrange(1, 12) for _ in range(2)]
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, out, recipe, *map(str, moments)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    codes = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert codes[-1] == 0, done.stderr
    assert set(codes[:-1]) <= {-signal.SIGKILL, 0}, done.stderr
    assert codes.count(-signal.SIGKILL) >= 5, done.stdout
    assert weights_of(out) == weights_of(tiny_run)
    leftovers = [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert not leftovers and states_of(out)[-1] == 40


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_does_not_hear_what_the_caller_has_it_ignore(monkeypatch, number):
    told = []
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_request(told.append) as request:
            signal.raise_signal(number)
        assert (request.number, told) == (0, []) and signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
