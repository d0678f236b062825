"""Runs that go on: in the same bytes as uncut, from what is left of them, or not at all."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from conftest import RECIPE, log_of, states_of, weights_of
from PIL import Image

from gentool.checkpoint.config import run_of
from gentool.checkpoint.state import prune, read_state, states
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


def test_a_cut_run_ends_in_the_same_bytes(train, tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train("--stop-at", 13).code == 0
    assert states_of(run)[-1] == 13
    at_step(monkeypatch, 22, lambda: signal.raise_signal(signal.SIGTERM))
    assert train("--resume", "latest").code == 143
    assert states_of(run)[-1] == 23
    assert train("--resume", "latest").code == 0
    assert weights_of(run) == weights_of(tiny_run)
    assert log_of(run) == log_of(tiny_run)


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


def test_what_may_differ_stays_the_run_s_own_beside_its_recipe(train, tmp_path):
    own = ("--set", "train.save_every=4", "--on-error", "skip")
    assert train("--steps", 9, *own, "--stop-at", 6).code == 0
    result = train("--resume", "latest", "--set", "train.log_every=3")
    assert result.code == 0 and states_of(tmp_path / "run")[-1] == 9, result.err
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    of_train = config["train"]
    assert (of_train["steps"], of_train["save_every"], of_train["log_every"]) == (9, 4, 3)
    assert config["data"]["on_error"] == "skip"


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
    (copy / "state/step-best").symlink_to("step-00000030")
    assert train("--resume", "latest", "--steps", 41).code == 0
    assert (copy / "state/step-00000030.bak").is_dir()


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


def test_a_run_that_was_moved_away_when_its_replacement_was_cut_is_found(train, tmp_path):
    run = tmp_path / "run"
    assert train("--stop-at", 13).code == 0
    run.rename(tmp_path / ".run.old")
    result = train("--resume", "latest", "--steps", 14)
    assert result.code == 0 and "resuming" in result.err and states_of(run)[-1] == 14


def test_settings_in_a_run_that_are_unknown_here_are_a_bad_checkpoint(train, tmp_path):
    assert train("--stop-at", 13).code == 0
    path = tmp_path / "run/config.json"
    path.write_text(path.read_text().replace('"log_every"', '"log_evry"'))
    result = train("--resume", "latest")
    assert result.code == 4 and "config.json" in result.err and "log_evry" in result.err


def test_the_environment_says_nothing_of_a_run_that_goes_on(train, tmp_path, monkeypatch):
    monkeypatch.setenv("GENTOOL_SEED", "5")
    assert train("--stop-at", 13).code == 0
    for seed in ("5", "3"):
        monkeypatch.setenv("GENTOOL_SEED", seed)
        assert train("--resume", "latest", "--stop-at", 14).code == 0  # with --recipe
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["train"]["seed"] == 5
    assert train("--resume", "latest", "--seed", 3).code == 2


def test_a_state_is_whole_or_gone(train, tmp_path, monkeypatch):
    assert train("--stop-at", 23).code == 0
    run = tmp_path / "run"

    def killed(place, *more, **how):
        next(place.iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gentool.checkpoint.state.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(run, 23, 1, ())
    [place] = states(run)
    assert read_state(place).step == 23
    assert [path for path in (run / "state").iterdir() if path.name.startswith(".step-00000020")]
    assert train("--resume", "latest", "--stop-at", 24).code == 0
    assert not [path for path in (run / "state").iterdir() if path.name.startswith(".")]


def test_a_state_is_a_checkpoint_of_the_average_then(
    tiny_run, copy, train, cli, tmp_path, monkeypatch
):
    def drawn(checkpoint):
        file = tmp_path / "x.npy"
        options = ("-n", 1, "--steps", 3, "--out", file)
        assert cli("sample", "ddpm", "-c", checkpoint, *options).code == 0
        return file.read_bytes()

    early, last = tiny_run / "state/step-00000030", tiny_run / "state/step-00000040"
    assert drawn(last) == drawn(tiny_run) != drawn(early)
    facts = json.loads(cli("inspect", early, "--json").out)
    assert facts["step"] == 30 and facts["config"]["model"]
    result = train("--init", early, "--stop-at", 1, out=tmp_path / "new")
    assert result.code == 0 and "the weights of tiny, step 30" in result.err

    link = tmp_path / "best"
    link.symlink_to(early)
    monkeypatch.chdir(early)
    for name in ("../step-00000030", ".", link):
        assert drawn(name) == drawn(early)
        assert run_of(Path(name)).samefile(tiny_run)
    monkeypatch.chdir(early.parent)
    assert drawn("step-00000030") == drawn(early)
    result = train("--resume", "step-00000030", out=tiny_run)
    assert result.code == 2 and "states newer than step-00000030: step-00000040" in result.err

    flip_byte(copy / "state/step-00000030/ema.safetensors")
    result = cli("sample", "ddpm", "-c", copy / "state/step-00000030", "--out", tmp_path / "y.png")
    assert result.code == 4 and "SHA-256" in result.err and not (tmp_path / "y.png").exists()
