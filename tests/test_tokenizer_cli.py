"""`gentool tokenizer`, and the tie between a checkpoint and its tokenizer."""

import io
import json
import os
import select
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from gentool.checkpoint.config import RunConfig
from gentool.checkpoint.load import load_checkpoint
from gentool.checkpoint.weights import write_weights
from gentool.errors import BadCheckpointError
from gentool.tokenizers import load, train
from gentool.tokenizers.config import TokenizerConfig

LINES = [
    "a red circle is above a blue square",
    "一个红色的小圆形在左上角",
    "",
    "there is a cross .",
]
TIMEOUT = 120


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def folder(texts, tmp_path_factory):
    """A character tokenizer of the lines."""
    out = tmp_path_factory.mktemp("tokenizer") / "char"
    train("char", LINES).save(out)
    return out


@pytest.fixture
def stdin(monkeypatch):
    """`stdin(data)` is what commands read."""

    def give(data: bytes):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return give


# The command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, size", [("words", None), ("unigram", 36), ("bpe", 60), ("char", None), ("words", 9)]
)
def test_train_show_encode_decode(cli, texts, tmp_path, kind, size):
    out = tmp_path / "made"
    sized = ["--size", size] if size else []
    result = cli("tokenizer", "train", "--kind", kind, "--data", texts, "--out", out, *sized)
    assert result.code == 0 and result.out == f"{out}\n", result.err
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{'0' * 20}5\n5\n")
    padded, plain = cli("tokenizer", "decode", "-t", out, ids).out.splitlines()
    assert padded == plain
    [shown] = cli("tokenizer", "show", out, "--json", "-n", 5).records
    assert shown["kind"] == kind and shown["hash"] == load(out).hash
    assert shown["tokens"] == ["<pad>", "<unk>", "<bos>", "<eos>", "<mask>"]
    assert size is None or shown["size"] == size
    assert shown["hash"] in cli("tokenizer", "show", out).out
    encoded = cli("tokenizer", "encode", texts, "--tokenizer", out)
    assert encoded.code == 0 and encoded.err == ""
    assert encoded.out.splitlines()[2] == "" and len(encoded.out.splitlines()) == 4
    (tmp_path / "ids").write_text(encoded.out)
    decoded = cli("tokenizer", "decode", tmp_path / "ids", "-t", out).out.splitlines()
    expected = [line.replace(" .", ".") if kind == "words" else line for line in LINES]
    if size != 9:
        assert decoded == expected
    records = cli("tokenizer", "encode", texts, "-t", out, "--json").records
    assert [" ".join(map(str, record["ids"])) for record in records] == encoded.out.splitlines()
    assert all(len(record["ids"]) == len(record["tokens"]) for record in records)
    texts_of = cli("tokenizer", "decode", tmp_path / "ids", "-t", out, "--json").records
    assert [record["text"] for record in texts_of] == decoded


