"""Captions for networks that draw: tokens, encoders trained along and frozen ones."""

import shutil
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from encoders import KINDS, text_encoder
from tars import record, shard

from gentool.data.config import ImageData
from gentool.data.holdout import train_and_validation, training_texts
from gentool.data.scenes import Scenes, parse_caption
from gentool.errors import BadCheckpointError, BadDataError, NotFoundError, UsageError
from gentool.nn.config import TextConfig
from gentool.nn.text import Captions
from gentool.rng import torch_seed
from gentool.tokenizers import Tokenizer, train
from gentool.tokenizers.config import TokenizerConfig, make

TEXTS = ["a red circle", "a blue square is above a red cross", ""]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train("words", TEXTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: text_encoder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def captions(tokenizer: Tokenizer, length: int = 12, **how) -> Captions:
    return Captions(TextConfig("transformer", length=length, width=16, heads=2, **how), tokenizer)


def frozen(folder: Path) -> Captions:
    config = TextConfig("pretrained", str(folder), length=12, width=16)
    return Captions(config, make(config.tokenizer(TokenizerConfig()), []))


# --- rows


def test_a_row_is_bos_tokens_eos_and_padding(words):
    pad, bos, eos = (words.special(name) for name in ("pad", "bos", "eos"))
    rows = captions(words, 6).rows(["a red circle", TEXTS[1], ""]).tolist()
    assert rows[0] == [bos, *words.encode("a red circle"), eos, pad]
    assert rows[1] == [bos, *words.encode(TEXTS[1])[:4], eos]  # cut, and ended all the same
    assert rows[2] == [bos, eos] + 4 * [pad] == captions(words, 6).null[0].tolist()


# --- the encoder that is trained along


def test_what_is_encoded_depends_on_the_caption_and_not_on_padding(words):
    short, long = captions(words, 11), captions(words, 14)
    with torch_seed("test"):
        encoder = short.encoder().eval()
    with torch_seed("test"):
        longer = long.encoder().eval()
    with torch.no_grad():
        longer.positions[:11] = encoder.positions
        longer.load_state_dict({**encoder.state_dict(), "positions": longer.positions})
        a = encoder(*short.told(short.rows(TEXTS[:2] + [""])))
        b = longer(*long.told(long.rows(TEXTS[:2] + [""])))
    assert a.sequence.shape == (3, 11, 16) and a.pooled.shape == (3, 16)
    assert a.mask.sum(1).tolist() == [5, 10, 2]
    torch.testing.assert_close(a.pooled, b.pooled)
    torch.testing.assert_close(a.sequence[0, :5], b.sequence[0, :5])
    assert (a.pooled[0] - a.pooled[1]).abs().max() > 0.01
    assert (a.pooled[0] - a.pooled[2]).abs().max() > 0.01


def test_a_fresh_encoder_tells_apart_who_is_what(words):
    """In two captions of the same words: what a picture teaches of their order is faint."""
    some = captions(words)
    with torch_seed("test"):
        encoder = some.encoder().eval()
    there, back = ("a red circle is above a blue square", "a blue circle is above a red square")
    with torch.no_grad():
        told = encoder(*some.told(some.rows([there, back])))
        encoder.nearby.weight.zero_()
        bag = encoder(*some.told(some.rows([there, back])))
    circle = 3  # bos, a, red or blue, circle
    apart, hardly = ((e.sequence[0] - e.sequence[1])[circle].norm() for e in (told, bag))
    assert apart > 2 * hardly


def test_gradients_reach_the_tokens_of_the_caption_alone(words):
    some = captions(words)
    encoder = some.encoder()
    encoder(*some.told(some.rows(["a red circle"]))).pooled.square().sum().backward()
    rows = encoder.tokens.weight.grad.abs().sum(1) > 0
    told = {*words.encode("a red circle"), words.special("bos"), words.special("eos")}
    assert {*rows.nonzero().flatten().tolist()} == told


# --- frozen encoders


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_encoder_sees_its_own_tokens(folders, kind):
    some = frozen(folders[kind])
    rows = some.rows(["a red circle", "zebra", ""])
    assert (rows[0] != some.tokenizer.special("pad")).sum() == (4 if kind == "t5" else 5)
    vectors, mask = some.told(rows)
    assert vectors.shape == (3, 12, 16) and not vectors.requires_grad
    # Without padding transformers gives the same.
    ids = rows[:1, : int(mask[0].sum())]
    alone = some.pretrained.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(vectors[0, : ids.shape[1]], alone[0].detach())
    encoder = some.encoder()
    encoded = encoder(vectors, mask)
    assert encoded.sequence.shape == (3, 12, 16) and encoded.pooled.shape == (3, 16)
    assert sum(p.numel() for p in encoder.parameters()) < 1000  # nothing of the frozen one


def test_the_hash_is_of_the_weights(folders, tmp_path):
    first = frozen(folders["clip"]).pretrained.hash
    shutil.copytree(folders["clip"], tmp_path / "copy")
    assert frozen(tmp_path / "copy").pretrained.hash == first
    assert frozen(text_encoder("clip", tmp_path / "other", seed=1)).pretrained.hash != first


def test_an_encoder_that_is_not_there_or_is_none(folders, tmp_path, words):
    with pytest.raises(NotFoundError, match="neither a folder nor on the Hub|tokenizer"):
        frozen(tmp_path / "nowhere")
    long = TextConfig("pretrained", str(folders["clip"]), length=17)
    with pytest.raises(UsageError, match="reads at most 16 tokens"):
        Captions(long, words)
    folder = Path(shutil.copytree(folders["t5"], tmp_path / "t5"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadCheckpointError, match="is no text encoder of transformers"):
        frozen(folder)


@pytest.mark.parametrize("how, words_", [
    ({"encoder": "pretrained"}, "model.text.name"),
    ({"encoder": "transformer", "name": "x"}, "model.text.name"),
    ({"width": 30}, "model.text.heads"),
])  # fmt: skip
def test_settings_that_do_not_fit(how, words_):
    with pytest.raises(UsageError, match=words_):
        TextConfig(**how)


# --- captions of image data


def test_scenes_are_told_in_the_language_asked_for():
    both = [Scenes("train", "both")[i] for i in range(200)]
    chinese = sum("一" in example.caption for example in both)
    assert 70 < chinese < 130 and all(parse_caption(example.caption) for example in both)
    source, held_out = train_and_validation(ImageData(language="zh"))
    assert "一" in source[0].caption and "一" in held_out[0].caption
    assert train_and_validation(ImageData())[0].fingerprint == "scenes-1-train-en"
    with pytest.raises(UsageError, match="data.language"):
        ImageData(("photos/",), language="zh")


def test_a_tokenizer_is_made_from_the_captions_of_the_training_part(tmp_path, monkeypatch):
    monkeypatch.setattr("gentool.data.holdout.ENOUGH", 300)
    tokens = make(TokenizerConfig(min_count=1), partial(training_texts, ImageData(language="both")))
    assert tokens.special("unk") not in tokens.encode(Scenes("test", "both")[3].caption)
    shard(tmp_path / "0.tar", [member for i in range(40) for member in record(f"{i}", i)])
    found = list(training_texts(ImageData((str(tmp_path / "0.tar"),)), "both"))
    held_out = 40 - len(found)
    assert 1 <= held_out <= 3 and set(found) < {f"number {i}" for i in range(40)}


def test_captions_are_read_without_their_pictures(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(3):
        (tmp_path / f"a/{i}.png").write_bytes(b"no picture")
    (tmp_path / "a/metadata.csv").write_text("file_name,text\n0.png,zero\n1.png,one\n2.png,\n")
    columns = {"image": [b"no picture"] * 2, "caption": ["two", None]}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    config = ImageData((f"{tmp_path}/a", f"{tmp_path}/b.parquet"))
    train, held_out = train_and_validation(config)
    captions = ["zero", "one", "", "two", ""]
    assert list(training_texts(config, "both")) == [captions[i] for i in train.indices]
    assert (train.size, held_out.size) == (4, 1)


def test_data_without_captions_have_no_tokenizer(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(BadDataError, match="no text"):
        make(TokenizerConfig(), partial(training_texts, ImageData((str(tmp_path),))))
