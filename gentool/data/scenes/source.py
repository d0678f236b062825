"""The scenes as a data set: endless, and deterministic by (split, index)."""

import zlib

import numpy as np

from gentool.data.scenes.draw import render
from gentool.data.scenes.language import LANGUAGES, caption
from gentool.data.scenes.world import (
    Layout,
    Scene,
    attributes,
    descriptions,
    draw_scene,
    near_layout,
    plain_layout,
)
from gentool.data.source import Example
from gentool.data.text import Text
from gentool.errors import UsageError, nearest

VERSION = 1  # raise it when the same index gives another example than before


class _World:
    """What is told of one split, in which languages."""

    size: int | None = None
    labels: tuple[str, ...] = ()

    def __init__(self, split: str, language: str, easier: int) -> None:
        known = (*LANGUAGES, "both")
        if language not in known:
            raise UsageError(f"unknown language of scenes {language!r}", nearest(language, known))
        descriptions(split)  # raises for an unknown split
        self.split, self.easier = split, easier
        self.languages = LANGUAGES if language == "both" else (language,)
        self.fingerprint = self._fingerprint(language)

    def _fingerprint(self, language: str) -> str:
        easier = f"-easier-{self.easier}" if self.easier else ""
        return f"scenes-{VERSION}-{self.split}-{language}{easier}"

    def key(self, index: int) -> str:
        """The name of example `index`."""
        return f"scenes {self.split} {index}"

    def tell(self, index: int) -> tuple[Scene, Layout, str, np.random.Generator]:
        """Scene `index` ≥ 0, how it is drawn, its caption, and what further draws are from."""
        rng = np.random.default_rng([VERSION, zlib.crc32(self.split.encode()), index])
        scene, layout = draw_scene(rng, self.split)
        language = self.languages[rng.integers(len(self.languages))]
        return scene, layout, caption(scene, language, rng), rng


class Scenes(_World):
    """Captioned pictures of one split, drawn when asked for; the same ones in every language.

    The first `easier` have the one layout that their caption always has. Elsewhere a picture is one
    of hundreds that its caption may mean, and gives away so little of which thing stands on which
    side that a model learns it late or never. Of those with two things the share `near` has them as
    near to each other as they come, which is else seldom seen.
    """

    def __init__(
        self, split: str = "train", language: str = "en", easier: int = 0, near: float = 0.0
    ) -> None:
        self.near = near
        super().__init__(split, language, easier)

    def _fingerprint(self, language: str) -> str:
        return super()._fingerprint(language) + (f"-near-{self.near:g}" if self.near else "")

    def __getitem__(self, index: int) -> Example:
        scene, layout, text, rng = self.tell(index)
        if index < self.easier:
            layout = plain_layout(scene)
        elif scene.relation and rng.random() < self.near:
            layout = near_layout(rng, scene)
        return Example(self.key(index), render(scene, layout), text)


class SceneTexts(_World):
    """The captions of `Scenes` alone, with what is true of the scene; pairs in "en-zh", "zh-en".

    Of pairs the first `easier` targets are the one paraphrase that their scene always has.
    Elsewhere the two things of a target may come in either order; how they are related then follows
    from the order, and is learnt late or never by a model that cannot tell which thing is which.
    """

    def __init__(self, split: str = "train", language: str = "en", easier: int = 0) -> None:
        source, _, target = language.rpartition("-")
        super().__init__(split, target, easier)
        self.source = source
        if source:
            if source not in LANGUAGES:
                raise UsageError(
                    f"unknown language of scenes {source!r}", nearest(source, LANGUAGES)
                )
            self.fingerprint = self._fingerprint(language)

    def __getitem__(self, index: int) -> Text:
        scene, _, text, rng = self.tell(index)
        source = caption(scene, self.source, rng) if self.source else None
        if index < self.easier:
            text = caption(scene.canonical(), self.languages[0], 0)
        return Text(self.key(index), text, attributes(scene), source)
