"""The scenes as a data set: endless, and deterministic by (split, index)."""

import zlib

import numpy as np

from gentool.data.scenes.draw import render
from gentool.data.scenes.language import LANGUAGES, caption
from gentool.data.scenes.world import descriptions, draw_scene
from gentool.data.source import Example
from gentool.errors import UsageError, nearest

VERSION = 1  # raise it when the same index gives another example than before


class Scenes:
    """Captioned pictures of one split, drawn when asked for."""

    size: int | None = None
    labels: tuple[str, ...] = ()

    def __init__(self, split: str = "train", language: str = "en") -> None:
        known = (*LANGUAGES, "both")
        if language not in known:
            raise UsageError(f"unknown language of scenes {language!r}", nearest(language, known))
        descriptions(split)  # raises for an unknown split
        self.split = split
        self.languages = LANGUAGES if language == "both" else (language,)
        self.fingerprint = f"scenes-{VERSION}-{split}-{language}"

    def __getitem__(self, index: int) -> Example:
        """Example `index` ≥ 0; its picture is the same in every language."""
        rng = np.random.default_rng([VERSION, zlib.crc32(self.split.encode()), index])
        scene, layout = draw_scene(rng, self.split)
        language = self.languages[rng.integers(len(self.languages))]
        text = caption(scene, language, rng)
        return Example(f"scenes {self.split} {index}", render(scene, layout), text)
