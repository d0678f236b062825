"""`gentool sample BACKEND`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.commands import add_command, group
from gentool.cli.console import console
from gentool.cli.options import value
from gentool.errors import UsageError
from gentool.registry import BACKENDS, options_module

app = group("Draw samples from a trained model.")


def sample(
    backend: str,
    settings: dict[str, Any],
    checkpoint: options.Checkpoint = None,
    num: Annotated[
        int, typer.Option("--num", "-n", metavar="N", min=1, help="How many samples.")
    ] = 16,
    seed: options.Seed = 0,
    index: Annotated[
        int | None,
        value("I", "Draw only sample I of the seed.", min=0),
    ] = None,
    out: Annotated[
        str | None,
        value(
            "PATH|-",
            "x.png: a grid; dir/: a PNG each; x.npy: float32 [N, C, H, W] in [-1, 1]; "
            "-: the grid to standard output. (default: a new PNG here)",
            *("--out", "-o"),
        ),
    ] = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = None,
    as_json: options.Json = False,
) -> None:
    """Draw samples.

    \b
    gentool sample {backend} -n 16
    gentool sample {backend} -n 64 --steps 50 --seed 3 --out grid.png
    gentool sample {backend} --index 17 --out - | display

    Sample I of a seed is the same in any batch, number or order.
    """
    if out == "-" and as_json:
        raise UsageError("--out - and --json both want standard output", "--out FILE with --json")
    from gentool.checkpoint.load import find_checkpoint, load_checkpoint
    from gentool.outputs import check_target, free_name, write_images
    from gentool.sampling import draw_images, sample_settings, words

    if out:
        check_target(out)
    loaded = load_checkpoint(find_checkpoint(checkpoint, backend), backend)
    chosen = sample_settings(loaded, settings)
    console.info(f"checkpoint {loaded.folder} (step {loaded.step}), {words(chosen)}, seed {seed}")
    indices = range(num) if index is None else range(index, index + 1)
    batches = draw_images(
        loaded,
        indices,
        seed,
        chosen,
        batch_size=batch_size,
        device=device,
        precision=precision,
        progress=lambda done, total: console.progress(done, total, {"denoising": "steps"}),
    )
    target = out or free_name(f"{backend}-seed{seed}")
    written: dict[Path, None] = {}

    def tell(number: int, path: Path | None, place: int | None) -> None:
        if as_json:
            console.record({"index": number, "seed": seed, "path": str(path), "place": place})
        elif path and path not in written:
            written[path] = None
            console.result(str(path))

    write_images(batches, len(indices), loaded.backend.shape, target, tell)


for _backend in BACKENDS:
    add_command(
        app,
        _backend,
        sample,
        backend=_backend,
        section=options_module(_backend).SampleConfig,
        panel=f"{_backend} (default: the checkpoint's)",
    )
