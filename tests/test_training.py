"""Training runs: what they write, where they go on, and that a cut run ends in the same bytes."""

import json
import math
import re
import shutil
import signal

import pytest
import torch
from conftest import RECIPE, log_of, states_of, weights_of
from PIL import Image
from safetensors.torch import load_file

from gentool.backends.ddpm.backend import Backend
from gentool.checkpoint.state import prune
from gentool.errors import GentoolError
from gentool.training import loop
from gentool.training.loop import Trainer


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def flip_byte(path, place=-5):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def at_step(monkeypatch, step, action):
    """Call `action` in the update after `step` updates."""
    update = Trainer.optimizer_step

    def patched(self):
        if self.step == step:
            action()
        return update(self)

    monkeypatch.setattr(Trainer, "optimizer_step", patched)


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


def test_a_cut_run_ends_in_the_same_bytes(train, tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train("--stop-at", 13).code == 0
    assert states_of(run)[-1] == 13
    first = load_file(run / "state/step-00000000/ema.safetensors") if 0 in states_of(run) else None
    at_step(monkeypatch, 22, lambda: signal.raise_signal(signal.SIGTERM))
    assert train("--resume", "latest").code == 143
    assert states_of(run)[-1] == 23
    assert train("--resume", "latest").code == 0
    assert weights_of(run) == weights_of(tiny_run)
    assert log_of(run) == log_of(tiny_run)
    assert first is None or any((first[k] != v).any() for k, v in load_file(
        run / "model.safetensors").items())  # fmt: skip


def test_training_changes_the_initial_weights(train, tiny_run, tmp_path):
    assert train("--stop-at", 1).code == 0
    before = load_file(tmp_path / "run/state/step-00000000/ema.safetensors")
    after = load_file(tiny_run / "model.safetensors")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_another_seed_gives_other_weights(train, tiny_run, tmp_path):
    assert train("--seed", 1).code == 0
    assert weights_of(tmp_path / "run") != weights_of(tiny_run)


@pytest.mark.parametrize("lost", ["write_weights", "write_card"])
def test_a_crash_after_the_last_state_is_made_good(train, tiny_run, tmp_path, monkeypatch, lost):
    """The state of step 40 stands, the files that sampling reads are still of step 30."""
    write = getattr(loop, lost)

    def crash(*arguments):
        if states_of(tmp_path / "run")[-1:] == [40]:
            raise OSError(5, "as if killed")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, lost, crash)
        assert train().code == 1
    assert train("--resume", "latest").code == 0
    run = tmp_path / "run"
    assert weights_of(run) == weights_of(tiny_run)
    assert (run / "config.json").read_bytes() == (tiny_run / "config.json").read_bytes()


def test_a_crash_between_save_and_validation_loses_no_validation(
    train, tiny_run, tmp_path, monkeypatch
):
    """The state of step 20 stands, its validation loss is not in the log yet."""

    def crash(*arguments):
        raise OSError(5, "as if killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validation_loss", crash)
        assert train().code == 1
    assert train("--resume", "latest").code == 0
    assert log_of(tmp_path / "run") == log_of(tiny_run)


def test_max_time_saves_and_exits_0(train, tmp_path):
    assert train("--steps", 1_000_000, "--max-time", "0.5s").code == 0
    saved = states_of(tmp_path / "run")[-1]
    assert saved < 1_000_000
    assert train("--steps", 1_000_000, "--resume", "latest", "--stop-at", saved + 1).code == 0
    assert states_of(tmp_path / "run")[-1] == saved + 1


@pytest.mark.parametrize("time", ["soon", "-1s", "0", "nan", "20 m 3"])
def test_an_impossible_time_is_a_usage_error(train, time):
    assert train("--max-time", time).code == 2


def test_resume_latest_with_nothing_there_starts_nothing(train, tmp_path):
    result = train("--resume", "latest")
    assert result.code == 3 and "--resume auto" in result.err
    assert not (tmp_path / "run").exists()


def test_resume_auto_starts_afresh_or_continues(train, tiny_run, tmp_path):
    assert train("--resume", "auto", "--stop-at", 5).code == 0
    assert states_of(tmp_path / "run") == [0, 5]
    assert train("--resume", "auto").code == 0
    assert weights_of(tmp_path / "run") == weights_of(tiny_run)