def test_the_same_command_twice_makes_the_same_folder(cli, texts, tmp_path):
    for name in ("one", "two"):
        given = ("--kind", "unigram", "--size", 36, "--data", texts, "--out", tmp_path / name)
        assert cli("tokenizer", "train", *given, "-q").err == ""
    for name in os.listdir(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_captions_of_scenes_in_both_languages(cli, tmp_path):
    for language, others in {"en": 1, "zh": 1, "both": 0}.items():
        out = tmp_path / language
        given = ("--kind", "char", "--data", "scenes", "--language", language, "-n", 500)
        assert cli("tokenizer", "train", *given, "--out", out).code == 0
        unk = load(out).special("unk")
        sentences = ("there is a cross", "画着一个红色的大圆形")
        assert sum(unk in load(out).encode(text) for text in sentences) == others


def test_standard_input_and_tables(cli, stdin, folder, tmp_path):
    stdin(b"a\r\na")
    ids = " ".join(map(str, load(folder).encode("a")))
    assert cli("tokenizer", "encode", "-t", folder).out == f"{ids}\n{ids}\n"
    stdin(b"\xef\xbb\xbfone two\r\nthree\n")
    given = ("--kind", "words", "--data", "-")
    assert cli("tokenizer", "train", *given, "--out", tmp_path / "a").code == 0
    assert list(load(tmp_path / "a").counts) == ["one", "three", "two"]
    (tmp_path / "t.csv").write_text("title,other\none two,x\nthree,y\n")
    given = ("--kind", "words", "--data", tmp_path / "t.csv", "--set", "text_column=title")
    assert cli("tokenizer", "train", *given, "--out", tmp_path / "b").code == 0
    assert load(tmp_path / "a").hash == load(tmp_path / "b").hash
    (tmp_path / "x.en").write_text("one\nbad\n")
    (tmp_path / "x.de").write_bytes(b"eins\n\xff\n")
    given = ("--kind", "words", "--data", f"{tmp_path}/x.en,{tmp_path}/x.de")
    assert cli("tokenizer", "train", *given, "--out", tmp_path / "c").code == 4
    result = cli("tokenizer", "train", *given, "--out", tmp_path / "c", "--set", "on_error=skip")
    assert result.code == 0 and "left out: x.de line 2" in result.err, result.err
    assert list(load(tmp_path / "c").counts) == ["eins", "one"]  # both sides of a pair
    stdin(b"one\nthree four\n")
    assert cli("tokenizer", "encode", "-t", tmp_path / "a").out == "5\n6 1\n"


def test_what_is_wrong_has_its_code_and_says_what_to_do(
    cli, stdin, texts, folder, tmp_path, tiny_run
):
    new, foreign = tmp_path / "new", tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "tokenizer.json").write_text("{}")
    (tmp_path / "bad.txt").write_bytes(b"good\n\xff\n")
    (tmp_path / "empty.txt").write_bytes(b"\n")
    make = ["tokenizer", "train", "--out", new, "--kind"]
    for arguments, code, *said in [
        ([*make, "huggingface", "--data", "scenes"], 2, "recipe"),
        ([*make, "unigrm", "--data", "scenes"], 2, "unigrm", "did you mean 'unigram'"),
        ([*make, "bpe", "--data", texts], 2, "size"),
        ([*make, "bpe", "--data", texts, "--size", 5000], 2, "5000", "at most"),
        ([*make, "bpe", "--data", texts, "--size", 6], 2, "at least"),
        ([*make, "bpe", "--data", texts, "--size", 2], 2, "2"),
        ([*make, "char", "--data", "scenes", "--language", "fr"], 2, "fr"),
        ([*make, "char", "--data", texts, "--set", "text_colum=x"], 2, "text_column"),
        ([*make, "words", "--data", texts, "--min-count", 99], 2, "99"),
        ([*make, "words", "--data", texts, "--byte-fallback"], 2, "--byte-fallback"),
        ([*make, "words", "--data", texts, "--coverage", 0.999], 2, "--coverage"),
        ([*make, "char", "--data", texts, "--min-count", 2], 2, "--min-count is for words"),
        ([*make, "words", "--data", tmp_path / "no.txt"], 3, "no.txt"),
        ([*make, "words", "--data", tmp_path / "bad.txt"], 4, "bad.txt", "line 2"),
        ([*make, "words", "--data", tmp_path / "empty.txt"], 4, "empty.txt"),
        (["tokenizer", "train", "--kind", "char", "--data", texts, "--out", folder], 2, "exists"),
        (["tokenizer", "show", tmp_path / "no"], 3, "no tokenizer folder"),
        (["tokenizer", "show", foreign], 4, "not a tokenizer of gentool"),
        (["tokenizer", "show", tiny_run], 4, "ddpm"),
        (["tokenizer", "encode", tmp_path / "no.txt", "-t", folder], 3, "no.txt"),
        (["tokenizer", "encode", tmp_path / "bad.txt", "-t", folder], 4, "bad.txt line 2"),
        (["tokenizer", "encode", texts], 2, "--tokenizer"),
    ]:
        result = cli(*arguments)
        assert result.code == code, (arguments, result.err)
        assert all(word in result.err for word in said), (arguments, result.err)
        assert 1 <= len(result.err.splitlines()) <= 2 and "bug" not in result.err
        assert not new.exists()
    bad_ids = {
        b"1 2\nx\n": "line 2: 'x'",
        b"99999": "99999",
        b"-1": "'-1'",
        b"1.5": "1.5",
        b"1" * 5000: "1111",
        "²".encode(): "²",
        b"\n\xff": "line 2",
    }
    for data, word in bad_ids.items():
        stdin(data)
        result = cli("tokenizer", "decode", "-t", folder)
        assert result.code == 4 and word in result.err and len(result.err.splitlines()) <= 2


