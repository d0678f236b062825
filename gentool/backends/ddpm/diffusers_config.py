"""The settings of diffusers' `UNet2DModel` and of its schedulers, and gentool's.

One row a key of their config.json, read in both directions. What cannot be said on the other side
is refused by its name and value.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from gentool.backends.ddpm import Config
from gentool.errors import BadCheckpointError, UsageError
from gentool.settings import Tree, build, flatten, merge, to_tree


class Key(NamedTuple):
    """One of their keys."""

    default: Any  # what diffusers takes where a file has no such key
    ours: str = ""  # our setting
    values: tuple[tuple[Any, Any], ...] = ()  # (theirs, ours); none: any, the same on both sides
    by_hand: bool = False  # translated by a function below


def only(*values: Any) -> tuple[tuple[Any, Any], ...]:
    """The values with which their model is one that gentool has; the first is written."""
    return tuple((value, None) for value in values)


UNET = {
    "sample_size": Key(None, "data.image_size", by_hand=True),
    "in_channels": Key(3, "data.channels"),
    "out_channels": Key(3, by_hand=True),
    "center_input_sample": Key(False, values=only(False)),
    "time_embedding_type": Key("positional", values=only("positional")),
    "time_embedding_dim": Key(None, by_hand=True),
    "freq_shift": Key(0, "model.frequency_shift", ((0, 0), (1, 1))),
    "flip_sin_to_cos": Key(True, "model.time_features", ((False, "sin_cos"), (True, "cos_sin"))),
    "down_block_types": Key(["DownBlock2D", *["AttnDownBlock2D"] * 3], by_hand=True),
    "mid_block_type": Key("UNetMidBlock2D", values=only("UNetMidBlock2D")),
    "up_block_types": Key([*["AttnUpBlock2D"] * 3, "UpBlock2D"], by_hand=True),
    "block_out_channels": Key([224, 448, 672, 896], "model.channels", by_hand=True),
    "layers_per_block": Key(2, "model.blocks"),
    "mid_block_scale_factor": Key(1, values=only(1)),
    "downsample_padding": Key(1, "model.down_padding", ((0, "after"), (1, "around"))),
    "downsample_type": Key("conv", values=only("conv")),
    "upsample_type": Key("conv", values=only("conv")),
    "dropout": Key(0.0, "model.dropout"),
    "act_fn": Key("silu", values=only("silu", "swish")),
    "attention_head_dim": Key(8, "model.head_channels", by_hand=True),
    "norm_num_groups": Key(32, "model.norm_groups"),
    "attn_norm_num_groups": Key(None, by_hand=True),
    "norm_eps": Key(1e-5, "model.norm_eps"),
    "resnet_time_scale_shift": Key(
        "default", "model.time_embedding", (("default", "add"), ("scale_shift", "scale_shift"))
    ),
    "add_attention": Key(True, values=only(True)),
    "class_embed_type": Key(None, values=only(None)),
    "num_class_embeds": Key(None, "model.classes", by_hand=True),
    "num_train_timesteps": Key(None, by_hand=True),  # of a time embedding that is refused above
}
SCHEDULER = {
    "num_train_timesteps": Key(1000, "diffusion.T"),
    "beta_start": Key(0.0001, by_hand=True),
    "beta_end": Key(0.02, by_hand=True),
    "beta_schedule": Key(
        "linear", "diffusion.schedule", (("linear", "linear"), ("squaredcos_cap_v2", "cosine"))
    ),
    "trained_betas": Key(None, values=only(None)),
    "variance_type": Key("fixed_small", by_hand=True),
    "clip_sample": Key(True, values=only(True)),
    "prediction_type": Key(
        "epsilon",
        "diffusion.prediction",
        (("epsilon", "eps"), ("sample", "x_0"), ("v_prediction", "v")),
    ),
    "thresholding": Key(False, values=only(False)),
    "dynamic_thresholding_ratio": Key(0.995, by_hand=True),  # of thresholding alone
    "clip_sample_range": Key(1.0, values=only(1.0)),
    "sample_max_value": Key(1.0, by_hand=True),  # of thresholding alone
    "timestep_spacing": Key(
        "leading",
        "sample.spacing",
        # They have no quadratic one, and trailing is the nearest.
        (("leading", "leading"), ("trailing", "trailing"), ("trailing", "quadratic")),
    ),
    "steps_offset": Key(0, values=only(0)),
    "rescale_betas_zero_snr": Key(False, values=only(False)),
}
# Their average of weights (EMAModel) writes what it counts into the network's configuration.
OF_EMA = {
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
}
OF_DDIM = {"set_alpha_to_one": Key(True, values=only(True))}  # read, not written
SAMPLERS = {"DDPMScheduler": "ancestral", "DDIMScheduler": "ddim"}
VARIANCES = {"fixed_small": "fixed_small", "fixed_large": "fixed_large", "learned_range": "auto"}
BLOCKS = {False: ("DownBlock2D", "UpBlock2D"), True: ("AttnDownBlock2D", "AttnUpBlock2D")}


def refusal(where: Path, key: str, value: Any, hint: str = "") -> BadCheckpointError:
    """The error for what the other side cannot say."""
    return BadCheckpointError(f"{where}: {key} = {json.dumps(value)} cannot be converted", hint)


# Theirs to ours ---------------------------------------------------------------------------------


def read_config(unet: Path, scheduler: Path | None, drop_condition: float) -> Config:
    """The configuration that their files say; without a scheduler that of the paper.

    drop_condition: not 0 if their last class is the one that stands for none. Raises
    BadCheckpointError, naming the key.
    """
    theirs = read_json(unet)
    check_class(unet, theirs, ["UNet2DModel"])
    if "optimization_step" in theirs:
        theirs = {name: value for name, value in theirs.items() if name not in OF_EMA}
    values, tree = _translate(UNET, theirs, unet)
    learned = _channels(values, unet)
    for more in (
        _levels(values, unet),
        _attention(values, unet),
        _classes(values, unet, drop_condition),
        # A learned variance is trained by an objective of its own.
        {"diffusion": {"variance": "learned_range", "objective": "hybrid"}} if learned else {},
        _scheduler(scheduler, learned) if scheduler else {},
    ):
        tree = merge(tree, more)
    try:
        return build(Config, tree)
    except UsageError as error:
        raise BadCheckpointError(f"{unet}: {in_their_words(str(error))}") from None


def read_json(path: Path) -> Tree:
    """One of their JSON files. Raises BadCheckpointError."""
    try:
        if path.stat().st_size > 2**20:
            raise ValueError("larger than a configuration is")
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise BadCheckpointError(f"{path} cannot be read: {error}") from None
    return tree


def check_class(path: Path, tree: Tree, known: list[str]) -> str:
    """The class that a file of theirs is of, one of `known`. Raises BadCheckpointError."""
    name = tree.get("_class_name", known[0])
    if name not in known:
        raise refusal(path, "_class_name", name, f"known: {', '.join(known)}")
    return str(name)


def in_their_words(message: str) -> str:
    """A message about our settings with their keys in place of ours."""
    for theirs, key in {**UNET, **SCHEDULER}.items():
        message = message.replace(key.ours, theirs) if key.ours else message
    return message


def _translate(keys: dict[str, Key], theirs: Tree, path: Path) -> tuple[Tree, Tree]:
    """Their values, the missing ones filled in, and ours as far as the table goes."""
    given = {name: value for name, value in theirs.items() if not name.startswith("_")}
    for name, value in given.items():
        if name not in keys:
            raise refusal(path, name, value, "if the model does not need that key, remove it")
    values = {name: key.default for name, key in keys.items()} | given
    tree: Tree = {}
    for name, key in keys.items():
        value = values[name]
        if key.values:
            found = [ours for theirs, ours in key.values if theirs == value]
            if not found:
                allowed = ", ".join(json.dumps(theirs) for theirs, _ in key.values)
                raise refusal(path, name, value, f"gentool has {allowed}")
            value = found[0]
        if key.ours and not key.by_hand:
            section, _, setting = key.ours.partition(".")
            tree.setdefault(section, {})[setting] = value
    return values, tree


def _channels(values: Tree, path: Path) -> bool:
    """Whether the network returns a variance beside its prediction."""
    C, out = values["in_channels"], values["out_channels"]
    if not _whole(C):
        raise refusal(path, "in_channels", C)
    if out not in (C, 2 * C):
        raise refusal(path, "out_channels", out, f"{C} as in_channels, or {2 * C} with a variance")
    return bool(out != C)


def _levels(values: Tree, path: Path) -> Tree:
    """Image size, widths, and the levels that attend."""
    size = values["sample_size"]
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if not _whole(size):
        raise refusal(path, "sample_size", size, "gentool draws squares of one size")
    widths = values["block_out_channels"]
    if not isinstance(widths, list) or not widths or not all(map(_whole, widths)):
        raise refusal(path, "block_out_channels", widths)
    if values["time_embedding_dim"] not in (None, 4 * widths[0]):
        raise refusal(path, "time_embedding_dim", values["time_embedding_dim"])
    attends = {}
    for side, key in enumerate(("down_block_types", "up_block_types")):
        kinds = {types[side]: attend for attend, types in BLOCKS.items()}
        types = values[key]
        if not isinstance(types, list) or len(types) != len(widths):
            raise refusal(path, key, types, f"one for each of block_out_channels: {widths}")
        for name in types:
            if str(name).removeprefix("UNetRes") not in kinds:
                raise refusal(path, key, name, f"gentool has {', '.join(kinds)}")
        attends[key] = [kinds[name.removeprefix("UNetRes")] for name in types]
    down = attends["down_block_types"]
    if down != attends["up_block_types"][::-1]:
        types = values["up_block_types"]
        hint = "gentool has attention on both sides of a level or on neither; down_block_types is "
        raise refusal(path, "up_block_types", types, hint + json.dumps(values["down_block_types"]))
    channels = math.gcd(*widths)
    model = {
        "channels": channels,
        "multipliers": [width // channels for width in widths],
        "time_channels": 0 if channels == widths[0] else widths[0],
        "attention": [size >> level for level, attend in enumerate(down) if attend],
    }
    return {"data": {"image_size": size}, "model": model}


def _attention(values: Tree, path: Path) -> Tree:
    """Heads, and whether the attention in the middle is normalised."""
    head = values["attention_head_dim"]
    if head is not None and not _whole(head):
        raise refusal(path, "attention_head_dim", head)
    groups = values["attn_norm_num_groups"]
    if groups not in (None, values["norm_num_groups"]):
        raise refusal(
            path, "attn_norm_num_groups", groups,
            f"gentool has norm_num_groups, {values['norm_num_groups']}",
        )  # fmt: skip
    normed = groups is not None or values["resnet_time_scale_shift"] == "default"
    return {"model": {"head_channels": head or 0, "middle_norm": normed}}


def _classes(values: Tree, path: Path, drop_condition: float) -> Tree:
    """Their classes; with drop_condition the last of them is the null class."""
    n = values["num_class_embeds"]
    if n is None:
        return {}
    if not _whole(n):
        raise refusal(path, "num_class_embeds", n)
    return {
        "model": {"classes": n - 1 if drop_condition else n},
        "diffusion": {"drop_condition": drop_condition},
    }


def _scheduler(path: Path, learned: bool) -> Tree:
    """The chain, and sampling by default as their pipeline does: every step of it."""
    theirs = read_json(path)
    sampler = SAMPLERS[check_class(path, theirs, list(SAMPLERS))]
    values, tree = _translate(SCHEDULER | OF_DDIM, theirs, path)
    T = values["num_train_timesteps"]
    if not _whole(T):
        raise refusal(path, "num_train_timesteps", T)
    if values["beta_schedule"] == "linear":
        for key, beta in _linear_ends(T).items():
            given = values[key]
            if not isinstance(given, int | float) or not math.isclose(given, beta, rel_tol=1e-6):
                raise refusal(path, key, given, f"the linear schedule of {T} steps has {beta:.6g}")
    kind = values["variance_type"]
    if kind not in list(VARIANCES) or (kind == "learned_range") != learned:
        hint = "learned_range with twice the out_channels, else fixed_small or fixed_large"
        raise refusal(path, "variance_type", kind, hint)
    return merge(tree, {"sample": {"steps": T, "sampler": sampler, "variance": VARIANCES[kind]}})


def _linear_ends(T: int) -> dict[str, float]:
    """The first and last beta of a linear schedule (gentool.diffusion.schedules)."""
    return {"beta_start": 0.1 / T, "beta_end": 20 / T}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


# Ours to theirs ---------------------------------------------------------------------------------


def unet_config(config: Config, where: Path) -> Tree:
    """config.json of their U-Net. Raises BadCheckpointError, naming the setting of ours."""
    model, learned = config.model, config.diffusion.variance == "learned_range"
    widths = [model.channels * multiplier for multiplier in model.multipliers]
    if model.patch_size != 1:
        raise refusal(where, "model.patch_size", model.patch_size, "diffusers' U-Net sees pixels")
    if model.positions:
        raise refusal(where, "model.positions", True, "diffusers' U-Net has no such vectors")
    if model.text.encoder != "none":
        raise refusal(
            where, "model.text.encoder", model.text.encoder, "diffusers' U-Net reads no captions"
        )
    features = model.time_channels or model.channels
    if features != widths[0]:
        hint = f"diffusers has the width of the first level, {widths[0]}"
        raise refusal(where, "model.time_channels", features, hint)
    scale_shift = model.time_embedding == "scale_shift"
    if not model.middle_norm and not scale_shift:
        raise refusal(where, "model.middle_norm", False, "diffusers has it with scale_shift alone")
    resolutions = [config.data.image_size >> level for level in range(len(widths))]
    kinds = [BLOCKS[resolution in model.attention] for resolution in resolutions]
    null = 1 if config.diffusion.drop_condition else 0
    by_hand = {
        "sample_size": config.data.image_size,
        "out_channels": config.data.channels * (2 if learned else 1),
        "block_out_channels": widths,
        "down_block_types": [down for down, _ in kinds],
        "up_block_types": [up for _, up in reversed(kinds)],
        "attention_head_dim": model.head_channels or None,
        "attn_norm_num_groups": model.norm_groups if scale_shift and model.middle_norm else None,
        "num_class_embeds": model.classes + null if model.classes else None,
    }
    return {"_class_name": "UNet2DModel"} | _reversed(UNET, config, where) | by_hand


def scheduler_config(config: Config, where: Path) -> Tree:
    """scheduler_config.json. Raises BadCheckpointError, naming the setting of ours."""
    if config.diffusion.shift != 1:
        raise refusal(where, "diffusion.shift", config.diffusion.shift)
    kinds = {ours: theirs for theirs, ours in VARIANCES.items()}
    kind = kinds[config.sample.variance]
    if config.diffusion.variance == "learned_range":
        kind = "learned_range"
    elif kind == "learned_range":
        kind = "fixed_large"  # what auto means without a learned one
    by_hand: Tree = {"variance_type": kind}
    if config.diffusion.schedule == "linear":
        by_hand |= _linear_ends(config.diffusion.T)
    return {"_class_name": "DDPMScheduler"} | _reversed(SCHEDULER, config, where) | by_hand


def _reversed(keys: dict[str, Key], config: Config, where: Path) -> Tree:
    """Theirs as far as the table goes, their defaults for the rest."""
    ours = flatten(to_tree(config))
    written: Tree = {}
    for name, key in keys.items():
        value = key.default if key.by_hand else ours[key.ours] if key.ours else key.values[0][0]
        if key.ours and key.values:
            found = [theirs for theirs, same in key.values if same == value]
            if not found:
                raise refusal(where, key.ours, value)
            value = found[0]
        written[name] = value
    return written
