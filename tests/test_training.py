"""Training runs: what they write, when they stop, and what they start from."""

import json
import math
import re
import shutil
import sys

import pytest
import torch
from accelerate import Accelerator
from conftest import fails, log_of, states_of, weights_of
from safetensors.torch import load_file

from gentool.backends.ddpm.backend import Backend
from gentool.cli.failures import report
from gentool.cli.values import parse_time
from gentool.errors import GentoolError
from gentool.training import loop
from gentool.training.config import TrainConfig
from gentool.training.loop import Trainer
from gentool.training.optimizer import learning_rate, update_average


def test_the_folder_holds_what_the_contract_says(train, tmp_path):
    result = train("--set", "train.sample_every=1", "--steps", 1)
    run = tmp_path / "run"
    assert (result.code, result.out) == (0, "")
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "README.md", "log.jsonl", "samples", "state",
    }  # fmt: skip
    for step in (0, 1):
        assert (run / f"state/step-{step:08d}/manifest.json").is_file()
    manifest = json.loads((run / "state/step-00000000/manifest.json").read_text())
    files = {p.name for p in (run / "state/step-00000000").iterdir()} - {"manifest.json"}
    assert set(manifest["sha256"]) == files
    assert {path.rpartition(".")[2] for path in files} == {"safetensors", "json"}
    config = json.loads((run / "config.json").read_text())
    assert config["format_version"] == 1 and config["backend"] == "ddpm"
    assert config["config"]["sample"]["steps"] == 5
    assert config["data"]["fingerprint"] and config["metrics"]["step"] == 1
    card = (run / "README.md").read_text()
    assert "tiny" in card and config["data"]["fingerprint"] in card
    assert [path.suffix for path in (run / "samples").iterdir()] == [".png"]


def test_training_changes_the_initial_weights(train, tiny_run, tmp_path):
    assert train("--stop-at", 1).code == 0
    before = load_file(tmp_path / "run/state/step-00000000/ema.safetensors")
    after = load_file(tiny_run / "model.safetensors")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_another_seed_gives_other_weights(train, tiny_run, tmp_path):
    assert train("--seed", 1).code == 0
    assert weights_of(tmp_path / "run") != weights_of(tiny_run)


def test_max_time_saves_and_exits_0(train, tmp_path, monkeypatch):
    clock = iter(range(10**6))  # a second each time that it is looked at
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    assert train("--max-time", "0.5m").code == 0
    saved = states_of(tmp_path / "run")[-1]
    assert 0 < saved < 40
    assert train("--resume", "latest", "--stop-at", saved + 1).code == 0
    assert states_of(tmp_path / "run")[-1] == saved + 1


def test_samples_do_not_outlast_max_time(train, tmp_path, monkeypatch):
    draw, now, steps = Backend.draw, [0.0], []

    def later():
        now[0] += 0.001
        return now[0]

    def slow(self, network, rng, sample, on_step=None, **given):
        def step(*arguments):
            steps.append(1)
            now[0] += 25
            on_step(*arguments)

        return draw(self, network, rng, sample, step, **given)

    monkeypatch.setattr("time.monotonic", later)
    monkeypatch.setattr(Backend, "draw", slow)
    assert train("--set", "train.sample_every=10", "--max-time", "40s").code == 0
    assert len(steps) == 2 and states_of(tmp_path / "run")[-1] == 10
    assert not list((tmp_path / "run/samples").iterdir())
    assert train("--resume", "latest", "--stop-at", 11).code == 0  # made good
    assert [path.stem for path in (tmp_path / "run/samples").iterdir()] == ["step-00000010"]


def test_times_have_units():
    assert [parse_time(text) for text in ("90s", "20m", "3h")] == [90, 1200, 10800]


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        ("constant", 0, 0.5), ("constant", 3, 2), ("linear", 5, 1), ("linear", 9, 0.2),
        ("cosine", 5, 1), ("cosine", 4, 1 + math.cos(0.4 * math.pi)), ("inverse_sqrt", 3, 2),
        ("inverse_sqrt", 15, 1),
    ],
)  # fmt: skip
def test_the_rate_rises_over_the_warm_up_and_follows_its_schedule(schedule, step, rate):
    settings = TrainConfig(steps=10, learning_rate=2.0, warmup_steps=4, schedule=schedule)
    assert learning_rate(step, settings) == pytest.approx(rate)


