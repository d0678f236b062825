"""`gentool eval vq`."""

from typing import Annotated

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.figures import (
    Gate,
    HeldOut,
    Metric,
    OnError,
    Pictures,
    check_pictures,
    check_syntax,
    checked_data,
    report,
)
from gentool.cli.options import count


def evaluate_tokenizer(
    checkpoint: options.Checkpoint = None,
    metric: Metric = None,
    data: HeldOut = None,
    num: Annotated[int, count("Pictures.", show_default=True)] = 512,
    pictures: Pictures = None,
    device: options.Device = "auto",
    on_error: OnError = None,
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """What pictures lose on the way to the tokens of vq and back, and how its codes are used.

    \b
    gentool eval vq -c runs/vq-scenes
    gentool eval vq -c runs/vq-cifar10 --num 2048 --pictures both.png --gate 'psnr>=22'
    """
    check_syntax(gate)
    check_pictures(pictures, metric)
    from gentool.checkpoint.load import find_checkpoint, load_checkpoint
    from gentool.evaluate.metrics import measure
    from gentool.evaluate.request import Request

    loaded = load_checkpoint(find_checkpoint(checkpoint, "vq"), "vq")
    checked_data(loaded.config.data, on_error)
    console.info(f"checkpoint {loaded.folder}, step {loaded.step}")
    request = Request(
        loaded, None, data, num, seed=0, device=device, batch_size=num, precision="fp32",
        pictures=pictures,
    )  # fmt: skip
    report(measure(request, metric or []), gate or [], as_json)
