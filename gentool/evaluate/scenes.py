"""Do pictures show scenes of the built-in world, and which? Pure functions over pixels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gentool.data.scenes import (
    SPLITS,
    Scene,
    caption,
    parse_caption,
    read_scene,
    split_of,
    training_shares,
)
from gentool.evaluate.figures import Figure


def unconditional_figures(images: Iterable[np.ndarray]) -> dict[str, float | None]:
    """Figures of pictures drawn without a caption. images: uint8 [32, 32, 3] each.

    scene_validity: share read back as a scene. The others are of the valid ones:
    scene_split[S]: share whose description belongs to split S. scene_share[K=V]: share of things
    with that shape, colour or size, or of scenes with that relation, divided by its share in
    training; least and greatest of all these as scene_share_min and scene_share_max.
    """
    read = [read_scene(image) for image in images]
    scenes = [scene for scene in read if scene is not None]
    return {"scene_validity": len(scenes) / len(read), **described(scenes)}


def described(scenes: Sequence[Scene]) -> dict[str, float | None]:
    """To which splits the scenes belong, and how often an attribute is there beside training."""
    figures: dict[str, float | None] = {}
    splits = Counter(split_of(scene) for scene in scenes)
    for split in SPLITS:
        figures[f"scene_split[{split}]"] = splits[split] / len(scenes) if scenes else None
    ratios = _share_ratios(scenes)
    figures["scene_share_min"] = min(ratios.values()) if ratios else None
    figures["scene_share_max"] = max(ratios.values()) if ratios else None
    return figures | ratios


@dataclass(frozen=True)
class Verdict:
    """What one picture shows, and what its caption says."""

    caption: str
    wanted: Scene | None  # none: the caption describes no scene
    seen: Scene | None  # none: no scene that could be read

    @property
    def is_right(self) -> bool:
        """Whether it shows exactly the captioned scene."""
        if self.seen is None or self.wanted is None:
            return False
        return self.seen.canonical() == self.wanted.canonical()

    def __str__(self) -> str:
        if self.is_right:
            return f"right  {self.caption}"
        return f"wrong  {self.caption}   shows: {self.shows or 'no scene'}"

    @property
    def shows(self) -> str | None:
        """What it shows, in words."""
        return caption(self.seen, "en", 0) if self.seen else None


def verdicts(images: Iterable[np.ndarray], captions: Sequence[str]) -> list[Verdict]:
    """Of each picture, uint8 [32, 32, 3], whether it shows what its caption says."""
    return [
        Verdict(text, parse_caption(text), read_scene(image))
        for image, text in zip(images, captions, strict=True)
    ]


def verdict_figures(found: Sequence[Verdict], where: dict[str, Any]) -> list[Figure]:
    """scene_right[i]: 1 if picture i shows what its caption says, else 0, with what it shows."""
    return [
        Figure(
            f"scene_right[{number}]", float(verdict.is_right), 1, None, None,
            {**where, "caption": verdict.caption, "shows": verdict.shows}, detail=True,
        )
        for number, verdict in enumerate(found)
    ]  # fmt: skip


def captioned_figures(found: Sequence[Verdict]) -> dict[str, float | None]:
    """scene_accuracy: share of pictures that show exactly what their caption says, beside
    scene_validity."""
    return {
        "scene_accuracy": sum(verdict.is_right for verdict in found) / len(found),
        "scene_validity": sum(verdict.seen is not None for verdict in found) / len(found),
    }


def _share_ratios(scenes: Sequence[Scene]) -> dict[str, float]:
    things = [thing for scene in scenes for thing in scene.things]
    if not things:
        return {}
    return {
        f"scene_share[{kind}={value}]": sum(getattr(told, kind) == value for told in those)
        / len(those)
        / share
        for kind, those in (("shape", things), ("color", things), ("size", things),
                            ("relation", scenes))
        for value, share in training_shares()[kind].items()
    }  # fmt: skip
