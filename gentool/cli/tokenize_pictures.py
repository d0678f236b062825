"""What `gentool tokenizer` does where the tokens are those of pictures."""

from pathlib import Path
from typing import Any

from gentool.cli.console import console
from gentool.cli.pictures import write
from gentool.errors import BadDataError
from gentool.resources import read_recipe
from gentool.settings import merge, parse_assignment
from gentool.streams import place


def encode(tokenizer: Any, name: str) -> list[int]:
    """The ids of the picture in the file `name`."""
    from gentool.inputs import read_image

    ids: list[int] = tokenizer.encode(read_image(Path(name), tokenizer.shape)[None])[0].tolist()
    return ids


def draw(tokenizer: Any, rows: list[list[int]], inputs: str, out: str, as_json: bool) -> None:
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
    write(batches, shape, out, (lambda number: {}) if as_json else None)


def train(data: list[str], out: Path, size: int | None, assign: list[str]) -> None:
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
