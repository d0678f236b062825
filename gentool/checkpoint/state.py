"""Training states: `state/step-00001000/`, each complete or absent, confirmed by its manifest.

A state is written beside its place, synced and renamed, so a crash at any moment leaves the ones
before it. Tensors are safetensors, the rest JSON; nothing loads what the manifest does not confirm.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gentool.checkpoint.atomic import sync
from gentool.checkpoint.weights import load_tensors, save_tensors
from gentool.errors import BadCheckpointError
from gentool.settings import Tree

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json")


@dataclass
class State:
    """What training needs to go on as if it had not stopped."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]  # file stem -> name -> tensor
    values: Tree  # the rest: cursor, counters, optimizer settings


def write_state(run: Path, state: State) -> Path:
    """Write `run/state/step-…` and return it. Raises OSError; nothing is lost."""
    folder = run / "state"
    folder.mkdir(exist_ok=True)
    place = folder / f"step-{state.step:08d}"
    beside = folder / f".{place.name}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        for stem, tensors in state.tensors.items():
            save_tensors(tensors, beside / f"{stem}.safetensors")
        (beside / "state.json").write_text(json.dumps(state.values, indent=1) + "\n")
        digests = {path.name: _digest(path) for path in sorted(beside.iterdir())}
        manifest = {"step": state.step, "sha256": digests}
        (beside / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        for path in [*beside.iterdir(), beside]:
            sync(path)
        if place.exists():  # the same step saved again, e.g. stopped right after an interval
            shutil.rmtree(place)
        os.replace(beside, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sync(folder)
    return place


def read_state(place: Path) -> State:
    """Read a state folder. Raises BadCheckpointError unless its manifest confirms every file."""
    try:
        manifest = json.loads((place / "manifest.json").read_text())
        digests = manifest["sha256"]
        for name, digest in digests.items():
            if _digest(place / name) != digest:
                raise BadCheckpointError(f"{place / name} was changed or damaged (SHA-256 differs)")
        if manifest["step"] != step_of(place) or not {*FILES} <= digests.keys():
            raise ValueError("its manifest is not that of this state")
        values = json.loads((place / "state.json").read_text())
        stems = [name.removesuffix(".safetensors") for name in digests if name != "state.json"]
        tensors = {stem: load_tensors(place / f"{stem}.safetensors")[0] for stem in stems}
        return State(manifest["step"], tensors, values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpointError(f"{place} is not a complete state: {error}") from None


def states(run: Path) -> list[Path]:
    """The states of a run, oldest first."""
    places = (run / "state").glob("step-*")
    return sorted(path for path in places if names_state(path) and path.is_dir())


def names_state(path: Path) -> bool:
    """Whether `path` is where a state would stand: RUN/state/step-00001000."""
    return path.parent.name == "state" and bool(re.fullmatch(r"step-\d+", path.name))


def step_of(place: Path) -> int:
    """The step in a state folder's name."""
    return int(place.name.removeprefix("step-"))


def reached(run: Path, steps: int) -> bool:
    """Whether the newest state of a run is at step `steps` or beyond."""
    found = states(run)
    return bool(found) and step_of(found[-1]) >= steps


def prune(run: Path, keep_last: int, keep_best: int, losses: Mapping[int, float]) -> None:
    """Delete all states but the `keep_last` newest and the `keep_best` of lowest loss.

    losses: validation losses by step.
    """
    found = states(run)
    validated = sorted((losses[s], s) for s in map(step_of, found) if s in losses)
    best = {step for _, step in validated[:keep_best]}
    for place in found[:-keep_last]:
        if step_of(place) not in best:
            shutil.rmtree(place)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
