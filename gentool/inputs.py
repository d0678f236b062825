"""What users give to image models: captions, classes, noise, pictures with holes."""

import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from gentool.data.decode import MAX_BYTES, decode
from gentool.errors import BadDataError, UsageError, missing_file, nearest
from gentool.nn.text import Captions
from gentool.pixels import to_float
from gentool.streams import is_pipe, place, stream_any_lines, waits

Shape = tuple[int, int, int]  # C, H, W
SHOWN = 80  # letters of a caption that a message repeats


def input_lines(where: str) -> list[str | BadDataError]:
    """What to draw, a line each. Raises BadDataError if there are none, else as `stream_lines`."""
    if lines := list(stream_any_lines(where)):
        return lines
    raise BadDataError(f"{place(where)} has no lines, so there is nothing to draw")


def edit_lines(
    num: int | None, pictures: Sequence[Path | None], tell: Callable[[str], None]
) -> list[str | BadDataError]:
    """Of edits for which no INPUT is named: the lines that wait on standard input, which is told,
    unless `num` says how many to draw or that is one of the pictures; else as many empty ones."""
    lines: list[str | BadDataError] = []
    if not num and Path("-") not in pictures:
        if waits():
            lines = list(stream_any_lines("-"))
        elif is_pipe():
            tell("nothing waits on standard input, so there is no caption; INPUT - waits for one")
    if lines:
        tell(f"an edit for each line of standard input, {len(lines)} in all")
    return lines or [""] * (num or 1)


def class_index(name: str, labels: Sequence[str]) -> int:
    """The number of the class called `name`. Raises UsageError."""
    if not labels:
        raise UsageError(
            f"class {name!r}: this model knows no classes", "--checkpoint names another"
        )
    if name not in labels:
        raise UsageError(f"no class {name!r}", nearest(name, labels))
    return list(labels).index(name)


def line_class(line: str, backend: Any, labels: Sequence[str]) -> int:
    """The number of the class that a line of input asks for; that of no class where it is a caption
    or empty. Raises UsageError for what `backend` cannot draw."""
    if not line:
        backend.no_condition()
    elif not (backend.captions or labels):
        raise UsageError(
            f"{line!r}: this model reads no captions and knows no classes",
            "--checkpoint names one that does; an empty line draws any picture",
        )
    return class_index(line, labels) if line and not backend.captions else backend.null_class


def caption_rows(captions: Captions | None, texts: Sequence[str]) -> Tensor:
    """`texts` as a model reads them, [n, L]. Raises UsageError for one that reads no captions."""
    if captions is None:
        raise UsageError("this model reads no captions", "--checkpoint names another")
    return captions.rows(texts)


def unread(captions: Captions, text: str) -> str:
    """What a model will not see of a caption, in words; empty if it sees all of it."""
    ids = captions.tokenizer.encode(text)
    shown = repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
    if captions.tokenizer.special("unk") in ids:
        return f"{shown} has words that this model does not know"
    room = int((captions.rows([text]) != captions.tokenizer.special("pad")).sum())
    around = int((captions.null != captions.tokenizer.special("pad")).sum())
    return f"{shown} is too long and cut" if len(ids) > room - around else ""


def read_array(path: Path) -> np.ndarray:
    """What an .npy file holds, without pickle. Raises NotFoundError or BadDataError."""
    try:
        with _open(path) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BadDataError(f"{path} is not a .npy array: {error}") from None


def read_noise(path: Path, shape: Shape) -> Tensor:
    """x_T of an .npy file: float32 [N, C, H, W]. Raises NotFoundError or BadDataError."""
    noise = read_array(path)
    if noise.dtype.kind != "f":
        raise BadDataError(f"{path} does not hold floating-point numbers")
    if noise.shape[1:] != shape or not len(noise):
        raise BadDataError(f"{path} is {list(noise.shape)}, this model starts from {['N', *shape]}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
        noise = noise.astype(np.float32)
    if not np.isfinite(noise).all():
        raise BadDataError(f"{path} holds numbers that are not finite")
    return torch.from_numpy(noise)


def read_image(path: Path, shape: Shape, ground: str = "white") -> Tensor:
    """A picture of the model's own size: float32 [C, H, W] in [-1, 1]. ground: below what is
    transparent.

    Raises NotFoundError, BadDataError, and UsageError for another size.
    """
    C, H, W = shape
    with _open(path) as file:
        pixels = decode(file.read(MAX_BYTES + 1), place(str(path)), ground)
    if pixels.shape[:2] != (H, W):
        height, width = pixels.shape[:2]
        raise UsageError(
            f"{path} is {width} × {height} pixels, this model draws {W} × {H}", "resize it first"
        )
    if pixels.shape[2] != C:
        if C == 1:
            raise UsageError(f"{path} is in colour, this model draws grey", "make it grey first")
        pixels = pixels.repeat(C, axis=2)
    return to_float(pixels)


def read_edit(image: Path, box: str | None, mask: Path | None, shape: Shape) -> dict[str, Tensor]:
    """A picture x_0 and its hole: a box, or where a mask is white, or all of it. Raises as the
    parts do."""
    everywhere = f"0,0,{shape[2]},{shape[1]}"
    hole = mask_hole(mask, shape) if mask else box_hole(box or everywhere, shape)
    return {"x_0": read_image(image, shape), "hole": hole}


def box_hole(text: str, shape: Shape) -> Tensor:
    """The hole `x,y,w,h` in pixels from the top left: bool [1, H, W]. Raises UsageError."""
    _, H, W = shape
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--box takes x,y,w,h in pixels, got {text!r}") from None
    if not (0 <= x and 0 <= y and 0 < w and 0 < h and x + w <= W and y + h <= H):
        raise UsageError(f"--box {text} does not lie within {W} × {H} pixels")
    hole = torch.zeros(1, H, W, dtype=torch.bool)
    hole[:, y : y + h, x : x + w] = True
    return hole


def mask_hole(path: Path, shape: Shape) -> Tensor:
    """The hole where a picture is white and not transparent: bool [1, H, W]. Raises as
    `read_image`, and UsageError for a picture without white."""
    hole = read_image(path, (3, *shape[1:]), "black").mean(dim=0, keepdim=True) >= 0
    if not hole.any():
        raise UsageError(f"--mask {path} has no white, so there is nothing to draw")
    return hole


def _open(path: Path) -> IO[bytes]:
    """The file or pipe, or standard input (`-`). Raises NotFoundError."""
    if str(path) == "-":
        return BytesIO(sys.stdin.buffer.read())
    if path.is_file():
        return path.open("rb")
    if not path.exists() or path.is_dir():
        raise missing_file(path)
    return BytesIO(path.read_bytes())  # a pipe, as of <(...): there is no going back in it
