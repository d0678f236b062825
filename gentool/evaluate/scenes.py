"""Do pictures show scenes of the built-in world, and which? Pure functions over pixels."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from gentool.data.scenes import (
    SPLITS,
    Scene,
    parse_caption,
    read_scene,
    split_of,
    training_shares,
)
from gentool.errors import BadDataError


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


def captioned_figures(
    images: Iterable[np.ndarray], captions: Sequence[str]
) -> dict[str, float | None]:
    """scene_accuracy: share of pictures that show exactly what their caption says, beside
    scene_validity. Raises BadDataError for a caption that describes no scene, naming its line."""
    right = valid = 0
    for line, (image, text) in enumerate(zip(images, captions, strict=True), start=1):
        wanted = parse_caption(text)
        if wanted is None:
            raise BadDataError(
                f"captions line {line} describes no scene: {text!r}",
                "captions look like: a small red circle in the top left",
            )
        seen = read_scene(image)
        valid += seen is not None
        right += seen is not None and seen.canonical() == wanted.canonical()
    return {"scene_accuracy": right / len(captions), "scene_validity": valid / len(captions)}


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
