"""Where drawn images go: a grid, a folder, an array or standard output.

Files appear whole: each is written beside its place and renamed.
"""

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
from torch import Tensor

from gentool.checkpoint.atomic import replacing, write_file
from gentool.errors import UsageError
from gentool.render import grid, to_uint8

Batches = Iterable[tuple[Sequence[int], Tensor]]  # sample numbers, float32 [B, C, H, W] in [-1, 1]
Tell = Callable[[int, Path | None, int | None], None]  # sample number, its file, its place in it


def check_target(out: str) -> None:
    """Raise UsageError if images cannot be written to `out`."""
    if out == "-" or out.endswith(("/", ".png", ".npy")) or (out and Path(out).is_dir()):
        return
    raise UsageError(f"--out {out}: not a .png, a .npy, a folder (with / at its end) or -")


def free_name(stem: str) -> str:
    """`stem.png` in the current folder, or `stem-2.png` and so on if that is taken."""
    number, name = 1, f"{stem}.png"
    while Path(name).exists():
        number += 1
        name = f"{stem}-{number}.png"
    return name


def write_images(
    batches: Batches,
    n: int,
    shape: tuple[int, int, int],
    out: str,
    tell: Tell,
    columns: int | None = None,
) -> None:
    """Write n images of `shape` (C, H, W) to `out`; `tell` hears of each as it is written.

    columns: of a grid; near square where not given.
    """
    if out.endswith("/") or Path(out).is_dir():
        _write_folder(batches, Path(out), tell)
    elif out.endswith(".npy"):
        _write_array(batches, n, shape, Path(out), tell)
    else:
        _write_grid(batches, out, tell, columns)


def _write_folder(batches: Batches, folder: Path, tell: Tell) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for numbers, images in batches:
        for number, pixels in zip(numbers, to_uint8(images), strict=True):
            path = folder / f"{number:06d}.png"
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            write_file(path, buffer.getvalue())
            tell(number, path, None)


def _write_array(
    batches: Batches, n: int, shape: tuple[int, int, int], path: Path, tell: Tell
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn: list[int] = []
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, *shape)}
    # Not a memory map: on a full disk that kills the process.
    with replacing(path) as beside, beside.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for numbers, images in batches:
            file.write(images.numpy().astype("<f4").tobytes())
            drawn.extend(numbers)
    for place, number in enumerate(drawn):
        tell(number, path, place)


def _write_grid(batches: Batches, out: str, tell: Tell, columns: int | None) -> None:
    drawn = [(numbers, to_uint8(images)) for numbers, images in batches]
    buffer = io.BytesIO()
    grid(np.concatenate([images for _, images in drawn]), columns).save(buffer, "PNG")
    if out == "-":
        sys.stdout.buffer.write(buffer.getvalue())
        sys.stdout.buffer.flush()
        return
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, buffer.getvalue())
    for place, number in enumerate(number for numbers, _ in drawn for number in numbers):
        tell(number, path, place)


@contextmanager
def text_file(out: str) -> Iterator[TextIO]:
    """Where lines of text go: a file, which appears whole, or standard output for `-`."""
    if out == "-":
        yield sys.stdout
        return
    path = Path(out)
    if out.endswith("/") or path.is_dir():
        raise UsageError(f"--out {out} is a folder, the lines go to one file")
    if path.exists() and not path.is_file():  # a pipe or a device
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        yield file
