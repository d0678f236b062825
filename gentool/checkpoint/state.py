"""Training states: `state/step-00001000/`, each complete or absent, confirmed by its manifest.

A state is written beside its place, synced and renamed, so a crash at any moment leaves the ones
before it. Tensors are safetensors, the rest JSON; nothing loads what the manifest does not confirm.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gentool.checkpoint.atomic import sync
from gentool.checkpoint.config import place_of_state, run_of
from gentool.checkpoint.weights import (
    Weights,
    load_tensors,
    read_weights,
    sampled_from,
    save_tensors,
)
from gentool.errors import BadCheckpointError
from gentool.settings import Tree

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json")


@dataclass
class State:
    """What training needs to go on as if it had not stopped."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]  # file stem -> name -> tensor
    values: Tree  # the rest: cursor, sums, what a step sees


def write_state(run: Path, state: State) -> Path:
    """Write `run/state/step-…` and return it. Raises OSError; nothing is lost."""
    folder = run / "state"
    folder.mkdir(exist_ok=True)
    place = _place(run, state.step)
    beside = folder / f".{place.name}.tmp"
    sweep(run)
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
        if place.exists():  # a damaged one, that a resumed run passed over
            _remove(place)
        os.replace(beside, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sync(folder)
    return place


def sweep(run: Path) -> None:
    """Delete what a process that was killed left of states that it was writing or deleting."""
    for leftover in (run / "state").glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


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
    return sorted(path for path in places if place_of_state(path) == path and path.is_dir())


def _place(run: Path, step: int) -> Path:
    return run / "state" / f"step-{step:08d}"


def step_of(place: Path) -> int:
    """The step in a state folder's name, or in that of what it is a link to."""
    return int((place_of_state(place) or place).name.removeprefix("step-"))


def reached(run: Path, steps: int) -> bool:
    """Whether the newest state of a run is at step `steps` or beyond."""
    found = states(run)
    return bool(found) and step_of(found[-1]) >= steps


def best(run: Path, n: int, losses: Mapping[int, float]) -> list[int]:
    """The steps of the n states of lowest loss, the lowest first. losses: by step, where known."""
    validated = sorted((losses[s], s) for s in map(step_of, states(run)) if s in losses)
    return [step for _, step in validated[:n]]


def prune(run: Path, step: int, keep_last: int, keep: Collection[int]) -> None:
    """Delete all states up to `step` but the `keep_last` newest of these and those of `keep`.

    A later one is what a resume passed over, for instance as damaged: it must not crowd out others.
    """
    for place in [place for place in states(run) if step_of(place) <= step][:-keep_last]:
        if step_of(place) not in keep:
            _remove(place)


def _remove(place: Path) -> None:
    """Delete a state, which is complete until it is gone."""
    hidden = place.with_name(f".{place.name}.gone.tmp")
    os.replace(place, hidden)
    shutil.rmtree(hidden)


def read_sampling(folder: Path, config: Tree) -> Weights:
    """What `read_weights` reads, of a state too: its average over training. Raises as that."""
    weights = read_weights(run_of(folder), config)
    if not place_of_state(folder):
        return weights
    tensors = sampled_from(_tensors(folder, "ema"))
    return weights._replace(tensors=tensors, step=step_of(folder))


def mean_weights(run: Path, steps: Collection[int]) -> dict[str, Tensor]:
    """The mean of the raw weights of some states. Raises BadCheckpointError."""
    found = [_tensors(_place(run, step), "model") for step in sorted(steps)]
    return {
        name: torch.stack([tensors[name].double() for tensors in found]).mean(dim=0).to(first.dtype)
        for name, first in found[0].items()
    }


def _tensors(place: Path, stem: str) -> dict[str, Tensor]:
    """One file of a state, without the rest of it. Raises BadCheckpointError."""
    path = place / f"{stem}.safetensors"
    try:
        digests = json.loads((place / "manifest.json").read_text())["sha256"]
        if _digest(path) != digests[path.name]:
            raise ValueError("SHA-256 differs")
        return load_tensors(path)[0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpointError(
            f"{place} is not a whole state: {error}", "delete that folder"
        ) from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
