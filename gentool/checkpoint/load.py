"""From a checkpoint's name to a backend with its trained network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gentool.checkpoint.config import RunConfig, read_config
from gentool.checkpoint.state import read_sampling
from gentool.checkpoint.weights import load_sampling_tensors
from gentool.errors import BadCheckpointError, MachineError, NotFoundError, UsageError, nearest
from gentool.protocol import Backend
from gentool.registry import BACKENDS, backend_class, options_module
from gentool.resources import shipped
from gentool.rng import torch_seed
from gentool.settings import build
from gentool.tokenizers import Tokenizer
from gentool.tokenizers.config import has_tokens


@dataclass
class Loaded:
    """A checkpoint ready to use."""

    folder: Path
    run_config: RunConfig
    config: Any  # the backend's Config
    backend: Any  # gentool.protocol.Backend, built from it
    network: nn.Module  # with the weights that sampling uses, on the CPU
    step: int
    tokenizer: Tokenizer | None  # that the backend was built with, where it has tokens


def find_checkpoint(name: str | None, backend: str, option: str = "--checkpoint") -> Path:
    """The folder that `--checkpoint name` means: a shipped checkpoint's name, or the path of one or
    of a run's state.

    Without a name: the shipped `BACKEND-scenes`. option: by which it is named. Raises
    NotFoundError.
    """
    known = shipped("checkpoints")
    wanted = f"{backend}-scenes" if name is None else name
    path = known.get(wanted, Path(wanted))
    if wanted and path.exists():
        return path
    if name is None:
        raise NotFoundError(
            f"no {wanted} checkpoint is installed",
            f"`gentool train {backend}` trains one; {option} DIR names another",
        )
    hint = nearest(wanted, known) if known else f"`gentool train {backend}` trains one"
    raise NotFoundError(f"no checkpoint {wanted!r}", hint)


def check_backend(folder: Path, run_config: RunConfig, backend: str) -> None:
    """Raise BadCheckpointError if the checkpoint in `folder` is not one of `backend`."""
    if run_config.backend != backend:
        raise BadCheckpointError(
            f"{folder} is a {run_config.backend} checkpoint, not {backend}",
            f"use the {run_config.backend} sub-command"
            if {backend, run_config.backend} <= {*BACKENDS}
            else f"`gentool train {backend}` trains one",
        )


def load_checkpoint(folder: Path | str, backend: str) -> Loaded:
    """Load and verify a checkpoint of `backend`. Raises NotFoundError or BadCheckpointError."""
    folder = Path(folder)
    run_config = read_config(folder)
    check_backend(folder, run_config, backend)
    tensors, step, tokenizer = read_sampling(folder, run_config.config)
    try:
        config = build(options_module(backend).Config, run_config.config)
        said = "tokenizer" in run_config.config and has_tokens(config)
        if said != (tokenizer is not None):
            raise BadCheckpointError(
                f"{folder}: only one of config.json and the weights knows of a tokenizer"
            )
        make = backend_class(backend)
        with needed():
            implementation = make(config, tokenizer) if tokenizer else make(config)
        check_frozen_encoder(run_config, implementation)
        with torch_seed("unused"):
            network = implementation.network()
        load_sampling_tensors(network, tensors)
    except (UsageError, RuntimeError, KeyError) as error:
        raise BadCheckpointError(
            f"{folder}: its weights do not fit its config.json: {error}"
        ) from None
    return Loaded(folder, run_config, config, implementation, network.eval(), step, tokenizer)


@contextmanager
def needed() -> Iterator[None]:
    """Of what a checkpoint leans on: that the Hub cannot be reached is NotFoundError."""
    try:
        yield
    except MachineError as error:
        raise NotFoundError(
            str(error), "a connection to the Hub, or the folder that it was trained with"
        ) from None


def frozen_encoder(backend: Backend) -> str:
    """The SHA-256 of the pretrained text encoder that a backend leans on; empty for none."""
    captions = backend.captions
    return captions.pretrained.hash if captions and captions.pretrained else ""


def check_frozen_encoder(run_config: RunConfig, backend: Any) -> None:
    """Raise BadCheckpointError unless the text encoder is the one that the run was trained with:
    its weights are not in the checkpoint."""
    found, written = frozen_encoder(backend), run_config.data.get("text_encoder", "")
    if found != written:
        raise BadCheckpointError(
            f"text encoder {run_config.config['model']['text']['name']} is not the one that this "
            f"model was trained with (SHA-256 {found[:12]}…, was {written[:12]}…)",
            "restore it from a copy",
        )
