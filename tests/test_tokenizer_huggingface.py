"""Tokenizers of Hugging Face, made here: what they have is theirs, what they lack is added."""

import json
import random
import subprocess
import sys

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gentool.errors import BadCheckpointError, GentoolError, NotFoundError, UsageError
from gentool.streams import clean
from gentool.tokenizers import SPECIALS, load, pretrained
from gentool.tokenizers.config import PairTokenizerConfig, TokenizerConfig, make
from gentool.tokenizers.folder import ABOUT

TEXTS = ["a red circle is above a small blue square", "一个红色的小圆形在左上角", "</s> mask"] * 9
END, EXTRA = "<|endoftext|>", "<|extra|>"  # EXTRA is special, but none of gentool's


def wordpiece():
    """As BERT: lower case, [CLS] and [SEP] around a text; cut and padded, as some are saved."""
    model = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.normalizer = normalizers.BertNormalizer()
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    model.train_from_iterator(TEXTS, trainer)
    model.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    model.enable_truncation(4)
    model.enable_padding(length=9)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return model, dict(zip(names, special, strict=True))


def bytelevel():
    """As GPT-2: one special token for everything; random merges, as it was trained with."""
    model = tokenizers.Tokenizer(models.BPE(dropout=0.5))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END, EXTRA],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(TEXTS, trainer)
    return model, {f"{name}_token": END for name in ("bos", "eos", "unk", "pad")}


def unigram():
    """As T5: special tokens are ordinary pieces of the model as well."""
    model = tokenizers.Tokenizer(models.Unigram())
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    model.train_from_iterator(TEXTS, trainer)
    return model, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def wordlevel():
    """Words between spaces, of which one is [MASK]; the ids have a gap."""
    vocabulary = {"[MASK]": 0, "a": 1, "[UNK]": 2, "b": 9}
    model = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return model, {"mask_token": "[MASK]"}