def gentool(*arguments, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "gentool", *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def test_a_line_is_answered_before_the_next_comes_and_a_reader_may_leave(folder):
    process = gentool("tokenizer", "encode", "-t", folder)
    for _ in range(3):
        process.stdin.write(b"a red cross\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], TIMEOUT)[0], "lines are held back"
        assert process.stdout.readline().split()
    process.stdout.close()
    try:
        while True:  # as `yes` does, until it is told
            process.stdin.write(b"a\n" * 1000)
            process.stdin.flush()
    except BrokenPipeError:
        pass
    assert process.wait(TIMEOUT) == 141 and process.stderr.read() == b""
    process.stderr.close()
    with pytest.raises(BrokenPipeError):
        process.stdin.close()


# The tie to a checkpoint -----------------------------------------------------------------------


@pytest.fixture
def checkpoint(folder, tmp_path):
    """A checkpoint with tokens, as the training loop leaves it."""
    run = tmp_path / "run"
    shutil.copytree(folder, run / "tokenizer")
    config = {"model": {"width": 3}, "sample": {}, "tokenizer": {"kind": "char"}}
    RunConfig("written", "tiny", config, {"size": None}).write(run)
    tensors = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    write_weights(run, tensors, 7, config, load(folder).hash)
    return run


@dataclass
class Config:
    model: dict = field(default_factory=dict)
    sample: dict = field(default_factory=dict)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)


@pytest.fixture
def written(monkeypatch):
    """A backend that is called "written"."""

    class Backend:
        captions = None

        def __init__(self, config, tokenizer):
            self.tokenizer = tokenizer

        def network(self):
            return torch.nn.Linear(3, 2)

    from gentool.checkpoint import load as module

    monkeypatch.setattr(module, "backend_class", lambda name: Backend)
    monkeypatch.setattr(module, "options_module", lambda name: SimpleNamespace(Config=Config))
    monkeypatch.setattr(module, "build", lambda config_class, tree: config_class())


def test_a_checkpoint_brings_its_tokenizer(cli, checkpoint, folder, written):
    loaded = load_checkpoint(checkpoint, "written")
    expected = load(folder)
    assert loaded.tokenizer.hash == expected.hash
    assert loaded.backend.tokenizer is loaded.tokenizer
    [inspected] = cli("inspect", checkpoint, "--json").records
    facts = {"kind": "char", "size": expected.size, "hash": expected.hash}
    assert inspected["tokenizer"] == facts
    assert expected.hash in cli("inspect", checkpoint).out
    [shown] = cli("tokenizer", "show", checkpoint, "--json").records
    assert facts.items() <= shown.items()


def remove(run):
    shutil.rmtree(run / "tokenizer")


def lose_a_file(run):
    (run / "tokenizer" / "sentencepiece.model").unlink()


def change(run):
    path = run / "tokenizer" / "gentool.json"
    path.write_text(path.read_text().replace('"size"', '"sise"'))


def exchange(run):
    remove(run)
    train("char", [*LINES, "ß"]).save(run / "tokenizer")


@pytest.mark.parametrize("what", [remove, lose_a_file, change, exchange])
def test_a_missing_changed_or_exchanged_tokenizer_is_exit_4(cli, checkpoint, written, what):
    what(checkpoint)
    for command in ("inspect", "tokenizer show"):
        result = cli(*command.split(), checkpoint)
        assert result.code == 4 and result.out == "", result.err
        assert "tokenizer" in result.err and len(result.err.splitlines()) <= 2
    with pytest.raises(BadCheckpointError, match="tokenizer"):
        load_checkpoint(checkpoint, "written")


def test_a_tokenizer_where_none_belongs_is_refused(cli, tiny_run, folder, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "copy")
    assert "tokenizer" not in cli("inspect", run, "--json").records[0]
    shutil.copytree(folder, run / "tokenizer")
    result = cli("sample", "ddpm", "-c", run, "--out", tmp_path / "x.png")
    assert result.code == 4 and "tokenizer does not belong here" in result.err


@pytest.mark.parametrize("knows", ["config", "weights"])
def test_config_and_weights_must_agree_that_there_are_tokens(checkpoint, folder, written, knows):
    tree = json.loads((checkpoint / "config.json").read_text())
    if knows == "weights":
        del tree["config"]["tokenizer"]
        (checkpoint / "config.json").write_text(json.dumps(tree))
    else:
        write_weights(checkpoint, {"weight": torch.ones(2, 3)}, 7, tree["config"])
        remove(checkpoint)
    with pytest.raises(BadCheckpointError, match="only one of"):
        load_checkpoint(checkpoint, "written")


def test_weights_without_tokens_are_written_as_before(tmp_path):
    config = {"model": {}}
    write_weights(tmp_path, {"w": torch.ones(2)}, 0, config)
    data = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert header["tokenizer_sha256"] == "none"
    assert sorted(header) == [
        "format",
        "model_sha256",
        "step",
        "tensors_sha256",
        "tokenizer_sha256",
    ]


@pytest.mark.parametrize("name, value", [("DEVICE", "nosuch"), ("SEED", "²")])
def test_the_environment_counts_for_tokens_of_pictures_too(cli, monkeypatch, tmp_path, name, value):
    monkeypatch.setenv(f"GENTOOL_{name}", value)
    result = cli("tokenizer", "train", "--kind", "vq", "--data", "scenes", "-o", tmp_path / "t")
    assert result.code == 2 and value in result.err and not (tmp_path / "t").exists()
