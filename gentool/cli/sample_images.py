"""`gentool sample` for the backends that draw."""

from pathlib import Path
from typing import Annotated, Any

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.options import count, value
from gentool.cli.pictures import Out, check_streams, write
from gentool.cli.tracing import Trace, tracing
from gentool.errors import UsageError


def sample_images(
    backend: str,
    settings: dict[str, Any],
    checkpoint: options.Checkpoint = None,
    num: Annotated[
        int | None,
        count("How many samples; of each prompt or class. (default: 16)"),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        value("TEXT", "Draw what this says; repeatable, a row of the grid each.", "--prompt"),
    ] = None,
    classes: Annotated[
        list[str] | None,
        value("NAME", "Draw this class; repeatable, a row of the grid each.", "--class"),
    ] = None,
    seed: options.Seed = 0,
    index: Annotated[
        int | None,
        value("I", "Draw only sample I of the seed.", min=0),
    ] = None,
    init_noise: Annotated[
        Path | None, value("x_T.npy", "Start from this noise, [N, C, H, W].")
    ] = None,
    out: Out = None,
    trace: Trace = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    as_json: options.Json = False,
) -> None:
    """Draw samples.

    \b
    gentool sample {backend} -n 16
    gentool sample {backend} -n 8 --prompt 'a small red circle in the top left'
    gentool sample {backend} -n 64 --steps 50 --seed 3 --out grid.png
    gentool sample {backend} --index 17 --out - | display
    gentool sample {backend} -c runs/mine -n 8 --class cat --class dog
    gentool sample {backend} -n 4 --steps 50 --trace how.html

    Sample I of a seed is the same in any batch, number or order.
    """
    check_streams(out, as_json)
    if num and index is not None and index >= num:
        raise UsageError(f"--index {index} is not one of the samples 0 to {num - 1} of --num {num}")
    if prompts and classes:
        raise UsageError("--prompt and --class each say what to draw: give one of them")
    import torch

    from gentool.inputs import caption_rows, class_index, read_noise, unread
    from gentool.outputs import check_target
    from gentool.render.traces import check_trace_target
    from gentool.sampling import class_names, draw_samples, introduced, opened

    check_target(out)
    if trace:
        check_trace_target(trace, out=out)
    loaded, chosen = opened(checkpoint, backend, settings)
    shape = loaded.backend.shape
    labels = class_names(loaded)
    captions = loaded.backend.captions
    names = prompts or classes or []
    given = {"y": torch.tensor([class_index(name, labels) for name in classes])} if classes else {}
    if prompts:
        given["text"] = caption_rows(captions, prompts)
        for note in filter(None, (unread(captions, prompt) for prompt in prompts)):
            console.warn(note)
    noise = read_noise(init_noise, shape) if init_noise else None
    each = num or (16 if noise is None else max(1, len(noise) // max(1, len(names))))
    indices = range(each * max(1, len(names))) if index is None else range(index, index + 1)
    if noise is not None and indices[-1] >= len(noise):
        raise UsageError(
            f"{init_noise} holds {len(noise)} samples, {indices[-1] + 1} are asked for"
        )
    if index is not None and len(names) > 1:
        raise UsageError("--index draws one sample, of one --prompt or --class")

    def row(number: int) -> int:
        """Of the grid: whose turn it is."""
        return number // each if index is None else 0

    if given:
        rows = [row(number) for number in indices]
        given = {key: tensor[rows] for key, tensor in given.items()}
    if noise is not None:
        given["x_T"] = noise[indices.start : indices.stop]
    console.info(f"{introduced(loaded, chosen)}, seed {seed}")

    def label(number: int) -> str:
        return names[row(number)] if names else ""

    def facts(number: int) -> dict[str, Any]:
        what = "prompt" if prompts else "class"
        return {"seed": seed, **({what: label(number)} if names else {})}

    columns = each if len(names) > 1 else None
    with tracing(trace, "sample", loaded, chosen, seed, label) as recorder:
        batches = draw_samples(
            loaded,
            indices,
            seed,
            chosen,
            given=given,
            batch_size=batch_size,
            device=device,
            precision=precision,
            progress=console.denoising,
            recorder=recorder,
        )
        write(
            batches,
            (len(indices), *shape),
            out,
            f"{backend}-seed{seed}",
            facts if as_json else None,
            columns,
        )
