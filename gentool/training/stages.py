"""Models of picture tokens train in two stages: first the tokenizer, into the run's folder `vq/`.

Until the second stage begins, the run's folder holds that and `next/config.json`, which says what
the second one will be. A run in `vq/` is continued like any other.
"""

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from gentool.checkpoint.atomic import create_folder, sync
from gentool.checkpoint.config import RunConfig, is_run, read_config
from gentool.checkpoint.state import reached
from gentool.checkpoint.tokenizer import find_tokenizer
from gentool.data.config import ImageData
from gentool.errors import UsageError
from gentool.registry import backend_class, options_module
from gentool.resources import read_recipe
from gentool.settings import Tree, build, merge, to_tree
from gentool.training.run import FIRST, NEXT


def begin(out: Path, second: RunConfig, resumed: bool, overwrite: bool) -> None:
    """Note in `out` what its second stage will be; where it is not resumed, in a new folder, which
    replaces what is there if `overwrite`. Raises as `create_folder`."""

    def fill(folder: Path) -> None:
        (folder / NEXT).mkdir()
        second.write(folder / NEXT)

    if resumed:
        second.write(out / NEXT)
    else:
        create_folder(out, fill, over=overwrite)


def begun(out: Path) -> RunConfig | None:
    """What the second stage in `out` will be, where there is a first one alone."""
    return read_config(out / NEXT) if is_run(out / NEXT) else None


def keep(out: Path, folder: Path) -> None:
    """Take the first stage from `out` along into `folder`, which will stand in its place."""
    shutil.copytree(out / FIRST, folder / FIRST)
    for path in (*(folder / FIRST).rglob("*"), folder / FIRST, folder):
        sync(path)  # what it is copied from is deleted


def settings(config: Any) -> tuple[str, Tree]:
    """The name and values of the first stage's recipe: on the data of `config`, with its seed.

    Raises UsageError for a recipe of something else.
    """
    name, tree = read_recipe(config.tokenizer.recipe)
    if (backend := tree.pop("backend")) != "vq":
        raise UsageError(f"tokenizer.recipe {name} is for {backend}, not vq")
    data = to_tree(config.data)
    shared = {field.name: data[field.name] for field in fields(ImageData)}
    shared["easier"] = 0  # that is for what reads captions: these are pictures alone
    if config.data.spec == ("scenes",):
        del shared["near"]  # each stage has its own
    train = {"seed": config.train.seed, "precision": config.train.precision}
    return name, merge(tree, {"data": shared, "train": train})


def is_done(out: Path) -> bool:
    """Whether the first stage in `out` is at its last step."""
    return reached(out / FIRST, read_config(out / FIRST).config["train"]["steps"])


def image_tokenizer(config: Any, out: Path) -> Any:
    """The image tokenizer of a new run: the one that is named, else that of the first stage in
    `out`. Raises as `find_tokenizer`, and UsageError for one of texts."""
    from gentool.tokenizers.pictures import PictureTokenizer
    from gentool.tokenizers.vq.tokenizer import VQTokenizer

    name = config.tokenizer.image or str(out / FIRST)
    found = find_tokenizer(name)
    found = found.image if isinstance(found, PictureTokenizer) else found
    if not isinstance(found, VQTokenizer):
        raise UsageError(
            f"tokenizer.image {name} is a tokenizer of texts", "a run of `gentool train vq`"
        )
    return found


def untrained(config: Any) -> Any:
    """What the first stage begins with, to check the second against."""
    from gentool.tokenizers.vq.tokenizer import tokenizer_of

    first = build(options_module("vq").Config, settings(config)[1])
    return tokenizer_of(backend_class("vq")(first).network(), first.model, first.data)
