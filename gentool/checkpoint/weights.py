"""model.safetensors: the weights that sampling uses, tied to the configuration they belong to.

Nothing here loads a pickle. The header of model.safetensors holds the step and the SHA-256 of its
tensors, of the configuration's model section and of the tokenizer, so that weights cannot be read
under a configuration they were not trained with.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gentool.checkpoint.atomic import write_file
from gentool.checkpoint.tokenizer import NONE, read_tokenizer
from gentool.errors import BadCheckpointError, NotFoundError
from gentool.settings import Tree
from gentool.tokenizers import Tokenizer

TRAINING_ONLY = "discriminator."
"""How the names of those tensors begin that are for training alone: they are in its states, and not
in model.safetensors."""


def sampling_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of `network` that sampling uses."""
    return sampled_from(network.state_dict())


def sampled_from(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of all tensors of a network, those that sampling uses."""
    return {name: t for name, t in state.items() if not name.startswith(TRAINING_ONLY)}


def load_sampling_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put `sampling_tensors` into `network`; what it has for training stays as it is. Raises
    RuntimeError where they do not fit."""
    state = network.state_dict()
    kept = {name: t for name, t in state.items() if name.startswith(TRAINING_ONLY)}
    network.load_state_dict({**kept, **tensors})


class Weights(NamedTuple):
    """What `read_weights` found."""

    tensors: dict[str, Tensor]  # that sampling uses
    step: int  # they are of
    tokenizer: Tokenizer | None  # they were trained with


def write_weights(
    folder: Path,
    tensors: Mapping[str, Tensor],
    step: int,
    config: Tree,
    tokenizer_hash: str | None = None,
) -> None:
    """Replace `folder/model.safetensors` by one rename.

    tokenizer_hash: of the tokenizer in `folder/tokenizer`, where the model has tokens.
    """
    metadata = {
        "format": "pt",
        "step": str(step),
        "tensors_sha256": tensors_hash(tensors),
        "model_sha256": section_hash(config["model"]),
        "tokenizer_sha256": tokenizer_hash or NONE,
    }
    write_file(folder / "model.safetensors", lambda path: save_tensors(tensors, path, metadata))


def read_weights(folder: Path, config: Tree) -> Weights:
    """The weights that sampling uses and their tokenizer, verified.

    Raises NotFoundError, or BadCheckpointError if the file, the configuration's model section or
    the tokenizer is not the one that was written.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise NotFoundError(f"{folder} has no model.safetensors", "the run has saved nothing yet")
    tensors, metadata = load_tensors(path)
    try:
        step = int(metadata["step"])
        written = {name: metadata[f"{name}_sha256"] for name in ("tensors", "model", "tokenizer")}
    except (KeyError, ValueError):
        raise BadCheckpointError(f"{path} was not written by gentool") from None
    found = {
        "tensors": tensors_hash(tensors),
        "model": section_hash(config["model"]),
    }
    for name, what in {
        "tensors": "its weights were changed or damaged",
        "model": "config.json's model section is not the one it was trained with",
    }.items():
        if found[name] != written[name]:
            raise BadCheckpointError(f"{path}: {what} (SHA-256 differs)", "restore it from a copy")
    return Weights(tensors, step, read_tokenizer(folder, written["tokenizer"]))


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file; the same tensors and metadata give the same bytes."""
    # Not save_file, whose files only their owner can read.
    path.write_bytes(tensor_bytes(tensors, metadata))


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """What `save_tensors` writes."""
    # Plain layout: safetensors stores no strides.
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = bytearray(save(plain, metadata))
    # safetensors writes the metadata in an order that changes from call to call.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    data[8:end] = text.ljust(end - 8)
    return bytes(data)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file and its header's metadata. Raises BadCheckpointError."""
    path.open("rb").close()  # safe_open says of what it may not read that it is not there
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise BadCheckpointError(f"{path} is not a whole safetensors file: {error}") from None


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def section_hash(section: Tree) -> str:
    """SHA-256 of a section of the configuration, whatever its order or spacing."""
    return hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()