def test_the_same_command_begins_on_other_data_and_goes_on(cli, tmp_path):
    """What a recipe says of scenes alone is left out both times."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(photos / f"{number}.png")
    recipe = tmp_path / "both.toml"
    recipe.write_text(RECIPE.replace('[data]\nspec = "scenes"', '[data]\nlanguage = "both"'))
    command = ("train", "ddpm", "--recipe", recipe, "--data", photos, "--out", tmp_path / "run")
    for stop in (5, 10):
        result = cli(*command, "--resume", "auto", "--stop-at", stop, "-q")
        assert result.code == 0, result.err
    assert states_of(tmp_path / "run")[-1] == 10


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


def test_a_differing_setting_is_named_and_steps_may_differ(train, cli, copy):
    for key, value in [("train.batch_size", 8), ("model.dropout", 0.2), ("data.flip", "true")]:
        if (
            key == "data.flip"
            and json.loads((copy / "config.json").read_text())["config"]["data"]["flip"]
        ):
            value = "false"
        result = train("--resume", "latest", "--set", f"{key}={value}")
        assert result.code == 2 and key in result.err
    result = cli("train", "ddpm", "--out", copy, "--resume", "latest", "--seed", 7)
    assert result.code == 2 and "train.seed" in result.err
    free = ("--set", "train.log_every=1", "--set", "train.keep_last=1", "--device", "cpu")
    assert cli("train", "ddpm", "--out", copy, "--resume", "latest", "--steps", 42, *free).code == 0
    assert states_of(copy)[-1] == 42
    assert [record["step"] for record in log_of(copy)][-3:] == [41, 42, 42]


def test_resume_names_a_run_or_a_state(cli, tiny_run, copy, tmp_path):
    def resume(path, *more):
        return cli("train", "ddpm", "--resume", path, *more)

    other = cli("train", "ddpm", "--out", tmp_path / "other", "--resume", copy)
    assert other.code == 2 and "other" in other.err
    result = resume(copy / "state/step-00000030")
    assert result.code == 2 and "step-00000040" in result.err
    shutil.rmtree(copy / "state/step-00000040")
    (copy / "model.safetensors").unlink()
    assert resume(copy / "state/step-00000030").code == 0
    assert weights_of(copy) == weights_of(tiny_run)
    assert resume(copy, "--steps", 41).code == 0
    assert states_of(copy)[-1] == 41 and not (tmp_path / "other").exists()
    result = resume(copy / "state/step-00000031")
    assert result.code == 3 and "step-00000041" in result.err


def test_a_run_in_a_folder_called_state_resumes(cli, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "state/run")
    assert cli("train", "ddpm", "--resume", run, "--steps", 41).code == 0
    assert states_of(run)[-1] == 41


def test_what_a_user_puts_beside_the_states_is_no_state(train, copy):
    shutil.copytree(copy / "state/step-00000030", copy / "state/step-00000030.bak")
    assert train("--resume", "latest", "--steps", 41).code == 0
    assert (copy / "state/step-00000030.bak").is_dir()


def test_a_folder_in_use_is_refused_and_overwrite_replaces_it(train, copy, tmp_path):
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


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_damaged_newest_state_is_skipped(train, tiny_run, copy, name):
    place = copy / "state/step-00000040"
    if name == "manifest.json":
        (place / name).write_text("{")
    else:
        flip_byte(place / name)
    result = train("--resume", "latest")
    assert result.code == 0 and "step-00000040" in result.err
    assert weights_of(copy) == weights_of(tiny_run) and log_of(copy) == log_of(tiny_run)


def test_what_a_resume_passed_over_does_not_crowd_out_what_was_just_saved(tmp_path):
    for step in (5, 10, 12, 15):
        (tmp_path / f"state/step-{step:08d}").mkdir(parents=True)
    prune(tmp_path, 12, keep_last=1, keep=[5])
    assert states_of(tmp_path) == [5, 12, 15]


def test_only_damaged_states_are_an_error(train, copy):
    for place in (copy / "state").iterdir():
        (place / "ema.safetensors").unlink()
    result = train("--resume", "latest")
    assert result.code == 4 and "ema.safetensors" in result.err


def test_a_run_begun_before_a_setting_existed_can_be_resumed(train, tmp_path):
    assert train("--steps", 2, "--stop-at", 1).code == 0
    path = tmp_path / "run/config.json"
    tree = json.loads(path.read_text())
    del tree["config"]["model"]["time_embedding"]
    path.write_text(json.dumps(tree))
    assert train("--steps", 2, "--resume", "latest").code == 0
    assert json.loads(path.read_text())["config"]["model"]["time_embedding"] == "add"


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


@pytest.mark.parametrize("rate", ["inf", "nan", "1e39"])
def test_no_state_ever_holds_infinite_weights(train, tmp_path, rate):
    result = train("--set", f"train.learning_rate={rate}", "--set", "train.save_every=1")
    assert result.code in (2, 5)
    for path in (tmp_path / "run").glob("state/*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path.parent


def test_log_and_config_are_json_even_where_a_loss_is_not_finite(train, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "validation_loss", lambda *arguments: (math.inf, 8))
    assert train("--set", "train.validate_every=1", "--steps", 2).code in (0, 5)

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
    assert codes == {1, 2, 3, 4, 5, 6, 7, 130, 143}
