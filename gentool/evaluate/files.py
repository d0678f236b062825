"""Reading the files that are to be scored."""

from pathlib import Path

import numpy as np

from gentool.data.decode import EXTENSIONS, decode
from gentool.errors import BadDataError, NotFoundError, UsageError
from gentool.inputs import read_array

SIDE = 32  # pixels: the built-in world's canvas


def read_any_images(where: str) -> np.ndarray:
    """uint8 [N, H, W, 1 or 3] from a folder of pictures of one size, at any depth, or from a .npy
    array as `gentool sample --out x.npy` writes it. Raises NotFoundError, UsageError or
    BadDataError."""
    path = Path(where)
    if not path.is_dir():
        return _array(where, None)
    names = _names(path, "**/*")
    first = _picture(path, names[0])
    found = np.empty((len(names), *first.shape), np.uint8)
    found[0] = first
    for i, name in enumerate(names[1:], start=1):
        picture = _picture(path, name)
        if picture.shape != first.shape:
            raise BadDataError(
                f"{path}: {name} is {_size(picture)}, {names[0]} is {_size(first)}",
                "pictures of one set have one size",
            )
        found[i] = picture
    return found


def read_images(where: str) -> np.ndarray:
    """uint8 [N, 32, 32, 3] from a folder of pictures, in order of name, or from a .npy array as
    `gentool sample --out x.npy` writes it. Raises NotFoundError, UsageError or BadDataError."""
    path = Path(where)
    if not path.is_dir():
        return _array(where, (3, SIDE, SIDE))
    names = _names(path, "*")
    found = np.empty((len(names), SIDE, SIDE, 3), np.uint8)
    for i, name in enumerate(names):
        picture = _picture(path, name)
        if picture.shape != found.shape[1:]:
            raise BadDataError(f"{name} is {_size(picture)}; scenes are {SIDE} × {SIDE} RGB")
        found[i] = picture
    return found


def _names(folder: Path, pattern: str) -> list[str]:
    """The pictures that fit, in order of name, hidden ones left out."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
    names = [name for name in names if name.lower().endswith(EXTENSIONS)]
    names = [name for name in names if not any(p.startswith(".") for p in name.split("/"))]
    if not names:
        raise BadDataError(f"no images in {folder}", f"images end in {', '.join(EXTENSIONS)}")
    return names


def _picture(folder: Path, name: str) -> np.ndarray:
    return decode((folder / name).read_bytes(), name)


def _array(where: str, shape: tuple[int, int, int] | None) -> np.ndarray:
    """uint8 [N, H, W, C] of a .npy file; shape: C, H, W that it must have."""
    path = Path(where)
    if not path.exists():
        raise NotFoundError(f"no folder or array {where}")
    if path.name.lower().endswith(EXTENSIONS):
        raise UsageError(f"{where} is one picture", "a folder of pictures, or x.npy")
    array = read_array(path)
    fits = array.ndim == 4 and (array.shape[1:] == shape if shape else array.shape[1] in (1, 3))
    if array.dtype != np.float32 or not fits:
        wanted = f"3, {SIDE}, {SIDE}" if shape else "1 or 3, H, W"
        raise BadDataError(
            f"{path} holds {array.dtype} {list(array.shape)}, not float32 [N, {wanted}]"
        )
    if not len(array) or not np.isfinite(array).all():
        raise BadDataError(
            f"{path} holds {'values that are not finite' if len(array) else 'nothing'}"
        )
    pixels = np.rint((array + 1) * 127.5).clip(0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def _size(picture: np.ndarray) -> str:
    height, width, channels = picture.shape
    return f"{width} × {height} with {channels} channels"
