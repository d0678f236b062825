"""What `gentool tokenizer` does where the tokens are those of pictures."""

import os
from pathlib import Path
from typing import Annotated, Any

from gentool.checkpoint.atomic import check_new_folder
from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.options import count, value
from gentool.cli.pictures import write
from gentool.cli.values import assigned, data_tree, environment
from gentool.errors import BadDataError, UsageError
from gentool.resources import read_recipe
from gentool.settings import merge
from gentool.streams import place


def encode(tokenizer: Any, name: str) -> list[int]:
    """The ids of the picture in the file `name`."""
    from gentool.inputs import read_image

    ids: list[int] = tokenizer.encode(read_image(Path(name), tokenizer.shape)[None])[0].tolist()
    return ids


def draw(
    tokenizer: Any, rows: list[list[int]], inputs: str, out: str | None, as_json: bool
) -> None:
    """Write the pictures of `rows` of ids, which came from `inputs`."""
    import torch

    from gentool.outputs import check_target

    check_target(out)
    for number, ids in enumerate(rows, start=1):
        if len(ids) != tokenizer.length:
            raise BadDataError(
                f"{place(inputs)} line {number}: {len(ids)} ids, a picture has {tokenizer.length}"
            )
    if not rows:
        raise BadDataError(f"{place(inputs)} has no lines, so there is nothing to draw")
    batches = (([i], tokenizer.decode(torch.tensor([ids]))) for i, ids in enumerate(rows))
    shape = (len(rows), *tokenizer.shape)
    write(batches, shape, out, "decoded", (lambda number: {}) if as_json else None)


def train(data: list[str], out: Path, size: int | None, assign: list[str]) -> None:
    """`gentool tokenizer train --kind vq`: the run that `gentool train vq` makes."""
    from gentool.training import start
    from gentool.training.plan import Plan

    given = merge({"data": {"spec": data}}, assigned(assign))
    if size:
        given = merge(given, {"model": {"codes": size}})
    name, tree = read_recipe("vq-scenes")
    del tree["backend"]
    if "scenes" not in data:
        console.info(f"{name} is made for the built-in world; gentool train vq has --recipe")
    again = f"gentool train vq --out {out} --resume latest continues"
    plan = Plan("vq", name, tree, given, environment(), False, out=out, again=again)
    start.train(plan, os.environ.get("GENTOOL_DEVICE") or "auto", None, None, console)


def cache(
    tokenizer: Annotated[
        str,
        value(
            "DIR|CKPT", "A run of vq, its tokenizer, or an mvtm checkpoint.", "-t", "--tokenizer"
        ),
    ],
    data: Annotated[list[str], value("SPEC", "Pictures, as for `gentool train mvtm`; repeatable.")],
    out: Annotated[Path, value("DIR", "The new folder.", "--out", "-o")],
    views: Annotated[
        int,
        value(
            "N",
            "Of each picture, mirrored and cut as data.flip and data.crop say.",
            min=1,
            show_default=True,
        ),
    ] = 1,
    num: Annotated[int | None, count("The first N pictures. (default: all)")] = None,
    assign: Annotated[
        list[str] | None,
        value("KEY=VALUE", "A data setting, e.g. flip=true; repeatable.", "--set"),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Make the tokens of pictures once, for `gentool train mvtm` to train on.

    \b
    gentool tokenizer cache -t runs/vq-cifar10 --data train.parquet \\
        --set flip=true --views 4 -o tokens
    gentool train mvtm --recipe mvtm-cifar10 --data train.parquet \\
        --set tokenizer.image=runs/vq-cifar10 --set tokenizer.cache=tokens

    What training holds out for validation is not in it.
    """  # fmt: skip
    check_new_folder(out)
    from gentool.checkpoint.tokenizer import find_tokenizer
    from gentool.data.config import ImageData
    from gentool.device import pick_device
    from gentool.settings import build
    from gentool.tokenizers.cache import build as build_cache

    found = find_tokenizer(tokenizer)
    found = getattr(found, "image", found)
    if found.kind != "vq":
        raise UsageError(f"{tokenizer} is a tokenizer of texts", "a run of `gentool train vq`")
    n = build_cache(
        out, found, build(ImageData, data_tree(data, assign)), views, num, pick_device(device),
        lambda done, total: console.progress(done, total, {"cached": "pictures"}), console.info,
    )  # fmt: skip
    console.info(f"{n} pictures, {views} views each, of tokenizer {found.hash[:16]}")
    console.result(str(out))
