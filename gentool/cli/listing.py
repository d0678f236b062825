"""`gentool list`: what there is to choose from."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.console import console
from gentool.errors import UsageError, nearest
from gentool.registry import BACKENDS, HELPERS, about, draws, options_module
from gentool.resources import read_recipe, shipped


def list_things(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="One only: backends, helpers, recipes, checkpoints, samplers or data.",
            show_default=False,
            autocompletion=options.starting_with(lambda: list(_KINDS)),
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Print this recipe.",
            show_default=False,
            autocompletion=options.recipes,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """What there is: backends, what else can be trained, recipes, checkpoints, samplers, data.

    \b
    gentool list
    gentool list recipes --json
    gentool list recipes ddpm-photos > mine.toml
    """
    if name is not None:
        _print_recipe(what, name, as_json)
        return
    if what is not None and what not in _KINDS:
        raise UsageError(f"nothing called {what!r} to list", nearest(what, _KINDS))
    for kind in [what] if what else _KINDS:
        if not as_json and not what:
            console.result(kind)
        for name, text in _KINDS[kind]().items():
            if as_json:
                console.record({"kind": kind, "name": name, "about": text})
            else:
                console.result(f"  {name:28} {text}" if not what else f"{name:28} {text}")


def _print_recipe(what: str | None, name: str, as_json: bool) -> None:
    """The file, comments and all, to be read or changed; under --json its values."""
    if what != "recipes":
        raise UsageError(f"no {what} to print: only recipes are", "gentool list recipes NAME")
    _, tree = read_recipe(name)
    if as_json:
        console.record({"recipe": name, **tree})
    else:
        path = shipped("recipes").get(name, Path(name))
        console.result(path.read_text(encoding="utf-8").rstrip("\n"))


def _about(names: Iterable[str]) -> dict[str, str]:
    return {name: about(name) for name in names}


def _recipes() -> dict[str, str]:
    return {name: _first_comment(path) for name, path in shipped("recipes").items()}


def _first_comment(path: Any) -> str:
    return str(path.read_text(encoding="utf-8").splitlines()[0]).removeprefix("# ")


def _checkpoints() -> dict[str, str]:
    from gentool.checkpoint.config import read_config

    configs = {name: read_config(path) for name, path in shipped("checkpoints").items()}
    return {name: f"{config.backend}, recipe {config.recipe}" for name, config in configs.items()}


def _samplers() -> dict[str, str]:
    users: dict[str, list[str]] = {}
    for name in filter(draws, BACKENDS):
        for field in options_module(name).SampleConfig.__dataclass_fields__.values():
            for choice in field.metadata["choices"] if field.name == "sampler" else ():
                users.setdefault(choice, []).append(name)
    return {
        choice: f"gentool sample {'|'.join(names)} --sampler {choice}"
        for choice, names in users.items()
    }


def _data() -> dict[str, str]:
    return {
        "scenes": "the built-in world: endless captioned pictures, 32 × 32",
        "DIR": "a folder of images; sub-folders are classes",
        "FILE.parquet": "a table with an image column; also a quoted pattern",
        "FILE.txt": "a text on each line; also .csv, .tsv and .jsonl with a column of texts",
        "SOURCE,TARGET": "pairs of texts: two files of parallel lines",
        "'shard-{00..99}.tar'": "WebDataset shards: KEY.png or .jpg, KEY.txt, KEY.json; streamed",
        "hf:NAME": "a data set of the Hugging Face Hub; also hf:NAME:SPLIT, hf:FOLDER; streamed",
    }


_KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "backends": lambda: _about(BACKENDS),
    "helpers": lambda: _about(HELPERS),
    "recipes": _recipes,
    "checkpoints": _checkpoints,
    "samplers": _samplers,
    "data": _data,
}
