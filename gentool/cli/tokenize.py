"""`gentool tokenizer encode` and `decode`, lines in, lines out, as they come; and `show`."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gentool.cli import options, tokenize_pictures
from gentool.cli.console import console
from gentool.cli.options import value
from gentool.cli.pictures import Out
from gentool.errors import BadDataError, UsageError
from gentool.streams import one_line, place, stream_lines

if TYPE_CHECKING:
    from gentool.tokenizers import Tokenizer

Which = Annotated[
    str,
    value(
        "DIR|CKPT",
        "A tokenizer's folder, a checkpoint's, or the name of a shipped checkpoint.",
        *("--tokenizer", "-t"),
        autocompletion=options.checkpoints,
    ),
]
Input = Annotated[
    str,
    typer.Argument(metavar="INPUT|-", help="A file. (default: standard input)", show_default=False),
]


def encode(tokenizer: Which, inputs: Input = "-", as_json: options.Json = False) -> None:
    """Print the ids of each line; for a tokenizer of pictures, of the file that a line names.

    \b
    printf 'a red cross\\n' | gentool tokenizer encode -t words
    gentool tokenizer encode captions.txt -t runs/mine --json
    ls *.png | gentool tokenizer encode -t runs/vq
    """
    found = find(tokenizer)
    for line in stream_lines(inputs):
        if found.kind == "vq":
            ids = tokenize_pictures.encode(found, line)
        else:
            ids = found.encode(line)
        if as_json:
            console.record({"ids": ids, "tokens": [found.token(id) for id in ids]})
        else:
            console.result(" ".join(map(str, ids)))


def decode(
    tokenizer: Which, inputs: Input = "-", out: Out = None, as_json: options.Json = False
) -> None:
    """Print the text of each line of ids; of a tokenizer of pictures, draw them.

    \b
    gentool tokenizer encode captions.txt -t words | gentool tokenizer decode -t words
    ls *.png | gentool tokenizer encode -t runs/vq > ids
    gentool tokenizer decode ids -t runs/vq --out again/
    """
    found = find(tokenizer)
    rows = _rows(inputs, found.size)
    if found.kind == "vq":
        tokenize_pictures.draw(found, list(rows), inputs, out, as_json)
        return
    if out:
        raise UsageError("--out is for tokenizers of pictures; text goes to standard output")
    for ids in rows:
        text = found.decode(ids)
        if as_json:
            console.record({"text": text, "tokens": [found.token(id) for id in ids]})
        else:
            console.result(one_line(text))


def _rows(inputs: str, size: int) -> Iterator[list[int]]:
    for number, line in enumerate(stream_lines(inputs), start=1):
        ids = []
        for word in line.split():
            digits = word.lstrip("0") or "0"
            if not (word.isascii() and word.isdecimal() and int(digits[:12]) < size):
                raise BadDataError(
                    f"{place(inputs)} line {number}: {word[:40]!r} is not an id",
                    f"ids are 0 to {size - 1}, white space between them",
                )
            ids.append(int(digits))
        yield ids


def show(
    tokenizer: Annotated[str, typer.Argument(metavar="DIR|CKPT", help="Folder or checkpoint.")],
    num: Annotated[
        int, value("N", "Tokens to list.", "--num", "-n", min=0, show_default=True)
    ] = 32,
    as_json: options.Json = False,
) -> None:
    """Describe a tokenizer.

    \b
    gentool tokenizer show words
    gentool tokenizer show runs/mine -n 1000 --json
    """
    found = find(tokenizer)
    tokens = [found.token(id) for id in range(min(num, found.size))]
    described = facts(found) | {
        "specials": dict(found.specials),
        "tokens": tokens,
    }
    if as_json:
        console.record(described)
        return
    for name, fact in described.items():
        plain = fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        console.result(f"{name:10} {plain}")


def facts(tokenizer: "Tokenizer") -> dict[str, Any]:
    """What identifies a tokenizer."""
    return {"kind": tokenizer.kind, "size": tokenizer.size, "hash": tokenizer.hash}


def find(name: str) -> Any:
    """The tokenizer that is meant by a folder or a checkpoint."""
    from gentool.checkpoint.tokenizer import find_tokenizer

    found = find_tokenizer(name)
    return getattr(found, "image", found)  # of a model with both, that of pictures
