"""Reading the files that are to be scored."""

from pathlib import Path

import numpy as np

from gentool.data.decode import EXTENSIONS, decode
from gentool.errors import BadDataError, NotFoundError
from gentool.inputs import read_array

SIDE = 32  # pixels: the built-in world's canvas


def read_images(where: str) -> np.ndarray:
    """uint8 [N, 32, 32, 3] from a folder of pictures, in order of name, or from a .npy array as
    `gentool sample --out x.npy` writes it. Raises NotFoundError or BadDataError."""
    path = Path(where)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.lower().endswith(EXTENSIONS))
        pictures = [decode(file.read_bytes(), file.name) for file in files]
        for file, picture in zip(files, pictures, strict=True):
            if picture.shape != (SIDE, SIDE, 3):
                height, width, channels = picture.shape
                raise BadDataError(
                    f"{file.name} is {width} × {height} with {channels} channels; "
                    f"scenes are {SIDE} × {SIDE} RGB"
                )
        if not pictures:
            raise BadDataError(f"no images in {path}", f"images end in {', '.join(EXTENSIONS)}")
        return np.stack(pictures)
    if not path.is_file():
        raise NotFoundError(f"no folder or array {where}")
    array = read_array(path)
    if array.dtype != np.float32 or array.ndim != 4 or array.shape[1:] != (3, SIDE, SIDE):
        raise BadDataError(
            f"{path} holds {array.dtype} {list(array.shape)}, not float32 [N, 3, {SIDE}, {SIDE}]"
        )
    if not len(array) or not np.isfinite(array).all():
        raise BadDataError(
            f"{path} holds {'values that are not finite' if len(array) else 'nothing'}"
        )
    pixels = np.rint((array + 1) * 127.5).clip(0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)
