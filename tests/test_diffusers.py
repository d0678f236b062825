"""Checkpoints of diffusers: the same network on both sides, and no word lost in silence."""

import inspect
import json
import os
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peer import TINY, network, pipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gentool.backends.ddpm import ModelConfig
from gentool.backends.ddpm.diffusers import OLD_NAMES, WEIGHTS, compare, read, write
from gentool.backends.ddpm.diffusers_config import SCHEDULER, UNET
from gentool.errors import BadCheckpointError

diffusers = pytest.importorskip("diffusers")

CIFAR = {  # google/ddpm-cifar10-32, whose block_out_channels are four times these
    "sample_size": 32,
    "block_out_channels": [32, 64, 64, 64],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
SCALE_SHIFT = {  # and else the defaults of diffusers: 8 channels a head, padding 1, cosines first
    "sample_size": 32,
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "resnet_time_scale_shift": "scale_shift",
    "norm_num_groups": 16,
}
NETWORKS = {
    "cifar": CIFAR,
    "scale-shift": SCALE_SHIFT,
    "scale-shift, norm in the middle": SCALE_SHIFT | {"attn_norm_num_groups": 16},
    "a large epsilon": TINY | {"norm_eps": 0.1},
    "widths that the first does not divide": TINY | {"block_out_channels": [24, 16]},
    "grey, learned variance": TINY | {"in_channels": 1, "out_channels": 2},
    "classes": TINY | {"num_class_embeds": 5},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A pipeline. Not to be changed."""
    return pipeline(tmp_path_factory.mktemp("tiny") / "pipe")


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A copy of it that a test may damage."""
    shutil.copytree(tiny, tmp_path / "theirs")
    return tmp_path / "theirs"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def answers(ours: nn.Module, theirs: Any, size: int, C: int, n: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x_t, t = torch.randn(3, C, size, size, generator=rng), torch.tensor([0, 250, 999])
    y = torch.randint(n, (3,), generator=rng) if n else None
    with torch.no_grad():
        return ours(x_t, t, y), theirs(x_t, t, class_labels=y).sample


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape and expected.std() > 0.1
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_there_and_back_it_is_the_same_network(config, tmp_path):
    """Imported it answers as theirs, exported theirs answers as ours, and not a byte changes."""
    theirs = network(**config)
    theirs.save_pretrained(tmp_path / "a")
    found = read(tmp_path / "a")
    shape = config["sample_size"], config.get("in_channels", 3), config.get("num_class_embeds", 0)
    assert_same(*answers(found.network, theirs, *shape))
    assert compare(tmp_path / "a", found.network, found.config)

    (tmp_path / "b").mkdir()
    write(found.config, found.network, tmp_path / "b", Path("b"))
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "b").unet
    assert_same(*answers(found.network, again, *shape))
    before, after = (load_file(tmp_path / name) for name in (f"a/{WEIGHTS}", f"b/unet/{WEIGHTS}"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    third = read(tmp_path / "b")
    assert third.config.model == found.config.model
    assert third.config.diffusion == found.config.diffusion
    ours, again = found.network.state_dict(), third.network.state_dict()
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_the_full_size_network_of_the_paper(tmp_path):
    theirs = network(**CIFAR | {"block_out_channels": [128, 256, 256, 256]})
    theirs.save_pretrained(tmp_path)
    found = read(tmp_path)
    assert found.config.model == ModelConfig(dropout=0.0)
    assert sum(p.numel() for p in found.network.parameters()) == 35_746_307
    assert_same(*answers(found.network, theirs, 32, 3))


def test_a_network_wrongly_read_is_noticed(folder):
    """The comparison that the commands print can fail."""
    found = read(folder)
    with torch.no_grad():
        found.network.get_parameter("middle.0.attention.qkv.bias").add_(0.1)
    with pytest.raises(BadCheckpointError, match="differ by"):
        compare(found.unet, found.network, found.config)


@pytest.mark.parametrize("drop_condition", [0.0, 0.2])
def test_classes_keep_their_rows_and_the_null_class(drop_condition, folder, tmp_path):
    theirs = pipeline(tmp_path / "classes", num_class_embeds=5)
    found = read(theirs)
    assert found.config.model.classes == 5 and found.config.diffusion.drop_condition == 0
    table = found.network.get_parameter("classes.weight")
    assert len(table) == 6 and not table[5].any() and table[:5].any(dim=1).all()
    x_t, t = torch.zeros(1, 3, 8, 8), torch.tensor([7])
    assert torch.equal(found.network(x_t, t), found.network(x_t, t, torch.tensor([5])))
    assert not torch.equal(found.network(x_t, t), found.network(x_t, t, torch.tensor([4])))

    nn.init.normal_(table[5])
    found.config.diffusion.drop_condition = drop_condition
    out = tmp_path / "out"
    out.mkdir()
    write(found.config, found.network, out, out)
    exported = diffusers.UNet2DModel.from_pretrained(out / "unet")
    assert exported.config.num_class_embeds == (6 if drop_condition else 5)
    assert_same(*answers(found.network, exported, 8, 3, exported.config.num_class_embeds))
    again = read(out)
    assert again.config.diffusion.drop_condition == drop_condition
    kept = again.network.get_parameter("classes.weight")
    assert torch.equal(kept if drop_condition else kept[:5], table if drop_condition else table[:5])


def test_old_layouts_and_names_are_read(tiny, folder, tmp_path):
    """Everything at the root, and attention as it was called before 2023."""
    path = folder / "unet" / WEIGHTS
    tensors = load_file(path)
    old = {new: name for name, new in OLD_NAMES.items()}
    for name in list(tensors):
        for new, before in old.items():
            if f".{new}." in name:
                tensors[name.replace(new, before)] = tensors.pop(name)
    assert not any("to_" in name for name in tensors)
    save_file(tensors, path, {"format": "pt"})
    for path in [*(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()]:
        shutil.move(path, folder / path.name)
    shutil.rmtree(folder / "unet")
    found, expected = read(folder), read(tiny)
    assert found.config == expected.config and found.has_scheduler
    for ours, same in zip(found.network.parameters(), expected.network.parameters(), strict=True):
        assert torch.equal(ours, same)
    assert compare(found.unet, found.network, found.config)


def test_the_average_of_weights_is_taken_where_a_training_left_one(folder, cli, tmp_path):
    from diffusers.training_utils import EMAModel

    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    raw = unet.get_parameter("conv_in.bias").detach().clone()
    with torch.no_grad():
        unet.get_parameter("conv_in.bias").add_(1)
    ema = EMAModel(unet.parameters(), model_cls=diffusers.UNet2DModel, model_config=unet.config)
    ema.save_pretrained(folder / "unet_ema")
    expected = load_file(folder / "unet_ema" / WEIGHTS)
    assert torch.equal(expected["conv_in.bias"], raw + 1)
    found = read(folder)
    assert torch.equal(found.network.get_parameter("stem.bias"), expected["conv_in.bias"])
    result = cli("import", "diffusers", folder, "--out", tmp_path / "ours")
    assert result.code == 0 and "the average of the weights" in result.err


def test_half_precision_is_read_exactly(folder):
    path = folder / "unet" / WEIGHTS
    half = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(half, path, {"format": "pt"})
    weight = read(folder).network.get_parameter("stem.weight")
    assert weight.dtype == torch.float32 and torch.equal(weight, half["conv_in.weight"].float())


def test_the_defaults_are_those_of_diffusers():
    for table, theirs in ((UNET, diffusers.UNet2DModel), (SCHEDULER, diffusers.DDPMScheduler)):
        parameters = inspect.signature(theirs.__init__).parameters
        defaults = {k: p.default for k, p in parameters.items() if k not in ("self", "kwargs")}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
        assert {name: key.default for name, key in table.items()} == plain


def test_every_setting_of_the_network_has_its_word():
    """A new setting must be given a row in the table or be refused in unet_config."""
    by_hand = {"multipliers", "attention", "patch_size", "positions", "text", "time_channels"}
    by_hand |= {"middle_norm"}
    rows = {key.ours.partition(".")[2] for key in UNET.values() if key.ours.startswith("model.")}
    assert {field.name for field in fields(ModelConfig)} == rows | by_hand


REFUSED_UNET: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "UNet2DConditionModel"}, '_class_name = "UNet2DConditionModel"'),
    ({"act_fn": "gelu"}, 'act_fn = "gelu"'),
    ({"add_attention": False}, "add_attention = false"),
    ({"attention_head_dim": 3}, "attention_head_dim 3 does not divide a width of 32"),
    ({"attention_head_dim": 0}, "attention_head_dim = 0"),
    ({"attn_norm_num_groups": 8}, "attn_norm_num_groups = 8"),
    ({"block_out_channels": [16, "32"]}, 'block_out_channels = [16, "32"]'),
    ({"block_out_channels": [10, 15]}, "block_out_channels"),
    ({"center_input_sample": True}, "center_input_sample = true"),
    ({"class_embed_type": "timestep"}, 'class_embed_type = "timestep"'),
    ({"down_block_types": ["DownBlock2D"]}, 'down_block_types = ["DownBlock2D"]'),
    ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, '"SkipDownBlock2D"'),
    ({"downsample_padding": 2}, "downsample_padding = 2"),
    ({"downsample_type": "resnet"}, 'downsample_type = "resnet"'),
    ({"freq_shift": 0.5}, "freq_shift = 0.5"),
    ({"in_channels": 4, "out_channels": 4}, "in_channels must be in 1..3, got 4"),
    ({"mid_block_scale_factor": 1.4}, "mid_block_scale_factor = 1.4"),
    ({"mid_block_type": None}, "mid_block_type = null"),
    ({"layers_per_block": "two"}, "layers_per_block takes a whole number, got 'two'"),
    ({"norm_num_groups": None}, "norm_num_groups takes a whole number, got None"),
    ({"num_class_embeds": -1}, "num_class_embeds = -1"),
    ({"out_channels": 4}, "out_channels = 4"),
    ({"resnet_time_scale_shift": "spatial"}, 'resnet_time_scale_shift = "spatial"'),
    ({"sample_size": None}, "sample_size = null"),
    ({"sample_size": [8, 16]}, "sample_size = [8, 16]"),
    ({"sample_size": 9}, "sample_size 9 is not a multiple of 2"),
    ({"time_embedding_dim": 100}, "time_embedding_dim = 100"),
    ({"time_embedding_type": "fourier"}, 'time_embedding_type = "fourier"'),
    ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, 'up_block_types = ["UpBlock2D", "UpBlock2D"]'),
    ({"upsample_type": "resnet"}, 'upsample_type = "resnet"'),
    ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow = 1"),
    ({"layers_per_block": 2}, "has no tensor down_blocks.0.resnets.1"),
    ({"num_class_embeds": 3}, "has no tensor class_embedding.weight"),
    ({"resnet_time_scale_shift": "scale_shift"}, "time_emb_proj.weight is [16, 64], config.json"),
]
REFUSED_SCHEDULER: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "PNDMScheduler"}, '_class_name = "PNDMScheduler"'),
    ({"beta_schedule": "scaled_linear"}, 'beta_schedule = "scaled_linear"'),
    ({"beta_end": 0.012}, "beta_end = 0.012"),
    ({"num_train_timesteps": 500}, "beta_start = 0.0001"),
    ({"num_train_timesteps": 0}, "num_train_timesteps = 0"),
    ({"clip_sample": False}, "clip_sample = false"),
    ({"clip_sample_range": 2.0}, "clip_sample_range = 2.0"),
    ({"prediction_type": "flow"}, 'prediction_type = "flow"'),
    ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = true"),
    ({"steps_offset": 1}, "steps_offset = 1"),
    ({"thresholding": True}, "thresholding = true"),
    ({"timestep_spacing": "linspace"}, 'timestep_spacing = "linspace"'),
    ({"trained_betas": [0.1]}, "trained_betas = [0.1]"),
    ({"variance_type": "learned_range"}, 'variance_type = "learned_range"'),
    ({"variance_type": ["fixed_small"]}, 'variance_type = ["fixed_small"]'),
]
REFUSED = [("unet/config.json", *row) for row in REFUSED_UNET] + [
    ("scheduler/scheduler_config.json", *row) for row in REFUSED_SCHEDULER
]
REFUSED.append(("model_index.json", {"_class_name": "LDMPipeline"}, '_class_name = "LDMPipeline"'))


