"""Where recipes and shipped checkpoints are: in the installed package, or beside it in the source.

The wheel carries `recipes/` and `checkpoints/` inside the package; a source tree has them next to
it. A user's own recipe or checkpoint is a path.
"""

import tomllib
from pathlib import Path

from gentool.errors import BadDataError, NotFoundError, UsageError, nearest
from gentool.settings import Tree

_PACKAGE = Path(__file__).parent


def shipped(kind: str) -> dict[str, Path]:
    """name -> path of every shipped recipe (kind "recipes") or checkpoint ("checkpoints")."""
    folder = _PACKAGE / kind if (_PACKAGE / kind).is_dir() else _PACKAGE.parent / kind
    marker = "*.toml" if kind == "recipes" else "*/config.json"
    found = sorted(folder.glob(marker))
    return (
        {p.stem: p for p in found}
        if kind == "recipes"
        else {p.parent.name: p.parent for p in found}
    )


def checkpoint_path(name: str) -> Path:
    """Where the checkpoint `name` is or would be: a shipped one's name, or a path."""
    return shipped("checkpoints").get(name, Path(name))


def recipes_of(backend: str) -> list[str]:
    """The names of its shipped recipes."""
    return [name for name in shipped("recipes") if read_recipe(name)[1]["backend"] == backend]


def read_recipe(name: str) -> tuple[str, Tree]:
    """The recipe called `name`, or in the file `name`: its name and its values.

    Raises NotFoundError, BadDataError (not TOML) or UsageError (no backend named).
    """
    recipes = shipped("recipes")
    path = recipes.get(name, Path(name))
    if not path.is_file():
        raise NotFoundError(
            f"no recipe {name!r}", f"{nearest(name, recipes)} (gentool list recipes)"
        )
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadDataError(f"{path} is not a TOML file: {error}") from None
    if not isinstance(tree.get("backend"), str):
        raise UsageError(f"{path} names no backend", 'add a first line such as backend = "ddpm"')
    return path.stem, tree
