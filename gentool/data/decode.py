"""Image files of unknown origin to pixels, and pixels to what a model sees."""

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps

from gentool.data.config import ImageData
from gentool.errors import BadDataError
from gentool.pixels import to_picture

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 1024 * 1024

# What Pillow only warns of (corrupt EXIF, odd headers) is an error here. Set once and not around
# each call: `warnings.catch_warnings` is not safe in threads.
warnings.filterwarnings("error", module=r"PIL\.")


def load(data: bytes, key: str) -> Image.Image:
    """The whole image in its own mode, turned upright as its EXIF orientation says.

    Raises BadDataError, naming `key`, unless `data` is a complete image in one of FORMATS of at
    most MAX_PIXELS pixels and MAX_BYTES bytes.
    """
    if len(data) > MAX_BYTES:
        raise BadDataError(f"{key}: larger than {MAX_BYTES >> 20} MiB")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height <= MAX_PIXELS:
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.UnidentifiedImageError:
        raise BadDataError(f"{key}: not a {', '.join(FORMATS)} image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pass
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception
        raise BadDataError(f"{key}: damaged image: {error or type(error).__name__}") from error
    raise BadDataError(f"{key}: more than {MAX_PIXELS // 1_000_000} million pixels")


def is_grey(mode: str) -> bool:
    """Whether pictures of this mode of Pillow's have no colours."""
    return mode in ("1", "L", "LA", "La") or mode.startswith("I")


def flatten(image: Image.Image, ground: str = "white") -> Image.Image:
    """`image` as "L" or "RGB", 8 bits a channel, what is transparent put on `ground`."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((wide + 128) // 257).clip(0, 255).astype(np.uint8))
    mode = "L" if is_grey(image.mode) else "RGB"
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, ground), above)
    return image.convert(mode)


def decode(data: bytes, key: str, ground: str = "white") -> np.ndarray:
    """The pixels of an image file, uint8 [H, W, C], C = 1 (grey) or 3. Raises as `load` does."""
    pixels = np.asarray(flatten(load(data, key), ground))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def fit(image: np.ndarray, config: ImageData, rng: torch.Generator | None) -> np.ndarray:
    """`image`, uint8 [H, W, 1 or 3], as uint8 [S, S, C], S = image_size and C = channels.

    A square of the shorter side is cut out and resized; an image that has the size already is not
    resampled. `rng` draws the flip and the place of a random crop, always three numbers, so that
    the draws that follow depend on neither image nor config; None: no flip, the centre.
    """
    flip, across, down = (1.0, 0.5, 0.5) if rng is None else torch.rand(3, generator=rng).tolist()
    picture = to_picture(image).convert("L" if config.channels == 1 else "RGB")

    side, size = min(picture.size), config.image_size
    left, top = (
        (length - side) // 2 if config.crop == "center" else int(share * (length - side + 1))
        for share, length in ((across, picture.width), (down, picture.height))
    )
    square = (left, top, left + side, top + side)
    if side == size:
        picture = picture.crop(square)
    else:  # resized out of the box: enlarging a long thin image first could take any memory
        resample = Image.Resampling.BOX if side % size == 0 else Image.Resampling.BICUBIC
        picture = picture.resize((size, size), resample, box=square)
    if config.flip and flip < 0.5:
        picture = ImageOps.mirror(picture)
    return np.array(picture).reshape(size, size, config.channels)
