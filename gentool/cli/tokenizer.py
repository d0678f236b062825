"""`gentool tokenizer train`; what uses a tokenizer is in tokenize.py."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.checkpoint.atomic import check_new_folder
from gentool.cli import options, tokenize, tokenize_pictures
from gentool.cli.commands import add_command
from gentool.cli.console import console
from gentool.cli.help import group
from gentool.cli.options import count, value
from gentool.cli.values import data_tree
from gentool.errors import BadDataError, UsageError
from gentool.settings import build

app = group("Train tokenizers and use them: text to numbers and back.")

SCENES = 10_000  # captions of the endless scenes


def train(
    kind: Annotated[
        str,
        value("words|unigram|bpe|char|vq", "Words, or pieces by SentencePiece; vq: of pictures."),
    ],
    data: Annotated[
        list[str],
        value(
            "SPEC",
            "Texts: scenes, FILE.txt|csv|tsv|jsonl, - (lines) or hf:NAME; for vq as for "
            "`gentool train vq`; repeatable.",
        ),
    ],
    out: Annotated[Path, value("DIR", "The new folder.", "--out", "-o")],
    size: Annotated[
        int | None,
        value(
            "N",
            "Size of the vocabulary; words and char: at most. (default: all there is; vq: 2048)",
        ),
    ] = None,
    min_count: Annotated[
        int, value("N", "Words seen less often are unknown.", min=1, show_default=True)
    ] = 1,
    coverage: Annotated[
        float,
        value("X", "Share of all characters to cover, 0.98 to 1; not of words.", show_default=True),
    ] = 1.0,
    byte_fallback: Annotated[
        bool, typer.Option("--byte-fallback", metavar=" ", help="Bytes for what is not covered.")
    ] = False,
    language: Annotated[
        str, value("en|zh|both", "Of the captions of scenes.", show_default=True)
    ] = "en",
    num: Annotated[
        int | None,
        count("The first N texts. (default: all; 10000 of scenes)"),
    ] = None,
    assign: Annotated[
        list[str] | None,
        value(
            "KEY=VALUE",
            "A data setting, e.g. text_column=title; for vq any of a recipe; repeatable.",
            "--set",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Train a tokenizer.

    \b
    gentool tokenizer train --kind words --data all.txt --min-count 11 -o words
    gentool tokenizer train --kind bpe --data all.txt --size 8000 -o pieces
    gentool tokenizer train --kind char --data scenes --language both -o chars
    gentool tokenizer train --kind vq --data scenes -o pictures

    Of vq DIR is a run, as `gentool train vq` makes it, which can be resumed.
    """
    from gentool import tokenizers

    check_new_folder(out)
    if kind == "vq":
        if num or byte_fallback or (min_count, coverage, language) != (1, 1.0, "en"):
            raise UsageError("--kind vq takes --data, --size and --set; the rest is for texts")
        tokenize_pictures.train(data, out, size, assign or [])
        return _tell(tokenize.find(str(out)), out, as_json)
    if kind not in tokenizers.KINDS:
        tokenizers.train(kind, [])  # raises, before data are looked at
    if kind == "words" and (byte_fallback or coverage != 1.0):
        raise UsageError(
            "--coverage and --byte-fallback are not for words", "--min-count N drops rare ones"
        )
    if kind != "words" and min_count != 1:
        raise UsageError(
            f"--min-count is for words, not {kind}", "--coverage X drops rare characters"
        )
    tree = {"language": language} | data_tree(data, assign)
    if "-" in data and (len(data) > 1 or assign or language != "en"):
        raise UsageError("--data - is lines of text alone: no --set, --language or other --data")
    tokenizer = tokenizers.train(
        kind, _texts(tree, num), size,
        min_count=min_count, coverage=coverage, byte_fallback=byte_fallback,
    )  # fmt: skip
    tokenizer.save(out)
    _tell(tokenizer, out, as_json)


def _tell(tokenizer: Any, out: Path, as_json: bool) -> None:
    console.info(f"{tokenizer.kind}, {tokenizer.size} tokens, {tokenizer.hash[:16]}")
    if as_json:
        console.record({"path": str(out), **tokenize.facts(tokenizer)})
    else:
        console.result(str(out))


def _texts(tree: dict[str, Any], num: int | None) -> Iterator[str]:
    if tree["spec"] == ["-"]:
        from gentool.streams import stream_lines

        return islice(stream_lines("-"), num)
    from gentool.data.config import TextData
    from gentool.data.text import open_texts

    config = build(TextData, tree)
    source = open_texts(config)
    n = (num or SCENES) if source.size is None else min(num or source.size, source.size)

    def read() -> Iterator[str]:
        for index in range(n):
            try:
                found = source[index]
            except BadDataError as error:
                if config.on_error == "stop":
                    raise
                console.warn(f"left out: {error}")
            else:
                yield from filter(None, (found.source, found.text))  # of pairs, both

    return read()


add_command(app, "train", train)
add_command(app, "encode", tokenize.encode)
add_command(app, "decode", tokenize.decode)
add_command(app, "show", tokenize.show)
add_command(app, "cache", tokenize_pictures.cache)