MAKERS = (wordpiece, bytelevel, unigram, wordlevel)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders as save_pretrained leaves them."""
    root = tmp_path_factory.mktemp("saved")
    for maker in MAKERS:
        model, named = maker()
        folder = root / maker.__name__
        PreTrainedTokenizerFast(tokenizer_object=model, **named).save_pretrained(folder)
    return root


@pytest.fixture(scope="module", params=[maker.__name__ for maker in MAKERS])
def folder(request, folders):
    return folders / request.param


@pytest.fixture(scope="module")
def found(folder):
    return pretrained(str(folder))


def ids_of(folders, name):
    tokenizer = pretrained(str(folders / name))
    return {special: tokenizer.special(special) for special in SPECIALS}, tokenizer.size


def test_special_tokens_are_its_own_where_it_has_them(folders):
    assert ids_of(folders, "wordpiece")[0] == {"pad": 0, "unk": 1, "bos": 2, "eos": 3, "mask": 4}
    assert ids_of(folders, "bytelevel") == (
        {"eos": 0, "pad": 300, "unk": 301, "bos": 302, "mask": 303}, 304
    )  # fmt: skip
    ids, size = ids_of(folders, "unigram")
    assert (ids["pad"], ids["eos"], ids["unk"]) == (0, 1, 2)
    assert (ids["bos"], ids["mask"], size) == (size - 2, size - 1, size)
    # What the model writes for the unknown is unk, though the folder does not name it.
    assert ids_of(folders, "wordlevel") == (
        {"mask": 0, "unk": 2, "pad": 10, "bos": 11, "eos": 12}, 13
    )  # fmt: skip


def test_texts_come_back_as_far_as_the_tokenizer_allows(folders):
    exact = pretrained(str(folders / "bytelevel"))
    rng = random.Random(0)
    alphabet = [*map(chr, range(0x250)), *"一个红 <>|[]/s▁\ud800😀", END, EXTRA, "[MASK]", "<pad>"]
    for text in ["", *TEXTS[:3], *("".join(rng.choices(alphabet, k=9)) for _ in range(500))]:
        assert exact.decode(exact.encode(text)) == clean(text)
    lower = pretrained(str(folders / "wordpiece"))
    assert lower.decode(lower.encode("A red CIRCLE")) == "a red circle"
    assert len(lower.encode(TEXTS[0])) > 4 and lower.special("bos") not in lower.encode("a")


def test_its_saved_folder_is_enough(folder, found, tmp_path):
    found.save(tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [ABOUT, "tokenizer.json"]
    loaded = load(tmp_path / "kept")
    assert (loaded.kind, loaded.size, loaded.hash) == ("huggingface", found.size, found.hash)
    for text in TEXTS[:3]:
        assert loaded.encode(text) == found.encode(text) == loaded.encode(text)
        tokens = [loaded.token(id) for id in range(loaded.size)]
        assert all(f"<{name}>" == tokens[loaded.special(name)] for name in SPECIALS)


def test_a_special_token_in_a_text_is_text(found):
    known = {found.special(name) for name in SPECIALS} - {found.special("unk")}
    for literal in ("[MASK]", "[PAD]", "[CLS]", "</s>", "<pad>", "<unk>", "[UNK]", END, "<mask>"):
        for text in (literal, f"a {literal} red", literal * 3, f"a{literal}", f"{literal} b"):
            ids = found.encode(text)
            assert not known & {*ids} and all(0 <= id < found.size for id in ids), text
            found.decode(ids)


def test_what_looks_like_a_special_token_keeps_its_letters(folders):
    tokenizer = pretrained(str(folders / "unigram"))  # the model itself has the piece "</s>"
    back = tokenizer.decode(tokenizer.encode("a </s> red </s></s>"))
    assert back.replace(" ", "") == "a</s>red</s></s>"
    exact = pretrained(str(folders / "bytelevel"))
    assert exact.decode(exact.encode(f"a {EXTRA} {END}")) == f"a {EXTRA} {END}"


def test_special_tokens_say_nothing(found):
    ids = [found.special(name) for name in SPECIALS]
    text = found.encode("a")
    assert found.decode([*ids, *text, *ids]).strip() == "a"


def test_a_name_of_two_processes_has_one_hash(folder, found):
    code = (
        "import sys; from gentool.tokenizers import pretrained; print(pretrained(sys.argv[1]).hash)"
    )
    if folder.name == "wordpiece":  # one will do: starting transformers takes seconds
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
        assert done.stdout.strip() == found.hash, done.stderr


def test_loading_it_again_does_not_import_transformers(found, tmp_path):
    found.save(tmp_path / "kept")
    code = (
        "import sys; from pathlib import Path; from gentool.tokenizers import load; "
        "load(Path(sys.argv[1])); print('transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "kept"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


def test_damage_is_refused(folder, found, tmp_path):
    found.save(tmp_path / "kept")
    path = tmp_path / "kept" / "tokenizer.json"
    whole = path.read_bytes()
    for data in (whole[:-5], b"", whole.replace(b"\xe7", b"\xe6", 1) + b" "):
        path.write_bytes(data)
        with pytest.raises(BadCheckpointError, match="kept"):
            load(tmp_path / "kept")
    for lie in (b"{}", b"\xff", json.dumps({"model": {"type": "nonesuch"}}).encode()):
        contents = type(found.contents)("huggingface", found.size, found.contents.specials, {}, lie)
        with pytest.raises(BadCheckpointError, match=r"tokenizer.json"):
            type(found)(contents)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tokenizer.json").write_text("{")
    for name in ("empty", "bad"):
        with pytest.raises(BadCheckpointError, match=name) as error:
            pretrained(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(NotFoundError, match="absent"):
        pretrained(str(tmp_path / "absent"))


def test_code_that_comes_with_it_is_never_run(folders, tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    marker = tmp_path / "executed"
    (folder / "tokenization_evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    config = {
        "tokenizer_class": "Evil",
        "auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="hostile needs code .* never run"):
        pretrained(str(folder))
    assert not marker.exists()


def test_a_recipe_names_it(folders, tmp_path):
    name = str(folders / "bytelevel")
    made = make(TokenizerConfig("huggingface", name=name), lambda side: [])
    made.save(tmp_path / "kept")
    kept = TokenizerConfig("huggingface", name=str(tmp_path / "kept"))
    assert make(kept, lambda side: []).hash == made.hash
    with pytest.raises(UsageError, match="is one vocabulary"):
        make(PairTokenizerConfig("huggingface", name=name, vocabularies="separate"), lambda s: [])
    for other in (name, "bert-base-uncased"):
        with pytest.raises(GentoolError) as error:
            make(TokenizerConfig(name=other), lambda side: [])
        assert "--set tokenizer.kind=huggingface" in error.value.hint
