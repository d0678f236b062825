"""A run's folder: made whole or not at all, continued only where a complete state stands."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gentool.checkpoint.atomic import check_place, write_file
from gentool.checkpoint.config import RunConfig, is_run, run_of
from gentool.checkpoint.state import State, read_state, states, step_of
from gentool.errors import BadCheckpointError, NotFoundError, UsageError
from gentool.settings import Tree, flatten

FIRST, NEXT = "vq", "next"
"""Folders in a run of two stages: its first stage, and what the second will be."""

_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""By which a launcher tells a process which one it is: the main one is 0, or alone."""


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Let no other process write the folder `run` meanwhile. Raises UsageError if one does.

    What is locked is a file beside it, as the folder itself may be replaced. Where a file system
    knows no locks, nothing is. Of the processes of a launcher the main one alone holds the lock.
    """
    if any(os.environ.get(name, "0") != "0" for name in _RANKS):
        yield
        return
    place = run.resolve()
    lock = place.parent / f".{place.name}.lock"
    absent = [folder for folder in lock.parents if not folder.exists()]
    descriptor = None
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(lock)
    except BlockingIOError:
        raise UsageError(
            f"another process is writing {run}", "wait for its end, or choose another --out"
        ) from None
    except OSError:  # the place may not be one for a run at all: that is told by who writes there
        pass
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                lock.unlink()
            os.close(descriptor)
        for folder in absent:
            with suppress(OSError):  # it holds the run now
                folder.rmdir()


def _locked(path: Path) -> int:
    """A descriptor of the file `path` with a lock on it, until it is closed or the process dies.
    Raises BlockingIOError where another process has it, OSError where there can be none."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who had it has just deleted it: another one may be there by now


def check_new(out: Path, overwrite: bool) -> None:
    """Raise UsageError or OSError if a new run cannot go to `out`."""
    check_place(out)
    begun = is_run(out / NEXT)
    ours = begun or is_run(out)
    if ours and not overwrite:
        raise UsageError(
            f"{out} already holds " + ("the first stage of a run" if begun else "a run"),
            "--resume latest continues it, --overwrite replaces it, --out DIR goes elsewhere",
        )
    if out.resolve() == Path.cwd():  # it is put in place by a rename
        raise UsageError(f"--out {out} is the folder you are in", "--out DIR, a new one")
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and not ours:
        raise UsageError(f"{out} exists and is not a run", "choose another --out")


def find_state(out: Path, resume: str, report: Callable[[str], None]) -> tuple[Path, State] | None:
    """The run and state that `--resume auto|latest|PATH` means; None: auto, and nothing there.

    Raises NotFoundError where there is nothing to continue, BadCheckpointError where every state
    is damaged, UsageError where going back would drop newer states.
    """
    run = out
    if resume not in ("auto", "latest"):
        path = Path(resume)
        run = run_of(path)
        if not path.is_dir():
            there = ", ".join(p.name for p in states(run)) or "none"
            raise NotFoundError(f"no run or state at {path}", f"states of {run}: {there}")
        if run != path:
            newer = [p.name for p in states(run) if step_of(p) > step_of(path)]
            if newer:
                raise UsageError(
                    f"{run} has states newer than {path.name}: {', '.join(newer)}",
                    f"delete those first, or start a new run from its weights: --init {path}",
                )
            return run, read_state(path)
    found = states(run)
    if not found:
        if resume == "auto":
            return None
        raise NotFoundError(
            f"nothing to resume in {run}",
            "give --out of the run, or --resume auto to start afresh where there is none",
        )
    problem = ""
    for place in reversed(found):
        try:
            return run, read_state(place)
        except BadCheckpointError as error:
            problem = str(error)
            report(f"skipping {place.name}: {error}")
    raise BadCheckpointError(f"no state of {run} is whole: {problem}")


def check_same(run: Path, saved: RunConfig, now: Tree, free: set[str]) -> None:
    """Raise UsageError, listing the differences, if `now` differs from the run's configuration
    in other keys than `free`."""
    then, flat_now = flatten(saved.config), flatten(now)
    differing = [
        f"{key} is {then.get(key)!r} in the run, {flat_now.get(key)!r} now"
        for key in sorted(then.keys() | flat_now.keys())
        if key not in free and then.get(key) != flat_now.get(key)
    ]
    if differing:
        raise UsageError(
            f"{run} was started with other settings: {'; '.join(differing)}",
            "drop those options, or start a new run with --init",
        )


class Log:
    """log.jsonl: one record per logged step."""

    def __init__(self, run: Path) -> None:
        self.path = run / "log.jsonl"

    def records(self) -> list[dict[str, Any]]:
        """Every whole record so far; a line that a crash cut short or garbled is left out."""
        records = []
        data = self.path.read_bytes() if self.path.exists() else b""
        for line in data.decode(errors="replace").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; readers see it at once."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def cut_back(self, step: int) -> None:
        """Drop the records after `step`."""
        kept = [json.dumps(r) + "\n" for r in self.records() if r["step"] <= step]
        write_file(self.path, "".join(kept).encode())

    def validated(self, name: str = "val_loss") -> dict[int, float]:
        """A figure of validations by step."""
        return {r["step"]: r[name] for r in self.records() if name in r}
