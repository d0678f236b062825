"""The tokenizer of a checkpoint: the one whose hash the weights carry, or an error. Imports no
torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from gentool.checkpoint.config import read_config, run_of
from gentool.errors import BadCheckpointError, NotFoundError
from gentool.resources import checkpoint_path
from gentool.tokenizers import load

if TYPE_CHECKING:
    from gentool.checkpoint.load import Loaded

NONE = "none"
"""In the header of weights, in place of a hash: this model has no tokens."""


def read_tokenizer(checkpoint: Path, written: str) -> Any:
    """The tokenizer, as `load` gives it, with the hash `written`; None if that is NONE.

    Raises BadCheckpointError.
    """
    folder = checkpoint / "tokenizer"
    if written == NONE:
        if folder.exists():
            raise BadCheckpointError(
                f"{folder} does not belong here: the weights were trained without a tokenizer",
                "remove it",
            )
        return None
    try:
        tokenizer = load(folder)
    except NotFoundError as error:
        raise BadCheckpointError(
            f"{error}, which the weights were trained with", "restore it from a copy"
        ) from None
    if tokenizer.hash != written:
        raise BadCheckpointError(
            f"{folder} is not the tokenizer that the weights were trained with (SHA-256 differs)",
            "restore it from a copy",
        )
    return tokenizer


def find_tokenizer(name: str) -> Any:
    """The tokenizer in the folder `name`, or that of the checkpoint `name`, which may be a shipped
    one. Raises NotFoundError or BadCheckpointError."""
    place = checkpoint_path(name)
    folder = run_of(place)
    path = folder / "model.safetensors"
    if not path.is_file():
        return load(folder)
    path.open("rb").close()  # as in load_tensors
    try:
        with safe_open(path, framework="numpy") as file:
            written = (file.metadata() or {})["tokenizer_sha256"]
    except (SafetensorError, KeyError):
        raise BadCheckpointError(f"{path} was not written by gentool, or is damaged") from None
    tokenizer = read_tokenizer(folder, written)
    if tokenizer is None:
        backend = read_config(folder).backend
        if backend == "vq":  # a run that trained a tokenizer is one
            from gentool.checkpoint.load import load_checkpoint

            return trained_tokenizer(load_checkpoint(place, "vq"))
        raise BadCheckpointError(f"{folder} has no tokenizer: it is a {backend} checkpoint")
    return tokenizer


def trained_tokenizer(loaded: "Loaded") -> Any:
    """The tokenizer that a run of vq has trained. Raises BadCheckpointError for one that has no
    codes yet."""
    from gentool.tokenizers.vq.tokenizer import tokenizer_of

    if loaded.step and not loaded.network.get_buffer("n").any():
        raise BadCheckpointError(
            f"{loaded.folder} has no codes yet: it stands at step {loaded.step}, in the share "
            "quantizer.start of its steps",
            f"gentool train vq --resume latest --out {run_of(loaded.folder)}",
        )
    return tokenizer_of(loaded.network, loaded.config.model, loaded.config.data)
