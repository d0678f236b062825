"""Pixels as 8 bits [H, W, C], as floats [C, H, W] in [-1, 1], and as a picture.

Imports neither torch nor Pillow before one of them is asked for.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def to_uint8(x: "Tensor") -> np.ndarray:
    """Float images [N, C, H, W] in [-1, 1] as uint8 [N, H, W, C]; what lies outside is clamped."""
    pixels = ((x.detach().float() + 1) * 127.5).clamp(0, 255).round()
    return pixels.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_float(pixels: np.ndarray) -> "Tensor":
    """uint8 [..., H, W, C] as float32 [..., C, H, W] in [-1, 1]."""
    import torch

    return torch.tensor(pixels).movedim(-1, -3).contiguous().float() / 127.5 - 1


def to_picture(pixels: np.ndarray) -> "Image":
    """uint8 [H, W, 1 or 3] as a grey or coloured picture."""
    from PIL import Image

    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
