"""`gentool sample` for the backends that write text."""

import json
from typing import Annotated, Any

from gentool.cli import options
from gentool.cli.answers import lines_to
from gentool.cli.console import console
from gentool.cli.options import count, value
from gentool.cli.tracing import Trace, tracing
from gentool.errors import UsageError

STEERING = {"guidance_scale", "control_steps", "control_rate", "fluency"}
Control = Annotated[
    list[str] | None,
    value("ATTRIBUTE=VALUE", "Write what has this, e.g. shape=circle; repeatable."),
]
Classifier = Annotated[
    str | None,
    value("DIR|NAME", "What controls. (default: diffusion-lm-control-scenes)"),
]
Out = Annotated[
    str, value("FILE|-", "Where the lines go. (default: standard output)", "--out", "-o")
]


def sample_text(
    backend: str,
    settings: dict[str, Any],
    checkpoint: options.Checkpoint = None,
    num: Annotated[int | None, count("How many samples. (default: 16)")] = None,
    seed: options.Seed = 0,
    index: Annotated[int | None, value("I", "Draw only sample I of the seed.", min=0)] = None,
    control: Control = None,
    classifier: Classifier = None,
    out: Out = "-",
    trace: Trace = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    as_json: options.Json = False,
) -> None:
    """Write samples, one a line.

    \b
    gentool sample {backend} -n 16
    gentool sample {backend} --steps 20 --length 8 --seed 3 > lines.txt
    gentool sample {backend} -n 4 --mbr 10 --json
    gentool sample {backend} --control shape=circle --control color=red

    Sample I of a seed is the same in any batch, number or order.
    """
    if num and index is not None and index >= num:
        raise UsageError(f"--index {index} is not one of the samples 0 to {num - 1} of --num {num}")
    check_steering(settings, control, classifier)
    from gentool.control import open_controls, success
    from gentool.render.traces import check_trace_target
    from gentool.sampling import draw_texts, introduced, opened
    from gentool.streams import one_line

    if trace:
        check_trace_target(trace, out=out)
    loaded, chosen = opened(checkpoint, backend, settings)
    if trace and chosen.mbr > 1:
        raise UsageError("--trace shows one candidate of each sample", "--mbr 1")
    controls = open_controls(loaded, control, classifier, device) if control else None
    indices = range(num or 16) if index is None else range(index, index + 1)
    console.info(f"{introduced(loaded, chosen)}, seed {seed}")
    ties, tokens, texts = 0, 0, []
    tracer = tracing(trace, "sample", loaded, chosen, seed)
    with lines_to(out) as file, tracer as recorder:
        drawn = draw_texts(
            loaded,
            indices,
            seed,
            chosen,
            shared=controls.shared if controls else {},
            batch_size=batch_size,
            device=device,
            precision=precision,
            progress=console.denoising,
            recorder=recorder,
        )
        for number, line in drawn:
            record = {"index": number, "seed": seed, "text": line.text, "tokens": line.tokens}
            record |= {"ties": line.ties}
            if controls:
                record["control"] = controls.held(line.text)
            console.make_way()
            file.write(
                (json.dumps(record, ensure_ascii=False) if as_json else one_line(line.text)) + "\n"
            )
            file.flush()
            ties, tokens = ties + line.ties, tokens + line.tokens
            if controls:
                texts.append(line.text)
    console.info(f"{ties} of {tokens} tokens nearly tie with a second one")
    if controls:
        rates = success(controls, texts)
        told = ", ".join(f"{name} {round(len(texts) * rate)}" for name, rate in rates.items())
        console.info(f"of {len(texts)} samples have what was asked for: {told}")


def check_steering(
    settings: dict[str, Any], control: list[str] | None, classifier: str | None
) -> None:
    """Raise UsageError for what steers where nothing is asked for."""
    idle = sorted(STEERING & settings.keys()) + (["classifier"] if classifier else [])
    if idle and not control:
        option = idle[0].replace("_", "-")
        raise UsageError(f"--{option} without a control", "--control ATTRIBUTE=VALUE")
