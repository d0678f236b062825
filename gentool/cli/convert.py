"""`gentool import FORMAT` and `gentool export FORMAT`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.checkpoint.atomic import check_new_folder, create_folder
from gentool.cli import options
from gentool.cli.commands import add_command
from gentool.cli.console import console
from gentool.cli.help import group
from gentool.cli.options import value
from gentool.registry import converter

importing = group("Make a checkpoint of another library's model.")
exporting = group("Write a checkpoint as another library's model.")

Out = Annotated[Path, value("DIR", "The new folder.", "--out", "-o")]


def import_diffusers(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A UNet2DModel or DDPMPipeline folder.")
    ],
    out: Out,
    as_json: options.Json = False,
) -> None:
    """Make a ddpm checkpoint of a U-Net of the diffusers library.

    \b
    gentool import diffusers ddpm-cifar10-32/ --out cifar10
    gentool sample ddpm --checkpoint cifar10 --steps 50 --sampler ddim

    Pickled weights (.bin) are refused. Where diffusers is installed, its network
    is compared with gentool's on a random batch.
    """
    check_new_folder(out)
    from gentool.checkpoint.card import write_imported_card
    from gentool.checkpoint.config import RunConfig
    from gentool.checkpoint.weights import tensors_hash, write_weights
    from gentool.settings import to_tree

    diffusers = converter("diffusers")
    found = diffusers.read(folder)
    if found.unet.name == "unet_ema":
        console.info(f"{found.unet}: the average of the weights, not those of unet/")
    if not found.has_scheduler:
        diffusion = found.config.diffusion
        console.info(
            f"{folder} has no scheduler: taken to be the paper's, T {diffusion.T}, "
            f"{diffusion.schedule} schedule, prediction {diffusion.prediction}"
        )
    compared = diffusers.compare(found.unet, found.network, found.config)

    tensors = found.network.state_dict()
    tree = to_tree(found.config)
    del tree["train"]  # of which nothing is known
    tree["data"]["spec"] = ["unknown"]
    name = folder.resolve().name
    came = f"the diffusers folder `{name}`"
    data = {
        "fingerprint": f"imported-{tensors_hash(tensors)[:16]}",
        "size": None,
        "labels": [str(label) for label in range(found.config.model.classes)],
    }
    run_config = RunConfig("ddpm", name, tree, data, {"step": 0}, init=came)

    def fill(run: Path) -> None:
        write_weights(run, tensors, 0, tree)
        run_config.write(run)
        write_imported_card(run, run_config, f"converted from {came}.")

    create_folder(out, fill)
    _report(out, compared, as_json)


def export_diffusers(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="A run's folder, or the name of a shipped checkpoint.",
            autocompletion=options.checkpoints,
        ),
    ],
    out: Out,
    as_json: options.Json = False,
) -> None:
    """Write a ddpm checkpoint as a DDPMPipeline of the diffusers library.

    \b
    gentool export diffusers runs/mine --out mine-diffusers

    \b
    DDPMPipeline.from_pretrained("mine-diffusers")
    UNet2DModel.from_pretrained("mine-diffusers/unet")

    Where diffusers is installed, its network is compared with gentool's on a
    random batch.
    """
    check_new_folder(out)
    from gentool.checkpoint.load import find_checkpoint, load_checkpoint

    diffusers = converter("diffusers")
    loaded = load_checkpoint(find_checkpoint(checkpoint, "ddpm"), "ddpm")
    compared: list[Any] = []

    def fill(folder: Path) -> None:
        diffusers.write(loaded.config, loaded.network, folder, loaded.folder)
        compared.append(diffusers.compare(folder / "unet", loaded.network, loaded.config))

    create_folder(out, fill)
    if left := diffusers.not_written(loaded.config):
        console.info(f"diffusers is told when it samples, not by the folder: {', '.join(left)}")
    _report(out, compared[0], as_json)


def _report(out: Path, compared: tuple[float, float] | None, as_json: bool) -> None:
    """compared: the largest difference and the largest output, where diffusers is installed."""
    if compared is None:
        console.info("not compared with diffusers' network: pip install diffusers")
    else:
        difference, largest = compared
        console.info(f"largest difference on a random batch: {difference:.3g} of {largest:.3g}")
    if as_json:
        keys = ("path", "difference", "largest_output")
        console.record(dict(zip(keys, (str(out), *(compared or (None, None))), strict=True)))
    else:
        console.result(str(out))


add_command(importing, "diffusers", import_diffusers)
add_command(exporting, "diffusers", export_diffusers)