@pytest.mark.parametrize(("decay", "left"), [(0.9999, 11 / 20), (0.5, 0.5)])
def test_the_average_of_the_weights_warms_up(decay, left):
    average, model = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        average.weight.fill_(1)
        model.weight.fill_(0)
        model.running_var.fill_(7)
    update_average(average, model, 10, decay)
    assert average.weight.tolist() == pytest.approx(2 * [left])
    assert average.running_var.tolist() == [7, 7] and model.weight.tolist() == [0, 0]
    update_average(average, model, 0, decay)
    assert average.weight.tolist() == [0, 0], "the first one copies"


@pytest.mark.parametrize(("limit", "norm"), [(0.01, 0.01), (0, None)])
def test_gradients_are_clipped(train, monkeypatch, limit, norm):
    norms, step = [], torch.optim.Adam.step

    def heard(self, *given):
        grads = [p.grad.norm() for group in self.param_groups for p in group["params"]]
        norms.append(torch.stack(grads).norm().item())
        return step(self, *given)

    monkeypatch.setattr(torch.optim.Adam, "step", heard)
    assert train("--steps", 3, "--set", f"train.clip_norm={limit}").code == 0
    assert len(norms) == 3 and all(
        found == pytest.approx(norm, rel=1e-4) if norm else found > 0.01 for found in norms
    )


def test_dropout_is_drawn_by_seed_step_and_micro_batch(train, monkeypatch):
    named, seed = [], loop.torch_seed
    monkeypatch.setattr(loop, "torch_seed", lambda *key: (named.append(key), seed(*key))[1])
    assert train("--steps", 3, "--seed", 4, "--set", "train.accumulate=2").code == 0
    assert [key for key in named if key[0] == "dropout"] == [
        ("dropout", 4, step, micro, 0) for step in range(3) for micro in range(2)
    ]


@pytest.mark.parametrize("time", ["soon", "-1s", "0", "nan", "20 m 3"])
def test_an_impossible_time_is_a_usage_error(train, time):
    assert train("--max-time", time).code == 2


def test_a_link_stays_one_and_the_folder_one_is_in_is_refused(train, tmp_path, monkeypatch):
    disk, link = tmp_path / "disk", tmp_path / "link"
    disk.mkdir()
    link.symlink_to(disk)
    for more in ((), ("--overwrite",)):
        assert train("--steps", 1, *more, out=link).code == 0
        assert link.is_symlink() and states_of(disk) == [0, 1]
    monkeypatch.chdir(disk)
    result = train("--steps", 1, "--overwrite", out=".")
    assert result.code == 2 and "the folder you are in" in result.err
    assert states_of(disk) == [0, 1]


def test_a_folder_in_use_is_refused_and_overwrite_replaces_it(train, tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    before = weights_of(copy)
    result = train("--steps", 1)
    assert result.code == 2 and "--overwrite" in result.err
    assert weights_of(copy) == before
    assert train("--steps", 1, "--overwrite").code == 0
    assert states_of(copy) == [0, 1] and log_of(copy)[0]["step"] == 1
    other = tmp_path / "not-a-run"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    assert train("--overwrite", out=other).code == 2
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "not-a-run"}


@pytest.mark.parametrize("file", ["config.json", "next/index.html"])
def test_overwrite_replaces_runs_of_gentool_alone(train, tmp_path, file):
    """A model of transformers has a config.json too, and any folder may have one called next."""
    path = tmp_path / "run" / file
    path.parent.mkdir(parents=True)
    path.write_text('{"model_type": "bert"}')
    for more in ((), ("--overwrite",), ("--resume", "auto")):
        result = train("--steps", 1, *more)
        assert result.code == 2 and "is not a run" in result.err
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [path]


