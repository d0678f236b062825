"""Texts as rows of tokens: padded or in blocks, in an order that can be resumed; held-out texts."""

import json
from pathlib import Path

import pytest
import torch

from gentool.data.config import TextData
from gentool.data.holdout import text_train_and_validation
from gentool.data.loader import Loader, TooLong
from gentool.data.rows import row
from gentool.data.scenes import SceneTexts
from gentool.data.source import extent
from gentool.data.stream import open_stream
from gentool.data.text import open_texts
from gentool.errors import BadDataError
from gentool.tokenizers import train

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = train("words", [" ".join(LETTERS)])
PAD, BOS, EOS = (TOKENS.special(name) for name in ("pad", "bos", "eos"))
SHOWN = {PAD: "_", BOS: "<", EOS: ">"}


def shown(ids: list[int]) -> str:
    """`<abc>__`."""
    return "".join(SHOWN.get(id) or TOKENS.token(id) for id in ids)


def config_of(folder: Path, lines: list[str], **config) -> TextData:
    path = folder / "a.txt"
    path.write_text("".join(" ".join(line) + "\n" for line in lines))
    return TextData(**({"spec": (str(path),), "length": 8} | config))


def rows_of(config: TextData, n: int) -> list[str]:
    source = open_texts(config)
    return [shown(row(source, index, TOKENS, config).ids) for index in range(n)]


LINES = ["abc", "de", "fghijk", "l"]


def test_padded_rows(tmp_path):
    assert rows_of(config_of(tmp_path, LINES), 4) == [
        "<abc>___",
        "<de>____",
        "<fghijk>",
        "<l>_____",
    ]


def test_blocks_go_on_with_the_texts_after_them(tmp_path):
    config = config_of(tmp_path, LINES, layout="block")
    assert rows_of(config, 4) == ["<abc><de", "<de><fgh", "<fghijk>", "<l><abc>"]
    config = config_of(tmp_path, ["ab", "c"], layout="block", length=10)
    assert rows_of(config, 2) == ["<ab><c>___", "<c><ab>___"]


def test_blocks_of_scenes_share_no_text():
    config = TextData(length=40, layout="block")
    world, tokens = SceneTexts(), train("words", [SceneTexts()[i].text for i in range(200)])
    for index in range(5):
        made = row(world, index, tokens, config)
        first = world[index * 20]
        assert (made.key, made.attributes) == (first.key, first.attributes)
        assert made.ids[0] == tokens.special("bos") and tokens.special("pad") not in made.ids
        told = [world[index * 20 + i].text for i in range(20)]
        assert tokens.decode(made.ids).startswith(f"{told[0]} {told[1]}")
        assert made.ids.count(tokens.special("bos")) <= 20


def test_a_text_that_is_too_long(tmp_path):
    config = config_of(tmp_path, ["ab", "cdefghi", "jk"])
    with pytest.raises(TooLong, match="^a.txt line 2: 9 tokens, data.length is 8$"):
        rows_of(config, 2)
    cut = config_of(tmp_path, ["ab", "cdefghi", "jk"], too_long="cut")
    assert rows_of(cut, 2)[1] == "<cdefghi"
    block = config_of(tmp_path, ["ab", "cdefghi", "jk"], layout="block")
    assert rows_of(block, 1) == ["<ab><jk>"]


# The order


def loader_of(config: TextData, cursor=None, rank=0, world=1, told=None) -> Loader:
    source = text_train_and_validation(config)[0]
    loader = Loader(
        open_stream(source, 3, rank, world),
        lambda source, index, rng: row(source, index, TOKENS, config),
        config,
        (lambda message: None) if told is None else told.append,
    )
    if cursor:
        loader.seek(json.loads(json.dumps(cursor)))
    return loader


def taken(loader: Loader, n: int) -> list[tuple]:
    found = [
        (x.key, x.epoch, shown(x.value.ids), torch.rand((), generator=x.rng).item())
        for x in loader.next(n)
    ]
    loader.close()
    return found


@pytest.mark.parametrize("layout", ["pad", "block"])
def test_training_goes_on_from_anywhere_and_two_processes_see_what_one_does(tmp_path, layout):
    lines = [LETTERS[i : i + 1 + i % 7] for i in range(19)]  # some are too long
    config = config_of(tmp_path, lines, layout=layout, length=7, workers=2)
    whole = taken(loader_of(config), 60)
    assert len({key for key, *_ in whole}) > 10 and len({epoch for _, epoch, *_ in whole}) > 2
    for cut in range(0, 60, 7):
        first = loader_of(config)
        before = taken(first, cut)
        assert before + taken(loader_of(config, first.cursor), 60 - cut) == whole
    shares = [taken(loader_of(config, rank=rank, world=2), 30) for rank in range(2)]
    assert [pair for both in zip(*shares, strict=True) for pair in both] == whole


