"""Where drawn images go: a grid, a folder, an array or standard output.

Files appear whole: each is written beside its place and renamed.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from torch import Tensor

from gentool.checkpoint.atomic import check_place, replacing, write_file
from gentool.errors import UsageError
from gentool.pixels import to_picture, to_uint8
from gentool.render import grid

if TYPE_CHECKING:
    from PIL import Image

Batches = Iterable[tuple[Sequence[int], Tensor]]  # sample numbers, float32 [B, C, H, W] in [-1, 1]
Tell = Callable[[int, Path | None, int | None], None]  # sample number, its file, its place in it


def check_target(out: str | None) -> None:
    """Raise UsageError or OSError if images cannot be written to `out`, or to a new file here."""
    if out == "-":
        return
    folder = out is None or out.endswith("/") or Path(out).is_dir()
    if not folder and not str(out).endswith((".png", ".npy")):
        raise UsageError(f"--out {out}: not a .png, a .npy, a folder (with / at its end) or -")
    check_place(Path(out or ".") / "a picture" if folder else Path(str(out)))


def write_picture(picture: "Image.Image", out: Path | None, stem: str = "") -> Path:
    """Write a PNG to `out`; where there is none, to a new file `stem.png` in the current folder, or
    `stem-2.png` and so on. Which it was."""
    data = _png(picture)
    path = out or _new_file(stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_file(path, data)
    except BaseException:
        if not out:
            path.unlink()
        raise
    return path


def _new_file(stem: str) -> Path:
    """An empty file: it keeps the name, which another process may want now."""
    number, path = 1, Path(f"{stem}.png")
    while True:
        try:
            path.open("xb").close()
            return path
        except FileExistsError:
            number += 1
            path = Path(f"{stem}-{number}.png")


def _png(picture: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_images(
    batches: Batches,
    n: int,
    shape: tuple[int, int, int],
    out: str | None,
    stem: str,
    tell: Tell,
    columns: int | None = None,
) -> None:
    """Write n images of `shape` (C, H, W) to `out`, or a grid to a new file whose name begins with
    `stem`; `tell` hears of each image as it is written.

    columns: of a grid; near square where not given.
    """
    if out and (out.endswith("/") or Path(out).is_dir()):
        _write_folder(batches, Path(out), tell)
    elif out and out.endswith(".npy"):
        _write_array(batches, n, shape, Path(out), tell)
    else:
        _write_grid(batches, out, stem, tell, columns)


def _write_folder(batches: Batches, folder: Path, tell: Tell) -> None:
    for numbers, images in batches:
        for number, pixels in zip(numbers, to_uint8(images), strict=True):
            path = folder / f"{number:06d}.png"
            write_picture(to_picture(pixels), path)
            tell(number, path, None)


def _write_array(
    batches: Batches, n: int, shape: tuple[int, int, int], path: Path, tell: Tell
) -> None:
    coming = iter(batches)
    first = next(coming)
    path.parent.mkdir(parents=True, exist_ok=True)  # now that there is something to write
    drawn: list[int] = []
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, *shape)}
    # Not a memory map: on a full disk that kills the process.
    with replacing(path) as beside, beside.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for numbers, images in chain([first], coming):
            file.write(images.numpy().astype("<f4").tobytes())
            drawn.extend(numbers)
    for place, number in enumerate(drawn):
        tell(number, path, place)


def _write_grid(
    batches: Batches, out: str | None, stem: str, tell: Tell, columns: int | None
) -> None:
    drawn = [(numbers, to_uint8(images)) for numbers, images in batches]
    picture = grid(np.concatenate([images for _, images in drawn]), columns)
    if out == "-":
        sys.stdout.buffer.write(_png(picture))
        sys.stdout.buffer.flush()
        return
    path = write_picture(picture, Path(out) if out else None, stem)
    for place, number in enumerate(number for numbers, _ in drawn for number in numbers):
        tell(number, path, place)


def part_of(path: Path) -> Path:
    """Where the lines of `text_file` are until they are all there; a link stays one."""
    place = path.resolve()
    return place.with_name(f"{place.name}.part")


@contextmanager
def text_file(out: str) -> Iterator[TextIO]:
    """Where lines of text go: a file, FILE.part until it is whole, so that lines which took
    hours are not lost; or standard output for `-`. A FILE.part that is there becomes
    FILE.part.old."""
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
    part = part_of(path)
    if part.exists() and part.stat().st_size:
        os.replace(part, part.with_name(f"{part.name}.old"))
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        os.replace(part, path.resolve())
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()
