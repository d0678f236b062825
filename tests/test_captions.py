"""The built-in world: its captions, its splits and the data set made of them."""

import zlib
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from drawn import draws, two_things

from gentool.checkpoint.load import load_checkpoint
from gentool.data.config import ImageData, PairData
from gentool.data.holdout import text_train_and_validation, train_and_validation
from gentool.data.scenes import (
    COLORS,
    PLACES,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    Scenes,
    SceneTexts,
    Thing,
    caption,
    draw_scene,
    parse_caption,
    read_scene,
    split_of,
    training_shares,
)
from gentool.data.scenes.draw import BACKGROUND, STAMP
from gentool.data.scenes.language import LANGUAGES, TEMPLATES
from gentool.data.scenes.world import NOVEL_PAIRS, descriptions
from gentool.errors import UsageError
from gentool.evaluate.request import Request

# --- captions ---


def test_every_template_is_parsed_back() -> None:
    drawn = draws(60) + [(scene.inverted(), layout) for scene, layout in two_things(20)]
    for scene, _ in drawn:
        for language in LANGUAGES:
            n = len(TEMPLATES[language][len(scene.things)])
            texts = [caption(scene, language, variant) for variant in range(n)]
            assert n >= 4 and len(set(texts)) == n
            assert [parse_caption(text) for text in texts] == [scene.canonical()] * n


def test_a_caption_drawn_from_a_generator_is_one_of_the_variants() -> None:
    scene = draws(1)[0][0]
    rng = np.random.default_rng(0)
    drawn = {caption(scene, "zh", rng) for _ in range(200)}
    n = len(TEMPLATES["zh"][len(scene.things)])
    assert drawn == {caption(scene, "zh", variant) for variant in range(n)}


def test_no_text_tells_two_scenes() -> None:
    told: dict[str, Scene] = {}
    for scene, _ in draws(2000):
        for language in LANGUAGES:
            for variant in range(len(TEMPLATES[language][len(scene.things)])):
                text = caption(scene, language, variant)
                assert told.setdefault(text, scene.canonical()) == scene.canonical()


@pytest.mark.parametrize(
    "text",
    [
        "a small red circle in the top left",
        "  A Small RED circle in the top left\n",
        "in the top left there is a small red circle",
        "画面左上角是一个红色的小圆形",
    ],
)
def test_known_captions(text: str) -> None:
    assert parse_caption(text) == Scene((Thing("circle", "red", "small"),), "top left", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle in the top left",
        "a small circle in the top left",
        "a small red circle",
        "a small red in the top left",
        "a red small circle in the top left",
        "a small red circle in the top left left",
        "a small red circle in the top",
        "a small red circle in the top left.",
        "a small  red circle in the top left",
        "a small red circle in the left top",
        "a small orange circle in the top left",
        "one a small red circle in the top left",
        "a small red circle is above a large green",
        "a small red circle is above above a large green cross",
        "a small red circle is above a large green cross in the top left",
        "a small red circle is left of a large green cross",
        "a small red circle above a large green cross",
        "画面左上角是一个小圆形",
        "画面左上角是一个红色的圆形",
        "画面左上角是一个红色小圆形",
        "画面是一个红色的小圆形",
        "一个红色的小圆形在左上角。",
        "一个红色的小圆形 在左上角",
        "一个红色的小圆形在一个绿色的大十字形的",
        "一个small red circle在左上角",
    ],
)
def test_near_misses_are_not_captions(text: str) -> None:
    assert parse_caption(text) is None


def test_no_place_is_part_of_another() -> None:
    assert not any(a in b for a, b in product(PLACES, PLACES) if a != b)


def test_dropping_or_doubling_a_word_breaks_a_caption() -> None:
    for index in range(200):
        words = Scenes()[index].caption.split()
        for i in range(len(words)):
            assert parse_caption(" ".join(words[:i] + words[i + 1 :])) is None
            assert parse_caption(" ".join(words[: i + 1] + words[i:])) is None


