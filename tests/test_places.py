"""Where results are to go: found out before the work, and nothing lost or left behind."""

import errno
import fcntl
import signal
import threading

import pytest
from conftest import states_of
from PIL import Image

from gentool.backends.ddpm.backend import Backend
from gentool.checkpoint.atomic import check_place
from gentool.errors import UsageError
from gentool.training import start
from gentool.training.loop import Trainer
from gentool.training.run import held

QUICK = ("sample", "ddpm", "-q", "-n", 1, "--steps", 1)


@pytest.fixture
def idle(monkeypatch):
    """What draws must not be asked to."""
    monkeypatch.setattr(Backend, "draw", lambda *_, **more: pytest.fail("drawn"))


def test_a_place_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file/x.png", "file/deeper/x.png"):
        with pytest.raises(UsageError, match="file is a file, not a folder"):
            check_place(tmp_path / name)
    for name in ("x.png", "deeper/x.png", "file"):
        check_place(tmp_path / name)


def test_a_place_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(PermissionError):
        check_place(tmp_path / "deeper/x.png")


@pytest.mark.parametrize(
    "command",
    [
        (*QUICK, "--out", "file/x.png"),
        (*QUICK, "--out", "file/x.npy"),
        (*QUICK, "--out", "file/"),
        (*QUICK, "--out", "x.png", "--trace", "file/x.gif"),
        ("decode", "ddpm", "-q", "lines", "--out", "file/x.png"),
        ("data", "show", "scenes", "--out", "file/x.png"),
        ("inspect", "ddpm-scenes", "--plot", "file/x.png"),
        ("bench", "ddpm", "-q", "--plot", "file/x.png"),
        ("eval", "mvtm", "-q", "--pictures", "file/x.png"),
        ("train", "ddpm", "-q", "--out", "file/run"),
        ("tokenizer", "train", "--kind", "words", "--data", "scenes", "-o", "file/words"),
    ],
)
def test_a_place_that_cannot_be_is_told_first(cli, idle, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name in ("file", "lines"):
        (tmp_path / name).write_text("\n")
    result = cli(*command)
    assert (result.code, result.out) == (2, "") and "is a file, not a folder" in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lines"]


def test_commands_at_once_take_names_of_their_own(tmp_path, monkeypatch):
    from gentool.outputs import write_picture

    monkeypatch.chdir(tmp_path)
    names, start = [], threading.Barrier(8)

    def write():
        start.wait()
        names.append(write_picture(Image.new("L", (2, 2)), None, "x").name)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == sorted(["x.png", *(f"x-{n}.png" for n in range(2, 9))])
    assert all(Image.open(tmp_path / name).size == (2, 2) for name in names)


def test_a_name_is_not_kept_for_what_could_not_be_written(tmp_path, monkeypatch):
    from gentool import outputs

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(outputs, "write_file", full)
    with pytest.raises(OSError, match="No space left"):
        outputs.write_picture(Image.new("L", (2, 2)), None, "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["new/", "new/x.npy", "new/x.png"])
def test_what_stops_before_it_wrote_leaves_no_folder(cli, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Backend, "draw", lambda *_, **more: signal.raise_signal(signal.SIGINT))
    assert cli(*QUICK, "--out", out).code == 130
    assert not list(tmp_path.iterdir())


def test_a_sheet_is_a_new_one(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data.png", "data-2.png"):
        result = cli("data", "show", "scenes", "-n", 2)
        assert result.code == 0 and result.out.splitlines()[-1] == f"sheet: {name}"
    (tmp_path / "texts.txt").write_text("a\n")
    result = cli("data", "show", "texts.txt", "--out", "x.png")
    assert result.code == 2 and "--out is for pictures" in result.err


def test_a_closed_folder_says_how_to_open_it(cli, tmp_path, monkeypatch):
    import os

    (closed := tmp_path / "closed").mkdir()
    access = os.access

    def refused(top):
        raise PermissionError(13, "Permission denied", str(top))

    monkeypatch.setattr("os.scandir", refused)
    monkeypatch.setattr("os.access", lambda path, m: str(path) != str(closed) and access(path, m))
    result = cli("data", "check", closed)
    assert result.code == 1 and f"chmod +rx {closed}" in result.err


def test_pictures_that_cannot_be_opened_are_told_by_name(cli, tmp_path, monkeypatch):
    import builtins

    for name in ("1.png", "2.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "3.png").symlink_to("nothing")
    result = cli("data", "check", tmp_path)
    assert result.code == 4 and "3.png is a link to nothing" in result.err
    (tmp_path / "3.png").unlink()
    opened = builtins.open

    def refused(path, *more, **named):
        if str(path).endswith("2.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *more, **named)

    monkeypatch.setattr(builtins, "open", refused)
    result = cli("data", "check", tmp_path)
    assert result.code == 4 and "bad: 2.png: permission denied" in result.out
    assert "records: 2" in result.out


@pytest.mark.parametrize(
    "command",
    [
        ("train", "ddpm"),
        ("tokenizer", "train", "--kind", "words", "--data", "scenes"),
        ("tokenizer", "cache", "-t", "mvtm-scenes", "--data", "scenes", "-n", 8),
        ("export", "diffusers", "ddpm-scenes"),
    ],
)
def test_the_folder_one_is_in_is_not_replaced(cli, tmp_path, monkeypatch, command):
    """By a rename: the shell would stand in one that is no more."""
    monkeypatch.chdir(tmp_path)
    result = cli(*command, "-q", "--out", ".")
    assert (result.code, result.out) == (2, "") and "is the folder you are in" in result.err


def test_a_run_is_trained_by_one_process_at_a_time(train, tmp_path, monkeypatch):
    run = tmp_path / "runs/run"
    with held(run):  # another descriptor is as another process
        result = train("--steps", 1, out=run)
        assert result.code == 2 and f"another process is writing {run}" in result.err
        assert not run.exists()
    assert not run.parent.exists()
    assert train("--steps", 2, "--stop-at", 1, out=run).code == 0
    with held(run):
        for more in (("--resume", "latest"), ("--resume", run), ("--overwrite",)):
            result = train(*more, out=run)
            assert result.code == 2 and "another process is writing" in result.err
        monkeypatch.setenv("RANK", "1")
        with held(run):  # a process beside the main one
            pass
    assert states_of(run) == [0, 1]
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_file_system_without_locks_stops_nothing(train, tmp_path, monkeypatch):
    def refused(descriptor, how):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("gentool.training.run.fcntl.flock", refused)
    assert train("--steps", 1).code == 0


def test_a_lock_that_was_deleted_with_its_run_is_none(tmp_path, monkeypatch):
    """It was opened just before its holder deleted it."""
    lock, flock = tmp_path / ".run.lock", fcntl.flock

    def late(descriptor, how):
        monkeypatch.setattr("gentool.training.run.fcntl.flock", flock)
        lock.unlink()
        flock(descriptor, how)

    monkeypatch.setattr("gentool.training.run.fcntl.flock", late)
    with held(tmp_path / "run"):
        assert lock.exists()
        with pytest.raises(UsageError), held(tmp_path / "run"):
            pass


def test_a_folder_that_came_meanwhile_is_not_replaced(train, tmp_path, monkeypatch):
    fill = start._fill

    def slow(*arguments):
        fill(*arguments)
        (tmp_path / "run").mkdir()
        (tmp_path / "run/thesis.txt").touch()

    monkeypatch.setattr(start, "_fill", slow)
    result = train("--steps", 1)
    assert result.code == 2 and "already exists" in result.err
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "run",
        "run/thesis.txt",
    ]


def test_both_folders_are_locked_while_the_first_stage_trains(
    cli, mvtm_recipe, tmp_path, monkeypatch
):
    out, train = tmp_path / "run", Trainer.fit

    def fit(self, run, *more):
        for folder in (out, run):
            with pytest.raises(UsageError, match="another process"), held(folder):
                pass
        train(self, run, *more)

    monkeypatch.setattr(Trainer, "fit", fit)
    given = ("train", "mvtm", "--recipe", mvtm_recipe, "--out", out, "--steps", 2)
    assert cli(*given).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
