"""What can be in a scene, which scenes belong to which split, and how one is drawn at random."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from gentool.errors import UsageError, nearest

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")
# Row by row: place number n is cell (n // 3, n % 3). None is part of another, so that a caption
# that lost a word never tells another place.
PLACES = (
    "top left", "top middle", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom middle", "bottom right",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
SPLITS = ("train", "test", "test-novel")

INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CANONICAL_RELATIONS = ("left of", "above")

# Never trained on together, though each shape and each colour is trained on.
NOVEL_PAIRS = frozenset(
    {("circle", "purple"), ("square", "yellow"), ("triangle", "green"), ("cross", "red")}
)
TEST_SHARE = 0.1  # of the descriptions without a novel pair
MAX_JITTER = 1  # pixels, in each axis

Cell = tuple[int, int]  # row, column, each 0..2


@dataclass(frozen=True)
class Thing:
    """One object: what it looks like, not where it is."""

    shape: str
    color: str
    size: str


@dataclass(frozen=True)
class Scene:
    """A full description: one thing at a `place`, or two where the first is `relation` the second.

    Where exactly it is drawn is the `Layout`, which no caption mentions.
    """

    things: tuple[Thing, ...]
    place: str | None
    relation: str | None

    def canonical(self) -> "Scene":
        """The one form of this description: "B right of A" becomes "A left of B"."""
        if self.relation is None or self.relation in CANONICAL_RELATIONS:
            return self
        return self.inverted()

    def inverted(self) -> "Scene":
        """A two-thing scene told from the other thing: "A left of B" becomes "B right of A"."""
        assert self.relation is not None, "a scene of one thing has no other side"
        return Scene(self.things[::-1], None, INVERSE[self.relation])


@dataclass(frozen=True)
class Layout:
    """Where each thing of a scene is drawn: its grid cell and its offset (down, right) in pixels"""

    cells: tuple[Cell, ...]
    jitters: tuple[tuple[int, int], ...]


def attributes(scene: Scene) -> dict[str, tuple[str, ...]]:
    """What is true of `scene`: a shape, colour or size if any thing in it has it.

    The relation is that of the canonical form, however the scene is told.
    """
    told = scene.canonical()
    found = {
        name: tuple(dict.fromkeys(getattr(thing, name) for thing in told.things))
        for name in ("shape", "color", "size")
    }
    for name, value in (("place", told.place), ("relation", told.relation)):
        if value:
            found[name] = (value,)
    return found


def split_of(scene: Scene) -> str:
    """The split that `scene` belongs to, the same however the scene is told."""
    if any((thing.shape, thing.color) in NOVEL_PAIRS for thing in scene.things):
        return "test-novel"
    told = scene.canonical()
    words = [word for thing in told.things for word in (thing.size, thing.color, thing.shape)]
    text = " ".join([*words, told.place or "", told.relation or ""])
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return "test" if int.from_bytes(digest, "big") < TEST_SHARE * 2**32 else "train"


@lru_cache
def descriptions(split: str) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Every canonical description of a split: those of one thing, and those of two."""
    if split not in SPLITS:
        raise UsageError(f"unknown split of scenes {split!r}", nearest(split, SPLITS))
    things = [Thing(*attributes) for attributes in product(SHAPES, COLORS, SIZES)]
    ones = (Scene((thing,), place, None) for thing, place in product(things, PLACES))
    twos = (Scene((a, b), None, r) for a, b, r in product(things, things, CANONICAL_RELATIONS))
    return (
        tuple(scene for scene in ones if split_of(scene) == split),
        tuple(scene for scene in twos if split_of(scene) == split),
    )


@lru_cache
def cell_choices(place: str | None, relation: str | None) -> tuple[tuple[Cell, ...], ...]:
    """Every choice of one cell per thing in which the place, or the relation, holds."""
    if place is not None:
        return ((divmod(PLACES.index(place), 3),),)
    pairs = ((0, 1), (0, 2), (1, 2))
    if relation in ("left of", "right of"):
        choices = [((row, i), (row, j)) for row in range(3) for i, j in pairs]
    else:
        choices = [((i, column), (j, column)) for column in range(3) for i, j in pairs]
    return tuple(c if relation in CANONICAL_RELATIONS else c[::-1] for c in choices)


def draw_layout(rng: np.random.Generator, scene: Scene) -> Layout:
    """A layout in which `scene` holds, uniform over cells and jitters."""
    choices = cell_choices(scene.place, scene.relation)
    cells = choices[rng.integers(len(choices))]
    jitters = rng.integers(-MAX_JITTER, MAX_JITTER + 1, size=(len(cells), 2)).tolist()
    return Layout(cells, tuple((down, right) for down, right in jitters))


def plain_layout(scene: Scene) -> Layout:
    """The same layout for every scene of that place or relation, nothing off its centre."""
    choices = cell_choices(scene.place, scene.relation)
    cells = choices[len(choices) // 2]
    return Layout(cells, ((0, 0),) * len(cells))


def near_layout(rng: np.random.Generator, scene: Scene) -> Layout:
    """Two things in neighbouring cells, off their centres towards each other: at most two pixels
    are between them where both are large."""
    choices = [pair for pair in cell_choices(None, scene.relation) if _distance(*pair) == 1]
    cells = choices[rng.integers(len(choices))]
    (row, column), (other_row, other_column) = cells
    along = np.array([other_row - row, other_column - column])
    steps = ((1, 1), (1, 0), (0, 1))[rng.integers(3)]  # of each thing towards the other
    aside = rng.integers(-MAX_JITTER, MAX_JITTER + 1, size=(2, 1)) * (along == 0)
    first, second = (aside + np.outer(steps, along) * [[1], [-1]] * MAX_JITTER).tolist()
    return Layout(cells, (tuple(first), tuple(second)))


def _distance(a: Cell, b: Cell) -> int:
    """In cells, along rows and columns."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def draw_scene(rng: np.random.Generator, split: str) -> tuple[Scene, Layout]:
    """A scene of `split` and its layout: one or two things with equal probability.

    Uniform over the split's descriptions of that many things; a relation is told from either side.
    """
    candidates = descriptions(split)[rng.integers(2)]
    scene = candidates[rng.integers(len(candidates))]
    if scene.relation is not None and rng.integers(2):
        scene = scene.inverted()
    return scene, draw_layout(rng, scene)


@lru_cache
def training_shares() -> dict[str, dict[str, float]]:
    """How often each attribute occurs in the training split, exactly.

    Shapes, colours and sizes as shares of the things drawn; places and relations, in the canonical
    form that `read_scene` returns, as shares of the scenes.
    """
    of_things: dict[str, float] = defaultdict(float)
    of_scenes: dict[str, float] = defaultdict(float)
    for scenes in descriptions("train"):
        weight = 0.5 / len(scenes)
        for scene in scenes:
            of_scenes[scene.place or scene.relation or ""] += weight
            for thing in scene.things:
                for word in (thing.shape, thing.color, thing.size):
                    of_things[word] += weight
    n_things = 0.5 * 1 + 0.5 * 2  # things in an average scene
    return {
        "shape": {word: of_things[word] / n_things for word in SHAPES},
        "color": {word: of_things[word] / n_things for word in COLORS},
        "size": {word: of_things[word] / n_things for word in SIZES},
        "place": {word: of_scenes[word] for word in PLACES},
        "relation": {word: of_scenes[word] for word in CANONICAL_RELATIONS},
    }
