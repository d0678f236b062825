"""Tokenizers: text comes back, folders are whole or refused, specials are never met in a text."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import draws

from gentool.data.scenes import caption
from gentool.errors import (
    BadCheckpointError,
    BadDataError,
    GentoolError,
    MachineError,
    NotFoundError,
    UsageError,
)
from gentool.streams import clean
from gentool.tokenizers import KINDS, SPECIALS, load, pretrained, train, words
from gentool.tokenizers.config import TokenizerConfig, make
from gentool.tokenizers.folder import ABOUT, FILES, Contents

DATA = Path(__file__).parents[2] / "shared/data"
SIZES = {"words": None, "unigram": 200, "bpe": 200, "char": None}
LITERALS = [f"<{name}>" for name in SPECIALS] + [
    "<s>",
    "</s>",
    "[MASK]",
    "[PAD]",
    "▅mask",
    "<0x41>",
]


def captions(n=150):
    """Captions of the built-in world, English and Chinese in turn."""
    rng = np.random.default_rng(0)
    return [caption(scene, ("en", "zh")[i % 2], rng) for i, (scene, _) in enumerate(draws(n))]


TEXTS = captions() + ["Two young, White males are outside near many bushes.", *LITERALS]


@pytest.fixture(scope="module")
def trained():
    """A tokenizer of every kind, English and Chinese in one."""
    return {kind: train(kind, TEXTS, SIZES[kind]) for kind in KINDS}


def random_texts(n, alphabet, length=12, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(alphabet, k=rng.randrange(length))) for _ in range(n)]


RANGES = ((0, 0x250), (0x300, 0x310), (0x2000, 0x2070), (0x3000, 0x3020), (0x4E00, 0x4E20))
ODD = (0x2581, 0x2585, 0xD800, 0xDFFF, 0xFE0F, 0xFFFD, 0x1F600, 0x20000)
ANY = [chr(code) for code in (*ODD, *(code for ends in RANGES for code in range(*ends)))]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_back(trained, kind):
    tokenizer = trained[kind]
    for text in TEXTS[:151]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= id < tokenizer.size for id in ids)


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
def test_pieces_keep_white_space_and_any_order_of_known_characters(trained, kind):
    alphabet = sorted(set("".join(TEXTS)) - {"▅"})
    for text in ["  a  red cross ", " ", "", *random_texts(500, alphabet)]:
        assert trained[kind].decode(trained[kind].encode(text)) == text


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
def test_with_byte_fallback_every_text_comes_back(kind):
    tokenizer = train(kind, TEXTS, {"char": None}.get(kind, 450), byte_fallback=True)
    for text in random_texts(500, ANY):
        expected = clean(text).replace("▁", " ")  # documented: SentencePiece's own space
        assert tokenizer.decode(tokenizer.encode(text)) == expected
        assert tokenizer.special("unk") not in tokenizer.encode(text)


@pytest.mark.parametrize(
    "text",
    [
        "The girls' soccer team (8) said \"hello\" - it's 10:30 p.m.",
        "rock 'n' roll, and/or R&B: 'yes!' she said...",
        "$5, 10,000 t-shirts; 5% off -- a man’s “best” [one] #1",
        "他说：“红色的圆形，在左上角！”（对吗？）",
        "一个T恤在iPhone旁边。",
        "cafe\u0301 नमस्ते 안녕 ёлка 👍🏽",
    ],
)
def test_words_restore_normal_spacing(text):
    tokens = words.split(text)
    assert words.join(tokens) == text
    assert words.split("  " + text.replace(" ", " \t ") + "\u3000") == tokens
    tokenizer = train("words", [text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_words_decode_they_read_again_as_the_same_words():
    for text in random_texts(20_000, "ab1 '\"’‘“”.,:-()[]红。$#/&@%…\u3000_é\u0301"):
        tokens = words.split(text)
        assert words.split(words.join(tokens)) == tokens, text
        assert "".join(tokens) == "".join(text.split())


def test_words_of_pretokenised_text_lose_their_spaces():
    """Documented: spacing is the normal one, not the text's."""
    assert words.join(words.split("a man , in a yard .")) == "a man, in a yard."
    assert words.split("红 色 big圆") == ["红", "色", "big", "圆"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_is_encoded_and_the_unknown_is_unk(trained, kind):
    tokenizer = trained[kind]
    for text in random_texts(500, ANY, seed=1):
        ids = tokenizer.encode(text)
        assert all(type(id) is int and 0 <= id < tokenizer.size for id in ids)
        tokenizer.decode(ids)
    assert tokenizer.special("unk") in tokenizer.encode("ξ")
    assert tokenizer.decode(tokenizer.encode("ξ")).strip() == ""


def met(tokenizer, text):
    """The special tokens but `unk` that a text is encoded to."""
    ids = tokenizer.encode(text)
    return [name for name in SPECIALS if name != "unk" and tokenizer.special(name) in ids]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_five_silent_and_never_in_a_text(trained, kind):
    tokenizer = trained[kind]
    ids = [tokenizer.special(name) for name in SPECIALS]
    assert len(set(ids)) == 5 and max(ids) < tokenizer.size
    assert [tokenizer.token(id) for id in ids] == [f"<{name}>" for name in SPECIALS]
    text = tokenizer.encode("a red cross")
    assert (
        tokenizer.decode([ids[2], *text, ids[3], ids[0], ids[0], ids[4], ids[1]]) == "a red cross"
    )
    for literal in LITERALS:
        for text in (literal, f"a {literal} cross", literal * 3):
            assert not met(tokenizer, text)
            found = tokenizer.encode(text)
            assert "▅" in text or tokenizer.special("unk") not in found, (
                "its letters were trained on"
            )
            if kind != "words" and "▅" not in text:
                assert tokenizer.decode(found) == text


def test_words_by_count_then_alphabet():
    texts = ["b a c a", "d b a", "c"]
    names = lambda t: [t.token(id) for id in range(len(SPECIALS), t.size)]  # noqa: E731
    assert names(train("words", texts)) == ["a", "b", "c", "d"]
    assert names(train("words", texts, 7)) == ["a", "b"]
    assert names(train("words", texts, min_count=2)) == ["a", "b", "c"]
    assert train("words", texts).contents.data == b"a\t3\nb\t2\nc\t2\nd\t1\n"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_and_options_give_the_same_files(trained, kind, tmp_path):
    again = train(kind, iter(TEXTS), SIZES[kind])
    for name, tokenizer in {"one": trained[kind], "two": again}.items():
        tokenizer.save(tmp_path / name)
    for name in (ABOUT, FILES[kind]):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    loaded = load(tmp_path / "one")
    assert loaded.hash == again.hash and loaded.size == again.size and loaded.kind == kind
    assert [loaded.encode(text) for text in TEXTS] == [again.encode(text) for text in TEXTS]
    loaded.save(tmp_path / "three")
    assert load(tmp_path / "three").hash == again.hash


def test_whatever_matters_changes_the_hash():
    hashes = [
        train("words", TEXTS).hash,
        train("words", [*TEXTS, "new"]).hash,
        train("words", TEXTS, 20).hash,
        train("words", TEXTS, min_count=2).hash,
        train("bpe", TEXTS, 200).hash,
        train("bpe", TEXTS, 201).hash,
        train("unigram", TEXTS, 200).hash,
        train("char", TEXTS).hash,
        train("char", TEXTS, coverage=0.99).hash,
        train("char", TEXTS, byte_fallback=True).hash,
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_file_is_refused(trained, kind, tmp_path):
    trained[kind].save(tmp_path / "whole")
    for name in (ABOUT, FILES[kind]):
        whole = (tmp_path / "whole" / name).read_bytes()
        rng = random.Random(0)
        flipped = []
        for place in rng.sample(range(len(whole) - 1), 40):
            flipped.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        for data in (
            b"",
            whole[:-9],
            whole[: len(whole) // 2],
            b"\xff" + whole,
            b"[" * 9999,
            *flipped,
        ):
            (tmp_path / "whole" / name).write_bytes(data)
            with pytest.raises(BadCheckpointError) as error:
                load(tmp_path / "whole")
            assert "\n" not in str(error.value) and "whole" in str(error.value)
        (tmp_path / "whole" / name).unlink()
        with pytest.raises(GentoolError) as error:
            load(tmp_path / "whole")
        assert isinstance(error.value, NotFoundError if name != ABOUT else BadCheckpointError)
        (tmp_path / "whole" / name).write_bytes(whole)
    assert load(tmp_path / "whole").hash == trained[kind].hash


def test_a_large_model_is_read_as_it_was_written(tmp_path):
    contents = Contents("vq", 16, {}, {}, bytes(2**28 + 1))
    (tmp_path / ABOUT).write_text(json.dumps({**contents._about(), "sha256": contents.hash}))
    with (tmp_path / FILES["vq"]).open("wb") as file:
        file.truncate(len(contents.data))  # takes no room on the disk
    assert Contents.read(tmp_path).hash == contents.hash


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_lies_consistently_is_refused_too(trained, kind, tmp_path):
    """Its hashes are right; the vocabulary is not what it says."""
    from dataclasses import replace

    contents = trained[kind].contents
    shuffled = dict(zip(SPECIALS, (4, 3, 2, 1, 0), strict=True))
    lies = [
        {"size": contents.size + 1},
        {"data": b"a\t1\na\t2\n" + b"x\n" * (contents.size - 7)},
        {"data": b"\n"},
        {"specials": shuffled},
        {"specials": {**contents.specials, "pad": contents.size}},
        {"specials": {**contents.specials, "pad": contents.specials["unk"]}},
        {"specials": {**contents.specials, "cls": 7}},
    ]
    for number, lie in enumerate(lies):
        replace(contents, **lie).write(tmp_path / str(number))
        with pytest.raises(BadCheckpointError):
            load(tmp_path / str(number))


def test_newer_foreign_and_missing_folders(trained, tmp_path):
    trained["words"].save(tmp_path / "newer")
    about = json.loads((tmp_path / "newer" / ABOUT).read_text())
    (tmp_path / "newer" / ABOUT).write_text(json.dumps({**about, "format_version": 2}))
    with pytest.raises(BadCheckpointError, match="format 2; this gentool reads format 1"):
        load(tmp_path / "newer")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadCheckpointError, match="not a tokenizer of gentool"):
        load(tmp_path / "foreign")
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        with pytest.raises(NotFoundError, match=name):
            load(tmp_path / name)
    with pytest.raises(UsageError, match="already exists"):  # never over something else
        trained["words"].save(tmp_path / "newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "foreign", "newer"]


@pytest.mark.parametrize(
    "arguments, options, error, words_of_it",
    [
        (("bpe", TEXTS, 10**6), {}, UsageError, "at most [0-9]+ for these texts"),
        (("unigram", TEXTS, 10**6), {}, UsageError, "at most [0-9]+ for these texts"),
        (("unigram", TEXTS, 20), {}, UsageError, "at least [0-9]+ for all characters"),
        (("bpe", TEXTS), {}, UsageError, "needs a size"),
        (("char", TEXTS, 5), {}, UsageError, "size 5"),
        (("words", TEXTS, 10**10), {}, UsageError, "size 10000000000"),
        (("words", TEXTS), {"min_count": 10**6}, UsageError, "no word occurs 1000000 times"),
        (("char", TEXTS), {"coverage": 0.0}, UsageError, "coverage"),
        (("wrods", TEXTS), {}, UsageError, "wrods"),
        (("huggingface", TEXTS), {}, UsageError, "not trained here"),
        *(((kind, [], 99), {}, BadDataError, "no text") for kind in KINDS),
        *(((kind, ["", " \t"], 99), {}, BadDataError, "no text") for kind in KINDS),
    ],
)
def test_what_cannot_be_trained(arguments, options, error, words_of_it):
    with pytest.raises(error, match=words_of_it):
        train(*arguments, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_texts_arrives_as_it_is(kind):
    def texts():
        yield "a b"
        raise BadDataError("x.txt line 2 is not UTF-8")

    with pytest.raises(BadDataError, match="x.txt line 2"):
        train(kind, texts(), 50)


def test_sizes_that_messages_name_are_possible():
    for kind in ("bpe", "unigram"):
        with pytest.raises(UsageError) as error:
            train(kind, TEXTS, 10**6)
        most = int(str(error.value).split("at most ")[1].split()[0])
        assert train(kind, TEXTS, most).size == most


def test_a_long_line_is_trained_on():
    assert train("char", ["a" * 10**5, "bc " * 10**4]).size == len(SPECIALS) + 4


def test_a_recipe_trains_or_names_its_tokenizer(trained, tmp_path):
    assert make(TokenizerConfig(min_count=1), lambda side: TEXTS).hash == trained["words"].hash
    assert make(TokenizerConfig("bpe", size=200), lambda side: TEXTS).hash == trained["bpe"].hash
    trained["bpe"].save(tmp_path / "bpe")
    named = TokenizerConfig("bpe", name=str(tmp_path / "bpe"))
    assert make(named, lambda side: []).hash == trained["bpe"].hash
    with pytest.raises(UsageError, match="is of kind bpe, not words"):
        make(TokenizerConfig("words", name=str(tmp_path / "bpe")), lambda side: [])
    with pytest.raises(NotFoundError):
        make(TokenizerConfig("words", name=str(tmp_path / "absent")), lambda side: [])


@pytest.mark.parametrize("name", ["captions/valid.txt", "multi30k/val.en", "multi30k/val.de"])
def test_sentences_of_people_come_back(name):
    if not (DATA / name).is_file():
        pytest.skip("the shared data are not here")
    lines = (DATA / name).read_text(encoding="utf-8").split("\n")[:1000]
    for kind, size in {"words": None, "bpe": 1000, "char": None}.items():
        tokenizer = train(kind, lines, size)
        back = [tokenizer.decode(tokenizer.encode(line)) for line in lines]
        if kind != "words":
            assert back == lines
        elif name.endswith(("en", "de")):
            same = sum(a == b for a, b in zip(back, lines, strict=True))
            assert same > 0.97 * len(lines)  # the rest has spacing of its own
        assert [tokenizer.encode(line) for line in back] == [
            tokenizer.encode(line) for line in lines
        ]


def test_loading_words_and_pieces_imports_neither_torch_nor_transformers(trained, tmp_path):
    for kind in ("words", "unigram"):
        trained[kind].save(tmp_path / kind)
    code = (
        "import sys; from pathlib import Path; from gentool.tokenizers import load; "
        "from gentool.checkpoint.tokenizer import find_tokenizer; "
        "[load(Path(p)).decode(find_tokenizer(p).encode('a cross')) for p in sys.argv[1:]]; "
        "print([m for m in ('transformers', 'tokenizers', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "words", tmp_path / "unigram"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_without_a_network_a_name_on_the_hub_is_the_machine_refusing(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError, match="nobody/nothing"):
        pretrained("nobody/nothing")