# --- splits and the source ---


def test_splits_are_disjoint_and_hold_out_what_they_say() -> None:
    scenes = {split: {s for kind in descriptions(split) for s in kind} for split in SPLITS}
    assert sum(map(len, scenes.values())) == len(set.union(*scenes.values())) == 432 + 4608
    pairs = {
        split: {(thing.shape, thing.color) for scene in scenes[split] for thing in scene.things}
        for split in SPLITS
    }
    assert not pairs["train"] & NOVEL_PAIRS and not pairs["test"] & NOVEL_PAIRS
    assert all(
        any((thing.shape, thing.color) in NOVEL_PAIRS for thing in scene.things)
        for scene in scenes["test-novel"]
    )
    assert {shape for shape, _ in pairs["train"]} == set(SHAPES)
    assert {color for _, color in pairs["train"]} == set(COLORS)
    assert 0.08 < len(scenes["test"]) / len(scenes["train"] | scenes["test"]) < 0.12


@pytest.mark.parametrize("split", SPLITS)
def test_the_source_draws_only_from_its_split(split: str) -> None:
    for index in range(300):
        scene = parse_caption(Scenes(split)[index].caption)
        assert scene is not None and split_of(scene) == split_of(scene.canonical()) == split


def test_the_same_index_is_the_same_example() -> None:
    for index in (0, 1, 17, 10**9):
        a, b = Scenes("test", "both")[index], Scenes("test", "both")[index]
        assert (a.key, a.caption, a.label) == (b.key, b.caption, None)
        assert a.image.dtype == np.uint8 and np.array_equal(a.image, b.image)
        assert np.array_equal(a.image, Scenes("test", "zh")[index].image)
    assert a.key == "scenes test 1000000000"


def test_the_bytes_of_the_first_examples_are_pinned() -> None:
    """Raise source.VERSION when this changes: a checkpoint names the world it was trained on."""
    example = Scenes()[0]
    assert example.caption == "a large yellow circle in the top right"
    assert zlib.crc32(example.image.tobytes()) == 3264891892


def test_picture_caption_and_language_agree() -> None:
    languages: Counter[str] = Counter()
    source = Scenes(language="both")
    for index in range(300):
        example = source[index]
        assert read_scene(example.image) == parse_caption(example.caption) is not None
        languages["en" if example.caption.isascii() else "zh"] += 1
    assert min(languages.values()) > 100


def test_the_easier_scenes_come_first_and_leave_nothing_open() -> None:
    easier, plain = Scenes("train", "both", easier=2000), Scenes("train", "both")
    pictures: dict[object, set[bytes]] = {}
    for index in range(2000):
        example = easier[index]
        scene = read_scene(example.image)
        assert scene == parse_caption(example.caption) is not None
        assert example.caption == plain[index].caption
        pictures.setdefault(scene, set()).add(example.image.tobytes())
    assert len(pictures) < 1500 and all(len(drawn) == 1 for drawn in pictures.values())
    assert np.array_equal(easier[2000].image, plain[2000].image)
    assert easier.fingerprint != plain.fingerprint


def test_things_that_are_to_be_near_are_as_near_as_they_come() -> None:
    near, plain = Scenes("train", "both", near=1.0), Scenes("train", "both")
    gaps: dict[str, Counter[int]] = {"near": Counter(), "plain": Counter()}
    for index in range(1500):
        example = near[index]
        scene = read_scene(example.image)
        assert scene == parse_caption(example.caption) is not None
        assert example.caption == plain[index].caption
        if len(scene.things) == 1:
            assert np.array_equal(example.image, plain[index].image)
        elif {thing.size for thing in scene.things} == {"large"} and "triangle" not in {
            thing.shape for thing in scene.things
        }:
            axis = 0 if scene.relation == "left of" else 1
            for name, picture in (("near", example.image), ("plain", plain[index].image)):
                (drawn,) = np.nonzero((picture != BACKGROUND).any(axis=(axis, 2)))
                gaps[name][int(drawn[-1] - drawn[0]) + 1 - 2 * STAMP] += 1
    assert sum(gaps["near"].values()) > 60
    assert {*gaps["near"]} == {1, 2} and max(gaps["plain"]) > 10
    some = Scenes("train", "both", near=0.5)
    changed = [not np.array_equal(some[i].image, plain[i].image) for i in range(1000)]
    assert 0.2 < np.mean(changed) < 0.3  # half of the scenes of two things, which are half of all
    assert len({near.fingerprint, plain.fingerprint, some.fingerprint}) == 3