def test_too_long_texts_are_left_out_and_counted_but_never_too_many(tmp_path):
    told: list[str] = []
    lines = [letter * 2 for letter in LETTERS[:18]] + ["abcdefgh", "bcdefghi"]
    config = config_of(tmp_path, lines, length=6)
    loader = loader_of(config, told=told)
    source = loader.stream.source
    found = taken(loader, 3 * source.size)
    n = sum("defgh" in source[i].text.replace(" ", "") for i in range(source.size))
    assert n and loader.too_long == loader.cursor["too_long"] == 3 * n and loader.skipped == 0
    assert told[0].startswith("left out: a.txt line ") and len(told) == min(3 * n, 5)
    assert not any("defgh" in ids for _, _, ids, _ in found)
    loader = loader_of(config, loader.cursor)
    assert loader.too_long == 3 * n
    taken(loader, 1100)  # more than 1 % are too long, and that is no error
    loader = loader_of(config_of(tmp_path, ["abcdefgh", "bcdefghi"], length=6))
    with pytest.raises(BadDataError, match="in a row cannot be used; the first: a.txt line"):
        loader.next(1)
    loader.close()


def test_unreadable_texts_stop_or_are_skipped(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a b\n" * 50 + b"c d\n" * 50 + b"\xff\n" + b"e f\n" * 60)
    config = TextData(spec=(str(path),), length=8)
    with pytest.raises(BadDataError, match="^a.txt line 101: not UTF-8") as caught:
        text_train_and_validation(config)
    assert "on_error=skip" in caught.value.hint
    loader = loader_of(TextData(spec=(str(path),), length=8, on_error="skip"))
    n = loader.stream.source.size
    taken(loader, 2 * n)
    assert (loader.skipped, loader.too_long) == (2, 0) and n in (111, 101)


# Held out


def test_held_out_texts_are_never_trained_on(tmp_path):
    lines = [LETTERS[i % 26] + LETTERS[i // 26 % 26] for i in range(400)] * 3 + ["", " "]
    config = config_of(tmp_path, lines)
    trained, held = text_train_and_validation(config)
    seen = {trained[i].text for i in range(trained.size)}
    kept = [held[i].text for i in range(held.size)]
    assert (len(kept), len(set(kept)), len(seen)) == (20, 20, 380) and not seen & set(kept)
    assert trained.size == 3 * 380
    assert extent(trained) == "1140 examples, 2 empty ones left out"
    shuffled = config_of(tmp_path, lines[::-1])
    again = text_train_and_validation(shuffled)[1]
    assert {again[i].text for i in range(again.size)} == set(kept)


def test_the_sources_of_held_out_pairs_are_never_trained_on(tmp_path):
    path = tmp_path / "a.tsv"
    rows = [f"{LETTERS[i % 26]}\t{i}\n" for i in range(260)]
    path.write_text("".join(["en\tde\n", *rows, "\tx\n", "y\t\n"]))
    config = TextData(spec=(str(path),), source_column="en", text_column="de")
    trained, held = text_train_and_validation(config)
    assert (trained.size, held.size, trained.empty) == (250, 1, 2)
    assert held[0].source not in {trained[i].source for i in range(trained.size)}


def test_held_out_are_at_most_512_and_at_least_one(tmp_path):
    lines = [f"{i:05d}" for i in range(11_000)]
    trained, held = text_train_and_validation(config_of(tmp_path, lines))
    assert (trained.size, held.size) == (11_000 - 512, 512)
    trained, held = text_train_and_validation(config_of(tmp_path, ["a", "b", "b"]))
    assert held.size == 1 and trained.size in (1, 2) and held[0].text != trained[0].text
    trained, held = text_train_and_validation(config_of(tmp_path, ["a", "a"]))
    assert (trained.size, held.size, held[0].text) == (2, 1, "a")


def test_of_scenes_the_test_split_is_held_out():
    trained, held = text_train_and_validation(TextData(language="zh"))
    assert (trained.fingerprint, held.fingerprint) == ("scenes-1-train-zh", "scenes-1-test-zh")
    assert trained.size is held.size is None and not held[0].text.isascii()
