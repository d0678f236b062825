"""A trace as JSON lines: all that the other renderers need, so that it can be drawn anew.

The first line is what is known of the command; then a line for each sample and step.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from gentool.errors import BadDataError
from gentool.pixels import to_picture
from gentool.trace import Frame, Tokens, Trace, View

FORMAT = 1  # of the lines
FACTS = ("verb", "backend", "checkpoint", "checkpoint_step", "seed", "command", "settings", "steps")


def to_lines(trace: Trace) -> str:
    """The lines of `trace`."""
    head = {"trace": FORMAT, **trace.facts}
    return "".join(
        json.dumps(record, ensure_ascii=False) + "\n"
        for record in (head, *(frame_record(frame) for frame in trace.frames))
    )


def frame_record(frame: Frame) -> dict[str, Any]:
    """A frame in plain values; pictures are PNG files in base64."""
    return {
        "sample": frame.sample,
        "step": frame.step,
        "prompt": frame.prompt,
        "images": {name: _encoded(image) for name, image in frame.view.images.items()},
        "tokens": {
            name: {
                "words": list(tokens.words),
                "confidence": tokens.confidence.astype(float).round(4).tolist(),
                "masked": tokens.masked.tolist(),
            }
            for name, tokens in frame.view.tokens.items()
        },
    }


def read(path: Path) -> Trace:
    """The trace that `to_lines` wrote. Raises BadDataError."""
    frames = []
    facts: dict[str, Any] = {}
    try:
        for number, line in enumerate(
            path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1
        ):
            record = json.loads(line)
            if number > 1:
                frames.append(_frame(record))
            elif record.pop("trace") == FORMAT:
                facts = {name: record[name] for name in FACTS} | record
            else:
                raise BadDataError(f"{path} was written by another version of gentool")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadDataError(
            f"{path} is not a trace",
            "--trace FILE.jsonl writes one; curves are those of a run's folder",
        ) from None
    if not frames:
        raise BadDataError(f"{path} holds no frames")
    return Trace(facts, frames)


def _frame(record: dict[str, Any]) -> Frame:
    tokens = {
        name: Tokens(
            np.array(value["confidence"], float), np.array(value["masked"], bool),
            tuple(value["words"]),
        )
        for name, value in record["tokens"].items()
    }  # fmt: skip
    images = {name: _decoded(value) for name, value in record["images"].items()}
    return Frame(record["sample"], record["step"], record["prompt"], View(images, tokens))


def _encoded(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    to_picture(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _decoded(text: str) -> np.ndarray:
    from gentool.data.decode import decode

    return decode(base64.b64decode(text), "a picture of the trace")
