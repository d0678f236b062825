"""`gentool tokenizer encode` and `decode`, lines in, lines out, as they come; `show`; and how
those of pictures are trained."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.options import value
from gentool.errors import BadDataError
from gentool.resources import read_recipe, shipped
from gentool.settings import merge, parse_assignment
from gentool.streams import place, stream_lines

if TYPE_CHECKING:
    from gentool.tokenizers import Tokenizer

Which = Annotated[
    str,
    value(
        "DIR|CKPT",
        "A tokenizer's folder, a checkpoint's, or the name of a shipped checkpoint.",
        *("--tokenizer", "-t"),
        autocompletion=options.starting_with(lambda: list(shipped("checkpoints"))),
    ),
]
Input = Annotated[
    str,
    typer.Argument(metavar="INPUT|-", help="A file. (default: standard input)", show_default=False),
]


def encode(tokenizer: Which, inputs: Input = "-", as_json: options.Json = False) -> None:
    """Print the ids of each line.

    \b
    printf 'a red cross\\n' | gentool tokenizer encode -t words
    gentool tokenizer encode captions.txt -t runs/mine --json
    """
    found = find(tokenizer)
    for line in stream_lines(inputs):
        ids = found.encode(line)
        if as_json:
            console.record({"ids": ids, "tokens": [found.token(id) for id in ids]})
        else:
            console.result(" ".join(map(str, ids)))


def decode(tokenizer: Which, inputs: Input = "-", as_json: options.Json = False) -> None:
    """Print the text of each line of ids.

    \b
    gentool tokenizer encode captions.txt -t words | gentool tokenizer decode -t words
    """
    found = find(tokenizer)
    for number, line in enumerate(stream_lines(inputs), start=1):
        ids = []
        for word in line.split():
            if not (word.isascii() and word.isdecimal() and int(word[:12]) < found.size):
                raise BadDataError(
                    f"{place(inputs)} line {number}: {word[:40]!r} is not an id",
                    f"ids are 0 to {found.size - 1}, white space between them",
                )
            ids.append(int(word))
        text = found.decode(ids)
        if as_json:
            console.record({"text": text, "tokens": [found.token(id) for id in ids]})
        else:
            console.result(" ".join(text.split("\n")))  # a line stays a line


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


def train_vq(data: list[str], out: Path, size: int | None, assign: list[str]) -> None:
    """`gentool tokenizer train --kind vq`: the run that `gentool train vq` makes."""
    from gentool.training import start

    given: dict[str, Any] = {"data": {"spec": data}}
    for text in assign:
        given = merge(given, parse_assignment(text))
    if size:
        given = merge(given, {"model": {"codes": size}})
    name, tree = read_recipe("vq-scenes")
    del tree["backend"]
    plan = start.Plan("vq", name, tree, given, recipe_given=False, out=out)
    start.train(plan, "auto", None, None, console)


def facts(tokenizer: "Tokenizer") -> dict[str, Any]:
    """What identifies a tokenizer."""
    return {"kind": tokenizer.kind, "size": tokenizer.size, "hash": tokenizer.hash}


def find(name: str) -> "Tokenizer":
    """The tokenizer that is meant by a folder or a checkpoint."""
    from gentool.checkpoint.tokenizer import find_tokenizer

    return find_tokenizer(name)
