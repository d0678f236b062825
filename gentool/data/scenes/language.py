"""Captions in English and Chinese: several paraphrases of a scene, and the grammar back."""

import re
from functools import lru_cache

import numpy as np

from gentool.data.scenes.world import (
    COLORS,
    INVERSE,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)
from gentool.errors import UsageError, nearest

# The words of each language, in the order of the tuples in world.py.
WORDS = {
    "en": {
        "shape": SHAPES,
        "color": COLORS,
        "size": SIZES,
        "place": PLACES,
        "relation": ("to the left of", "to the right of", "above", "below"),
    },
    "zh": {
        "shape": ("圆形", "正方形", "三角形", "十字形"),
        "color": ("红色", "绿色", "蓝色", "黄色", "紫色", "白色"),
        "size": ("小", "大"),
        "place": (
            "左上角", "上方中央", "右上角",
            "左侧中央", "正中央", "右侧中央",
            "左下角", "下方中央", "右下角",
        ),
        "relation": ("左边", "右边", "上面", "下面"),
    },
}  # fmt: skip
LANGUAGES = tuple(WORDS)
MEANINGS = {
    "shape": SHAPES, "color": COLORS, "size": SIZES, "place": PLACES, "relation": RELATIONS
}  # fmt: skip

# {1} and {2} are the things, {relation} says where 1 is seen from 2, {inverse} the other way round.
TEMPLATES = {
    "en": {
        1: (
            "a {1} in the {place}",
            "there is a {1} in the {place}",
            "in the {place} there is a {1}",
            "the {place} shows a {1}",
            "a {1} sits in the {place} of the picture",
        ),
        2: (
            "a {1} is {relation} a {2}",
            "a {2} is {inverse} a {1}",
            "{relation} a {2} there is a {1}",
            "there is a {1} {relation} a {2}",
            "{inverse} a {1} sits a {2}",
        ),
    },
    "zh": {
        1: (
            "{place}有一个{1}",
            "一个{1}在{place}",
            "画面{place}是一个{1}",
            "有一个{1}位于{place}",
            "{place}画着一个{1}",
        ),
        2: (
            "一个{1}在一个{2}的{relation}",
            "一个{2}在一个{1}的{inverse}",
            "在一个{2}的{relation}有一个{1}",
            "一个{1}的{inverse}是一个{2}",
            "有一个{1}位于一个{2}的{relation}",
        ),
    },
}
THING = {"en": "{size} {color} {shape}", "zh": "{color}的{size}{shape}"}


def caption(scene: Scene, language: str, variant: np.random.Generator | int) -> str:
    """`scene` told in "en" or "zh", in paraphrase number `variant` or one drawn from a generator"""
    if language not in WORDS:
        raise UsageError(f"unknown language {language!r}", nearest(language, WORDS))
    templates = TEMPLATES[language][len(scene.things)]
    if isinstance(variant, np.random.Generator):
        variant = int(variant.integers(len(templates)))
    words = {}
    if scene.place is not None:
        words["place"] = _word(language, "place", scene.place)
    if scene.relation is not None:
        words["relation"] = _word(language, "relation", scene.relation)
        words["inverse"] = _word(language, "relation", INVERSE[scene.relation])
    text = templates[variant]
    for number, thing in enumerate(scene.things, 1):
        text = text.replace(f"{{{number}}}", _thing_words(language, thing))
    return text.format(**words)


def parse_caption(text: str) -> Scene | None:
    """The canonical scene that `text` tells, or None if it is not a sentence of the grammar.

    Exactly what `caption` can say is accepted, but for the case of letters and outer white space.
    """
    for language, n_things, pattern in _patterns():
        found = pattern.fullmatch(text.strip().lower())
        if found:
            return _scene_of(language, n_things, found.groupdict())
    return None


def _word(language: str, kind: str, meaning: str) -> str:
    return WORDS[language][kind][MEANINGS[kind].index(meaning)]


@lru_cache
def _thing_words(language: str, thing: Thing) -> str:
    kinds = {"shape": thing.shape, "color": thing.color, "size": thing.size}
    return THING[language].format(**{k: _word(language, k, v) for k, v in kinds.items()})


@lru_cache
def _patterns() -> list[tuple[str, int, re.Pattern[str]]]:
    """One pattern per template: a named group for each word that carries meaning."""
    patterns = []
    for language, by_count in TEMPLATES.items():
        groups = {
            kind: f"(?P<{kind}>{'|'.join(map(re.escape, words))})"
            for kind, words in WORDS[language].items()
        }
        groups["inverse"] = groups["relation"].replace("relation", "inverse")
        for n_things, templates in by_count.items():
            for text in templates:
                for number in range(1, n_things + 1):
                    thing = re.sub(r"\{(\w+)\}", rf"{{\g<1>{number}}}", THING[language])
                    text = text.replace(f"{{{number}}}", thing)
                numbered = {
                    f"{kind}{number}": groups[kind].replace(f"<{kind}>", f"<{kind}{number}>")
                    for kind in ("shape", "color", "size")
                    for number in range(1, n_things + 1)
                }
                pattern = re.compile(text.format(**groups, **numbered))
                patterns.append((language, n_things, pattern))
    return patterns


def _scene_of(language: str, n_things: int, words: dict[str, str]) -> Scene:
    def meaning(kind: str, word: str) -> str:
        return MEANINGS[kind][WORDS[language][kind].index(word)]

    things = tuple(
        Thing(*(meaning(kind, words[f"{kind}{n}"]) for kind in ("shape", "color", "size")))
        for n in range(1, n_things + 1)
    )
    if n_things == 1:
        return Scene(things, meaning("place", words["place"]), None)
    if "relation" in words:
        return Scene(things, None, meaning("relation", words["relation"])).canonical()
    return Scene(things, None, INVERSE[meaning("relation", words["inverse"])]).canonical()
