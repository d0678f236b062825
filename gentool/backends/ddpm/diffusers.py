"""Folders of the diffusers library: `UNet2DModel` and `DDPMPipeline`, read and written.

diffusers itself is needed for one thing alone: comparing its network with ours.
"""

import importlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from gentool.backends.ddpm import Config, ModelConfig, SampleConfig
from gentool.backends.ddpm.backend import Backend
from gentool.backends.ddpm.diffusers_config import (
    check_class,
    in_their_words,
    read_config,
    read_json,
    scheduler_config,
    unet_config,
)
from gentool.checkpoint.atomic import write_file
from gentool.checkpoint.weights import load_tensors, save_tensors
from gentool.errors import BadCheckpointError, NotFoundError, UsageError
from gentool.rng import BatchRng, torch_seed
from gentool.settings import to_tree

WEIGHTS = "diffusion_pytorch_model.safetensors"
VERSION = "0.42.1"  # of diffusers, whose defaults diffusers_config has
PIPELINES = ["DDPMPipeline", "DDIMPipeline"]
TOLERANCE = 1e-3  # of the largest output; rounding stays far below it

# Our layers and theirs; where there are several, each holds an equal share of our rows.
ENDS = {
    "time.0": ["time_embedding.linear_1"],
    "time.2": ["time_embedding.linear_2"],
    "classes": ["class_embedding"],
    "stem": ["conv_in"],
    "norm": ["conv_norm_out"],
    "head": ["conv_out"],
}
RESIDUAL = {
    "norm_1": ["norm1"],
    "conv_1": ["conv1"],
    "emb": ["time_emb_proj"],
    "norm_2": ["norm2"],
    "conv_2": ["conv2"],
    "skip": ["conv_shortcut"],
}
ATTENTION = {"norm": ["group_norm"], "qkv": ["to_q", "to_k", "to_v"], "out": ["to_out.0"]}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass
class Imported:
    """A diffusers folder as one of gentool's models."""

    config: Config
    network: nn.Module  # with its weights
    unet: Path  # the folder that holds the UNet2DModel
    has_scheduler: bool


def read(folder: Path) -> Imported:
    """The model in `folder`, a UNet2DModel's or a pipeline's; nothing outside it is opened.

    Raises NotFoundError, or BadCheckpointError naming what gentool cannot represent.
    """
    if not folder.is_dir():
        raise NotFoundError(f"no folder {folder}", "a model of the hub is downloaded first")
    if index := _file(folder, "model_index.json"):
        check_class(index, read_json(index), PIPELINES)
    # Their training scripts keep the average of the weights beside these, and it draws far better;
    # old repositories of the hub hold everything at their root.
    places = ("unet_ema/config.json", "unet/config.json", "config.json")
    path = next(filter(None, (_file(folder, place) for place in places)), None)
    if path is None:
        raise NotFoundError(
            f"{folder} has neither config.json nor unet/config.json", "is it a diffusers model?"
        )
    scheduler = _file(folder, "scheduler/scheduler_config.json") or _file(
        folder, "scheduler_config.json"
    )
    theirs, metadata = load_tensors(_weights(folder, path.parent))
    drop_condition = _number(metadata.get("gentool_drop_condition"))
    config = read_config(path, scheduler, drop_condition)
    try:
        backend = Backend(config)
        with torch_seed("unused"):
            network = backend.network()
    except UsageError as error:
        raise BadCheckpointError(f"{path}: {in_their_words(str(error))}") from None
    network.load_state_dict(_to_ours(theirs, network, config, path.parent / WEIGHTS))
    return Imported(config, network.eval(), path.parent, scheduler is not None)


