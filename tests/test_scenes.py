"""The built-in world: what it draws it can read, and it reads nothing else."""

import io
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from drawn import draws, two_things

from gentool.data.scenes import (
    COLORS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    Layout,
    Scene,
    Thing,
    draw_scene,
    read_scene,
    render,
)
from gentool.data.scenes.draw import BACKGROUND, PALETTE, STAMP, corners, coverage, stamp
from gentool.data.scenes.read import as_light, mismatch, nearest_scene

CIFAR = Path(__file__).parents[2] / "shared/data/cifar10/train.parquet"
N = 400  # pictures a rejection class

Picture = np.ndarray


def as_pixels(light: np.ndarray) -> Picture:
    return (light.clip(0, 1) * 255).round().astype(np.uint8)


def blurred(picture: Picture, sigma: float) -> Picture:
    taps = np.arange(-8, 9)
    kernel = np.exp(-(taps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    light = np.pad(picture / 255, ((8, 8), (8, 8), (0, 0)), mode="edge")
    for axis in (0, 1):
        light = np.apply_along_axis(np.convolve, axis, light, kernel, "valid")
    return as_pixels(light)


def moved(picture: Picture, down: float, right: float) -> Picture:
    """The picture shifted by a fraction 0..1 of a pixel, by linear interpolation."""
    light = np.pad(picture / 255, ((1, 0), (1, 0), (0, 0)), mode="edge")
    light = light[1:] * (1 - down) + light[:-1] * down
    return as_pixels(light[:, 1:] * (1 - right) + light[:, :-1] * right)


def acceptance(pictures: list[Picture]) -> float:
    return sum(read_scene(picture) is not None for picture in pictures) / len(pictures)


# --- what is drawn is read ---


@pytest.mark.parametrize("split", SPLITS)
def test_every_picture_is_read_as_what_it_shows(split: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(700):
        scene, layout = draw_scene(rng, split)
        assert read_scene(render(scene, layout)) == scene.canonical()


def test_every_thing_is_read_at_every_place_and_jitter() -> None:
    things = [Thing(*attributes) for attributes in product(SHAPES, COLORS, SIZES)]
    for number, (place, jitter) in enumerate(product(PLACES, product((-1, 0, 1), (-1, 0, 1)))):
        row, column = divmod(PLACES.index(place), 3)
        for thing in things[number % 4 :: 4]:
            scene = Scene((thing,), place, None)
            assert read_scene(render(scene, Layout(((row, column),), (jitter,)))) == scene


def test_both_forms_of_picture_are_read_and_others_refused() -> None:
    scene, layout = draws(1)[0]
    picture = render(scene, layout)
    signed = (picture / 127.5 - 1).transpose(2, 0, 1)
    assert read_scene(signed) == read_scene(signed.astype(np.float32)) == scene.canonical()
    assert read_scene(np.full((3, 32, 32), np.nan)) is None
    with pytest.raises(ValueError, match=r"\[32, 32, 1\]"):
        read_scene(picture[:, :, :1])


def test_noise_softness_and_small_shifts_pass() -> None:
    rng = np.random.default_rng(2)
    drawn = draws(N)
    right = {"noise": 0, "soft": 0, "moved": 0, "soft and noisy": 0}
    for scene, layout in drawn:
        picture = render(scene, layout)
        grain = rng.normal(size=picture.shape)
        worse = {
            "noise": as_pixels(picture / 255 + 0.03 * grain),
            "soft": blurred(picture, 0.5),
            "moved": moved(picture, *rng.uniform(0, 0.2, size=2)),
            "soft and noisy": as_pixels(blurred(picture, 0.45) / 255 + 0.01 * grain),
        }
        for name, other in worse.items():
            right[name] += read_scene(other) == scene.canonical()
    assert {name: count / N for name, count in right.items() if count < 0.995 * N} == {}


# --- nothing else is read ---


def uniform_noise(rng: np.random.Generator) -> list[Picture]:
    return list(rng.integers(0, 256, size=(N, 32, 32, 3), dtype=np.uint8))


def gaussian_noise(rng: np.random.Generator) -> list[Picture]:
    dark = [np.array(BACKGROUND) / 255 + 0.2 * rng.normal(size=(32, 32, 3)) for _ in range(N // 2)]
    grey = [0.5 + 0.5 * rng.normal(size=(32, 32, 3)) for _ in range(N // 2)]
    return [as_pixels(light) for light in dark + grey]


def constant(rng: np.random.Generator) -> list[Picture]:
    colors = [BACKGROUND, *PALETTE.values(), *rng.integers(0, 256, size=(N, 3))]
    return [np.full((32, 32, 3), color, np.uint8) for color in colors]


def blurred_scenes(rng: np.random.Generator) -> list[Picture]:
    return [blurred(render(*drawn), 1.0 if i % 2 else 1.5) for i, drawn in enumerate(draws(N))]


def half_erased(rng: np.random.Generator) -> list[Picture]:
    pictures = []
    for scene, layout in draws(N):
        picture = render(scene, layout)
        which = rng.integers(len(scene.things))
        thing, (top, left) = scene.things[which], corners(layout)[which]
        patch = picture[top : top + STAMP, left : left + STAMP]
        turn = int(rng.integers(4))
        covered = np.rot90(coverage(thing.shape, thing.size), turn)
        first_half = (covered.cumsum() <= covered.sum() / 2).reshape(covered.shape)
        patch[np.rot90(first_half, -turn)] = BACKGROUND
        pictures.append(picture)
    return pictures


def averages(rng: np.random.Generator) -> list[Picture]:
    pictures = [render(*drawn) / 255 for drawn in draws(N + 1)]
    return [as_pixels((a + b) / 2) for a, b in zip(pictures, pictures[1:], strict=False)]


def blended(share: float) -> Callable[[np.random.Generator], list[Picture]]:
    """One thing of each scene in a mix of its colour with another of the palette."""

    def pictures(rng: np.random.Generator) -> list[Picture]:
        mixed = []
        for scene, layout in draws(N):
            which = int(rng.integers(len(scene.things)))
            thing = scene.things[which]
            other = rng.choice([color for color in COLORS if color != thing.color])
            changed = list(scene.things)
            changed[which] = Thing(thing.shape, str(other), thing.size)
            a = render(scene, layout) / 255
            b = render(Scene(tuple(changed), scene.place, scene.relation), layout) / 255
            mixed.append(as_pixels((1 - share) * a + share * b))
        return mixed

    return pictures


def paint(picture: Picture, thing: Thing, top: int, left: int) -> None:
    alpha = coverage(thing.shape, thing.size)[:, :, None]
    patch = picture[top : top + STAMP, left : left + STAMP]
    patch[:] = (1 - alpha) * patch + alpha * np.array(PALETTE[thing.color])


def some_thing(rng: np.random.Generator) -> Thing:
    return Thing(*(str(rng.choice(words)) for words in (SHAPES, COLORS, SIZES)))


def third_thing(rng: np.random.Generator) -> list[Picture]:
    pictures = []
    for scene, layout in two_things(N):
        picture = render(scene, layout)
        free = [cell for cell in product(range(3), range(3)) if cell not in layout.cells]
        at = Layout((free[rng.integers(len(free))],), ((0, 0),))
        paint(picture, some_thing(rng), *corners(at)[0])
        pictures.append(picture)
    return pictures


def without_a_relation(rng: np.random.Generator) -> list[Picture]:
    """Two things that share neither a row nor a column."""
    pictures = []
    for scene, _ in two_things(N):
        rows, columns = rng.permutation(3), rng.permutation(3)
        cells = ((int(rows[0]), int(columns[0])), (int(rows[1]), int(columns[1])))
        pictures.append(render(scene, Layout(cells, ((0, 0), (0, 0)))))
    return pictures


def overlapping(rng: np.random.Generator) -> list[Picture]:
    """A second thing painted over the first, 4 to 6 pixels away along an axis."""
    pictures = []
    for scene, _ in draws(N):
        at = Layout(((1, 1),), ((0, 0),))
        picture = render(Scene(scene.things[:1], "center", None), at)
        offset = rng.permutation([rng.integers(4, 7) * rng.choice([-1, 1]), rng.integers(-2, 3)])
        top, left = np.array(corners(at)[0]) + offset
        paint(picture, some_thing(rng), top, left)
        pictures.append(picture)
    return pictures


def holes(rng: np.random.Generator) -> list[Picture]:
    """One inner pixel of one thing is missing."""
    pictures = []
    for scene, layout in draws(N):
        picture = render(scene, layout)
        which = rng.integers(len(scene.things))
        thing, (top, left) = scene.things[which], corners(layout)[which]
        full = np.argwhere(coverage(thing.shape, thing.size) == 1)
        down, right = full[rng.integers(len(full))]
        picture[top + down, left + right] = BACKGROUND
        pictures.append(picture)
    return pictures


def morphs(rng: np.random.Generator) -> list[Picture]:
    """One thing half-way between two shapes, or between two sizes of one."""
    pictures = []
    for scene, layout in draws(N):
        which = int(rng.integers(len(scene.things)))
        thing = scene.things[which]
        if rng.integers(2):
            size = "small" if thing.size == "large" else "large"
            other = Thing(thing.shape, thing.color, size)
        else:
            shape = str(rng.choice([shape for shape in SHAPES if shape != thing.shape]))
            other = Thing(shape, thing.color, thing.size)
        changed = list(scene.things)
        changed[which] = other
        b = render(Scene(tuple(changed), scene.place, scene.relation), layout) / 255
        pictures.append(as_pixels((render(scene, layout) / 255 + b) / 2))
    return pictures


REJECTED: dict[str, Callable[[np.random.Generator], list[Picture]]] = {
    "uniform noise": uniform_noise,
    "gaussian noise": gaussian_noise,
    "constant": constant,
    "blurred": blurred_scenes,
    "half erased": half_erased,
    "averages": averages,
    "blended 50/50": blended(0.5),
    "blended 70/30": blended(0.3),
    "third thing": third_thing,
    "no relation": without_a_relation,
    "overlapping": overlapping,
    "holes": holes,
    "morphs": morphs,
}


@pytest.mark.parametrize("name", REJECTED)
def test_wrong_pictures_are_rejected(name: str) -> None:
    assert acceptance(REJECTED[name](np.random.default_rng(3))) <= 0.01


def test_cifar_is_rejected() -> None:
    if not CIFAR.exists():
        pytest.skip(f"no {CIFAR}")
    parquet = pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    rows = next(parquet.ParquetFile(CIFAR).iter_batches(batch_size=N)).to_pylist()
    column = next(name for name, value in rows[0].items() if isinstance(value, dict))
    pictures = [np.array(image.open(io.BytesIO(row[column]["bytes"]))) for row in rows]
    assert acceptance(pictures) <= 0.01


# --- what is drawn ---


def test_things_stay_on_the_canvas_and_apart() -> None:
    for scene, layout in draws(500):
        for top, left in corners(layout):
            assert 0 <= min(top, left) and max(top, left) + STAMP <= 32
        if len(scene.things) == 2:
            (top_a, left_a), (top_b, left_b) = corners(layout)
            assert max(abs(top_a - top_b), abs(left_a - left_b)) > STAMP


def test_exactly_one_relation_holds() -> None:
    for scene, layout in two_things(300):
        (row_a, column_a), (row_b, column_b) = layout.cells
        holds = {
            "left of": row_a == row_b and column_a < column_b,
            "right of": row_a == row_b and column_a > column_b,
            "above": column_a == column_b and row_a < row_b,
            "below": column_a == column_b and row_a > row_b,
        }
        assert [relation for relation in RELATIONS if holds[relation]] == [scene.relation]


def test_a_scene_told_from_the_other_thing_is_the_same_scene() -> None:
    a, b = Thing("circle", "red", "small"), Thing("cross", "blue", "large")
    assert Scene((b, a), None, "right of").canonical() == Scene((a, b), None, "left of")
    assert Scene((b, a), None, "below").canonical() == Scene((a, b), None, "above")
    assert Scene((b, a), None, "left of").canonical() != Scene((a, b), None, "left of")


def test_a_mismatch_grows_alike_for_small_and_large_things() -> None:
    for shape in SHAPES:
        outline = []
        for size in SIZES:
            scene = Scene((Thing(shape, "white", size),), "center", None)
            picture = render(scene, Layout(((1, 1),), ((0, 0),)))
            light = as_light(moved(picture, 0, 0.3))
            outline.append(mismatch(light, *nearest_scene(light)).outline)
        assert 0.6 < outline[0] / outline[1] < 1.7


def test_every_two_things_look_different() -> None:
    things = [Thing(*attributes) for attributes in product(SHAPES, COLORS, SIZES)]
    patches = np.stack([stamp(thing) / 255 for thing in things])
    distance = ((patches[:, None] - patches[None]) ** 2).sum((2, 3, 4))
    distance[np.diag_indices(len(things))] = math.inf
    assert distance.min() > 1.5  # the small green circle and square; noise of 0.03 makes 0.2