def test_init_starts_from_given_weights(train, tiny_run, tmp_path):
    run = tmp_path / "run"
    assert train("--init", tiny_run, "--stop-at", 1).code == 0
    given = load_file(tiny_run / "model.safetensors")
    for name in ("model", "ema"):
        start = load_file(run / f"state/step-00000000/{name}.safetensors")
        assert all(torch.equal(start[key], given[key]) for key in given)
    other = tmp_path / "other"
    assert train("--init", tiny_run, "--set", "model.channels=16", out=other).code == 4
    assert train("--init", tmp_path / "nothing", out=other).code == 3
    assert train("--init", tiny_run, "--resume", "latest", out=other).code == 2
    assert not other.exists()


def test_accumulation_sees_the_same_examples(train, tmp_path):
    found = []
    for name, size, times in [("a", 4, 1), ("b", 2, 2)]:
        layout = ("--set", f"train.batch_size={size}", "--set", f"train.accumulate={times}")
        settings = ("--set", "model.dropout=0.0", "--steps", 3, *layout)
        assert train(*settings, out=tmp_path / name).code == 0
        found.append(load_file(tmp_path / name / "model.safetensors"))
    one, two = found
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)


def test_the_last_and_the_best_states_stay(train, tmp_path, monkeypatch):
    losses = iter([5.0, 1.0, 4.0, 2.0, 6.0, 7.0, 8.0, 9.0])  # of steps 5, 10, ...
    monkeypatch.setattr(loop, "validation_loss", lambda *arguments: (next(losses), 8))
    every = [f"train.{name}_every=5" for name in ("save", "validate")]
    keep = ["train.keep_last=1", "train.keep_best=2"]
    assert train(*[word for text in every + keep for word in ("--set", text)]).code == 0
    assert states_of(tmp_path / "run") == [10, 20, 40]


def test_the_best_states_are_chosen_among_those_that_were_saved(train, tmp_path, monkeypatch):
    losses = iter([0.1, 0.5, 0.2, 0.6, 0.3, 0.7, 0.4, 0.8])  # 5, 15, ... are never saved
    monkeypatch.setattr(loop, "validation_loss", lambda *arguments: (next(losses), 8))
    keep = ["train.validate_every=5", "train.keep_last=1", "train.keep_best=1"]
    assert train(*[word for text in keep for word in ("--set", text)]).code == 0
    assert states_of(tmp_path / "run") == [10, 40]


def test_a_rate_too_high_stops_with_step_parameter_and_batch(train, cli, tmp_path):
    result = train("--set", "train.learning_rate=1e30")
    assert result.code == 5 and result.out == "" and "Traceback" not in result.err
    assert re.search(r"step 2\b", result.err)
    assert re.search(r"\w+\.weight", result.err) and "scenes train 4" in result.err
    run = tmp_path / "run"
    assert states_of(run) == [0] and cli("inspect", run).code == 0
    assert (
        cli("sample", "ddpm", "--checkpoint", run, "-n", 1, "--out", tmp_path / "x.png").code == 0
    )


def test_a_non_finite_loss_leaves_the_last_state_to_go_on_from(
    train, tiny_run, tmp_path, monkeypatch
):
    loss, calls = Backend.loss, iter(range(1000))

    def poisoned(self, network, batch):
        value = loss(self, network, batch)
        return {k: v * math.nan for k, v in value.items()} if next(calls) == 13 else value

    with monkeypatch.context() as patch:
        patch.setattr(Backend, "loss", poisoned)
        result = train("--set", "train.validate_every=0")
    assert result.code == 5 and re.search(r"step 14\b", result.err)
    assert "scenes train 52" in result.err
    run = tmp_path / "run"
    assert states_of(run)[-1] == 10
    assert train("--resume", "latest").code == 0
    assert weights_of(run) == weights_of(tiny_run)


def test_the_parameter_that_is_named_is_the_one_that_is_not_finite(train, monkeypatch):
    backward, names = Trainer._backward, []

    def poisoned(self, *arguments):
        terms = backward(self, *arguments)
        name, parameter = list(self.model.named_parameters())[-1]
        parameter.grad.view(-1)[0] = math.inf
        names.append(name)
        return terms

    monkeypatch.setattr(Trainer, "_backward", poisoned)
    result = train()
    assert result.code == 5 and f"gradient of {names[0]};" in result.err