def write(config: Config, network: nn.Module, folder: Path, where: Path) -> None:
    """Fill the empty `folder` with a DDPMPipeline. where: whose configuration it is, for messages.

    Raises BadCheckpointError, naming what diffusers cannot represent.
    """
    unet, scheduler = unet_config(config, where), scheduler_config(config, where)
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    for name, tree in {
        "model_index.json": index,
        "unet/config.json": unet,
        "scheduler/scheduler_config.json": scheduler,
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({"_diffusers_version": VERSION} | tree, indent=2, sort_keys=True)
        write_file(path, f"{text}\n".encode())
    metadata = {"format": "pt"}
    if config.model.classes and config.diffusion.drop_condition:
        # diffusers has no word for it: the last class is the null class.
        metadata["gentool_drop_condition"] = str(config.diffusion.drop_condition)
    tensors = _to_theirs(network.state_dict(), config)
    write_file(folder / "unet" / WEIGHTS, lambda path: save_tensors(tensors, path, metadata))


def not_written(config: Config) -> list[str]:
    """The sampling settings that a folder of theirs has no place for."""
    sample = config.sample
    spacing = "leading" if sample.spacing == "leading" else "trailing"
    written = replace(
        SampleConfig(), steps=config.diffusion.T, spacing=spacing, variance=sample.variance
    )
    if config.diffusion.variance == "learned_range":
        written.variance = "auto"
    standard = to_tree(written)
    return [f"{k} {v}" for k, v in to_tree(sample).items() if v != standard[k]]


def compare(unet: Path, network: nn.Module, config: Config) -> tuple[float, float] | None:
    """The largest difference of `network` from the UNet2DModel in `unet`, and its largest output.

    On two random images at random noise levels, of random classes; None without diffusers. Raises
    BadCheckpointError where they differ by more than rounding.
    """
    try:
        library = importlib.import_module("diffusers")
    except ImportError:
        return None
    other = library.UNet2DModel.from_pretrained(unet, use_safetensors=True).float().eval()
    rng = BatchRng.for_samples(0, range(2))
    size = config.data.image_size
    x_t = rng.normal(config.data.channels, size, size)
    t = rng.integers(config.diffusion.T)
    rows = config.model.classes + (1 if config.diffusion.drop_condition else 0)
    y = rng.integers(rows) if config.model.classes else None
    with torch.no_grad():
        ours, theirs = network(x_t, t, y), other(x_t, t, class_labels=y).sample
    difference, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    if not difference <= TOLERANCE * largest:
        raise BadCheckpointError(
            f"{unet}: the two networks differ by {difference:.3g} of {largest:.3g}",
            "nothing was written; please report it with the folder's config.json",
        )
    return difference, largest


# Tensors ----------------------------------------------------------------------------------------


def _layers(model: ModelConfig) -> dict[str, list[str]]:
    """Our layers and theirs; some of these a network may not have."""
    found = dict(ENDS)

    def block(ours: str, theirs: str, j: int) -> None:
        for part, names in RESIDUAL.items():
            found[f"{ours}.{part}"] = [f"{theirs}.resnets.{j}.{name}" for name in names]
        for part, names in ATTENTION.items():
            layer = f"{ours}.attention.{part}"
            found[layer] = [f"{theirs}.attentions.{j}.{name}" for name in names]

    levels = len(model.multipliers)
    down, up = count(), count()
    for level in range(levels):
        for j in range(model.blocks):
            block(f"down.{next(down)}", f"down_blocks.{level}", j)
        if level < levels - 1:
            found[f"down.{next(down)}.conv"] = [f"down_blocks.{level}.downsamplers.0.conv"]
    for j in range(2):
        block(f"middle.{j}", "mid_block", j)
    for level in range(levels):  # from the deepest, there as here
        for j in range(model.blocks + 1):
            block(f"up.{next(up)}", f"up_blocks.{level}", j)
        if level < levels - 1:
            found[f"up.{next(up)}.conv"] = [f"up_blocks.{level}.upsamplers.0.conv"]
    return found


def _names(ours: Iterable[str], model: ModelConfig) -> dict[str, list[str]]:
    """Our tensors and theirs."""
    layers = _layers(model)
    parts = {name: name.rpartition(".") for name in ours}
    return {
        n: [f"{theirs}.{kind}" for theirs in layers[layer]] for n, (layer, _, kind) in parts.items()
    }


def _to_theirs(ours: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    theirs: dict[str, Tensor] = {}
    for name, names in _names(ours, config.model).items():
        tensor = ours[name]
        if name == "classes.weight" and not config.diffusion.drop_condition:
            tensor = tensor[:-1]  # a null class that nothing was trained with
        theirs |= zip(names, tensor.chunk(len(names)), strict=True)
    return theirs


def _to_ours(
    theirs: Mapping[str, Tensor], network: nn.Module, config: Config, path: Path
) -> dict[str, Tensor]:
    """Their tensors as those of `network`. Raises BadCheckpointError, naming what does not fit."""
    old = rf"(\.attentions\.\d+)\.({'|'.join(OLD_NAMES)})\."
    left = {
        re.sub(old, lambda found: f"{found[1]}.{OLD_NAMES[found[2]]}.", name): tensor
        for name, tensor in theirs.items()
    }
    wanted = network.state_dict()
    ours = {}
    for name, names in _names(wanted, config.model).items():
        rows, *rest = wanted[name].shape
        adds_null = name == "classes.weight" and not config.diffusion.drop_condition
        shape = (rows // len(names) - adds_null, *rest)
        parts = []
        for part in names:
            if part not in left:
                raise BadCheckpointError(f"{path} has no tensor {part}, which config.json asks for")
            tensor = left.pop(part)
            if tensor.shape != shape:
                raise BadCheckpointError(
                    f"{path}: {part} is {list(tensor.shape)}, config.json asks for {list(shape)}"
                )
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise BadCheckpointError(f"{path}: {part} has values that are no finite numbers")
            parts.append(tensor.float())
        if adds_null:
            parts.append(torch.zeros(1, *rest))
        ours[name] = torch.cat(parts)
    if left:
        raise BadCheckpointError(f"{path} has a tensor {min(left)}, which config.json does not")
    return ours


# Files ------------------------------------------------------------------------------------------


def _file(folder: Path, name: str) -> Path | None:
    """`folder/name` if there is such a file. Raises BadCheckpointError if it is not inside."""
    path = folder / name
    if not path.exists():
        return None
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadCheckpointError(
            f"{path} is a link out of {folder}", f"a copy without links: cp -rL {folder} COPY"
        )
    return path


def _weights(folder: Path, unet: Path) -> Path:
    """The weights of the UNet2DModel. Raises BadCheckpointError where there are none to read."""
    place = unet.relative_to(folder)
    if path := _file(folder, str(place / WEIGHTS)):
        return path
    pickled = unet / "diffusion_pytorch_model.bin"
    if pickled.exists():
        raise BadCheckpointError(
            f"{pickled} is a pickle, and gentool loads none",
            f'python -c "from diffusers import UNet2DModel as U; '
            f"U.from_pretrained('{unet}').save_pretrained('{unet}')\"",
        )
    others = sorted(path.name for path in unet.glob("*.safetensors*"))
    raise BadCheckpointError(
        f"{unet} has no {WEIGHTS}",
        f"rename or merge what it has: {', '.join(others)}" if others else "",
    )


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