@pytest.mark.parametrize("name, values, words", REFUSED, ids=lambda value: str(value)[:40])
def test_what_gentool_has_not_is_refused_by_key_and_value(name, values, words, folder):
    change(folder / name, **values)
    with pytest.raises(BadCheckpointError, match=re.escape(words)):
        read(folder)


@pytest.mark.parametrize(
    "setting, value, words",
    [
        ("model.patch_size", 2, "model.patch_size = 2"),
        ("model.time_channels", 8, "model.time_channels = 8"),
        ("model.middle_norm", False, "model.middle_norm = false"),
        ("diffusion.schedule", "sqrt", 'diffusion.schedule = "sqrt"'),
    ],
)
def test_what_diffusers_has_not_is_refused_by_setting_and_value(
    setting, value, words, tiny, tmp_path
):
    found = read(tiny)
    section, _, name = setting.partition(".")
    setattr(getattr(found.config, section), name, value)
    with pytest.raises(BadCheckpointError, match=words):
        write(found.config, found.network, tmp_path, tmp_path)


def damage(folder: Path, how: str) -> None:
    path = folder / "unet" / WEIGHTS
    tensors = load_file(path)
    if how == "pickled":
        path.rename(path.with_name("diffusion_pytorch_model.bin"))
    elif how == "variant":
        path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    elif how == "cut":
        os.truncate(path, 1000)
    elif how == "link":
        shutil.move(path, folder.parent / "outside.safetensors")
        path.symlink_to(folder.parent / "outside.safetensors")
    elif how == "linked folder":
        shutil.move(folder / "scheduler", folder.parent / "outside")
        (folder / "scheduler").symlink_to(folder.parent / "outside")
    elif how == "not json":
        (folder / "unet/config.json").write_text("{")
    elif how == "extra":
        save_file(tensors | {"extra.weight": torch.zeros(1)}, path)
    elif how == "nan":
        save_file(tensors | {"conv_in.bias": torch.full((16,), torch.nan)}, path)


@pytest.mark.parametrize(
    "how, words",
    [
        ("pickled", ["diffusion_pytorch_model.bin is a pickle", "python -c", "save_pretrained"]),
        ("variant", [f"no {WEIGHTS}", "fp16"]),
        ("cut", ["not a whole safetensors file"]),
        ("link", ["link out of", "cp -rL"]),
        ("linked folder", ["scheduler", "link out of"]),
        ("not json", ["config.json cannot be read"]),
        ("extra", ["extra.weight"]),
        ("nan", ["conv_in.bias", "finite"]),
    ],
)
def test_damaged_folders_are_refused(how, words, folder, cli, tmp_path):
    damage(folder, how)
    result = cli("import", "diffusers", folder, "--out", tmp_path / "out")
    assert result.code == 4 and result.out == "" and not (tmp_path / "out").exists()
    assert all(word in result.err for word in words), result.err
    assert len(result.err.splitlines()) <= 2