@pytest.mark.parametrize("rate", ["inf", "nan"])
def test_an_infinite_rate_is_a_usage_error(train, tmp_path, rate):
    assert train("--set", f"train.learning_rate={rate}").code == 2
    assert not (tmp_path / "run").exists()


def test_no_state_ever_holds_infinite_weights(train, tmp_path):
    result = train("--set", "train.learning_rate=1e39", "--set", "train.save_every=1")
    assert result.code == 5
    states = list((tmp_path / "run").glob("state/*/model.safetensors"))
    assert states
    for path in states:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path.parent


def test_log_and_config_are_json_even_where_a_loss_is_not_finite(train, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "validation_loss", lambda *arguments: (math.inf, 8))
    assert train("--set", "train.validate_every=1", "--steps", 2).code == 5

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    run = tmp_path / "run"
    for line in (run / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    json.loads((run / "config.json").read_text(), parse_constant=refuse)


def test_samples_come_after_the_save_and_from_the_same_seeds(train, tmp_path, monkeypatch):
    preview, seen = Backend.preview, []

    def noting(self, network, folder, stem, poll):
        seen.append((stem, states_of(folder.parent)[-1]))
        preview(self, network, folder, stem, poll)

    monkeypatch.setattr(Backend, "preview", noting)
    often = ("--set", "train.sample_every=10", "--steps", 20)
    assert train(*often, out=tmp_path / "one").code == 0
    assert [int(re.sub(r"\D", "", stem)) for stem, _ in seen] == [step for _, step in seen]
    assert train(*often, "--stop-at", 13, out=tmp_path / "two").code == 0
    assert train(*often, "--resume", "latest", out=tmp_path / "two").code == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name / "samples").iterdir()}
                for name in ("one", "two"))  # fmt: skip
    assert one == two and len(one) == 2 and len(set(one.values())) == 2


def test_the_validation_loss_is_in_the_log_and_is_what_eval_measures(cli, tiny_run):
    losses = {r["step"]: r["val_loss"] for r in log_of(tiny_run) if "val_loss" in r}
    assert list(losses) == [20, 40] and all(0 < loss < 2 for loss in losses.values())
    figures = cli(
        "eval", "ddpm", "--checkpoint", tiny_run, "--metric", "loss", "-n", 8, "--json"
    ).records
    assert figures[0]["value"] == pytest.approx(losses[40], abs=1e-6)


def test_the_log_has_what_a_plot_needs(tiny_run):
    records = [record for record in log_of(tiny_run) if "loss" in record]
    assert [record["step"] for record in records] == [1, 5, 10, 15, 20, 25, 30, 35, 40]
    assert all(r["examples"] == 4 * r["step"] and r["grad_norm"] > 0 for r in records)


def test_a_dry_run_writes_nothing(train, tmp_path):
    result = train("--dry-run")
    assert result.code == 0 and "train.steps" in result.out
    assert not (tmp_path / "run").exists()


def test_errors_have_the_codes_of_the_contract():
    codes = {error.exit_code for error in GentoolError.__subclasses__()}
    assert codes | {report(MemoryError())} == {1, 2, 3, 4, 5, 6, 7, 130, 143}


def test_a_tracker_is_told_what_is_logged(train, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: told.append((step, values)))
    often = ("--set", "train.log_every=1", "--set", "train.validate_every=2")
    assert train("--stop-at", 2, *often).code == 0
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert told == [(record.pop("step"), record) for record in records] and len(told) == 3


def test_a_tracker_that_is_not_installed_is_told_first(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    fails(train("--set", "train.tracker=wandb", "-q"), 2, "wandb, which is not installed")
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_what_is_logged(train, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    often = ("--set", "train.log_every=1")
    assert train("--set", "train.tracker=tensorboard", "--stop-at", 3, *often).code == 0
    [file] = (tmp_path / "run/gentool").iterdir()
    events = EventAccumulator(str(file)).Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([record["loss"] for record in log_of(tmp_path / "run")])