def test_the_easier_targets_come_first_and_are_one_for_each_scene() -> None:
    easier, plain = SceneTexts("train", "en-zh", easier=2000), SceneTexts("train", "en-zh")
    targets: dict[object, set[str]] = {}
    for index in range(2000):
        pair = easier[index]
        scene = parse_caption(pair.text)
        assert scene == parse_caption(pair.source or "") is not None
        assert pair.source == plain[index].source
        targets.setdefault(scene, set()).add(pair.text)
    assert len(targets) < 1500 and all(len(told) == 1 for told in targets.values())
    assert easier[2000] == plain[2000]
    assert easier.fingerprint != plain.fingerprint


def test_of_pairs_what_is_held_out_is_not_easier() -> None:
    config = PairData(easier=100)
    train, held_out = text_train_and_validation(config)
    assert [train[i] for i in range(9)] == [SceneTexts("train", "en-zh", 100)[i] for i in range(9)]
    assert held_out[0] == SceneTexts("test", "en-zh")[0]
    with pytest.raises(UsageError, match="for scenes"):
        PairData(spec=("a.en,a.zh",), easier=100)


def test_what_is_held_out_is_not_easier() -> None:
    config = ImageData(easier=100, near=0.5)
    train, held_out = train_and_validation(config)
    assert not np.array_equal(train[0].image, Scenes()[0].image)
    assert np.array_equal(held_out[0].image, Scenes("test")[0].image)
    with pytest.raises(UsageError, match="for scenes"):
        ImageData(spec=("photos",), easier=100)
    with pytest.raises(UsageError, match="data.near = 0.5 is for scenes"):
        ImageData(spec=("photos",), near=0.5)


@pytest.mark.parametrize("data", ["scenes:test", None])
def test_scenes_that_training_made_easier_are_measured_as_they_are(
    tiny_run: Path, data: str | None
) -> None:
    loaded = load_checkpoint(tiny_run, "ddpm")
    loaded.config.data.easier = 100  # also the backend's
    loaded.config.data.near = 1.0
    request = Request(loaded, loaded.config.sample, data, 4, 0, "cpu", 4, None)
    held_out, split = request.held_out
    assert np.array_equal(held_out[0].image, Scenes("test")[0].image)
    assert request.of_scenes


def test_the_source_names_itself() -> None:
    source = Scenes()
    assert (source.size, source.labels, source.fingerprint) == (None, (), "scenes-1-train-en")
    assert len({Scenes(split).fingerprint for split in SPLITS}) == 3
    with pytest.raises(UsageError) as error:
        Scenes("tets")
    assert error.value.hint == "did you mean 'test'?"
    with pytest.raises(UsageError):
        Scenes(language="de")


def test_training_shares_are_those_of_draws() -> None:
    rng = np.random.default_rng(5)
    things: Counter[str] = Counter()
    scenes: Counter[str] = Counter()
    for _ in range(10_000):
        scene = draw_scene(rng, "train")[0].canonical()
        scenes[scene.place or scene.relation or ""] += 1
        for thing in scene.things:
            things.update((thing.shape, thing.color, thing.size))
    n_things = sum(things[size] for size in SIZES)
    for kind, shares in training_shares().items():
        of_scenes = kind in ("place", "relation")
        counts, n = (scenes, 10_000) if of_scenes else (things, n_things)
        assert all(abs(counts[word] / n - share) < 0.02 for word, share in shares.items())
