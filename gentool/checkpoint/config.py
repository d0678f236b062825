"""config.json: everything about a run but its weights. Imports no torch."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gentool import __version__
from gentool.checkpoint.atomic import write_file
from gentool.errors import BadCheckpointError, NotFoundError
from gentool.registry import BACKENDS
from gentool.settings import Tree

FORMAT_VERSION = 1
_MAX_CONFIG_BYTES = 16 * 2**20  # a configuration is kilobytes; more is damage or an attack

_TYPES = {"backend": str, "recipe": str, "config": dict, "data": dict, "metrics": dict, "init": str}


@dataclass
class RunConfig:
    """config.json: everything about a run but its weights."""

    backend: str
    recipe: str  # the recipe's name
    config: Tree  # the resolved recipe; a backend's sample section: the defaults
    data: Tree  # fingerprint, size (null = endless), labels
    metrics: Tree = field(default_factory=dict)  # figures of the run so far
    init: str = ""  # whose weights the run began with, if not with random ones
    gentool_version: str = __version__
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Replace `folder/config.json`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        write_file(folder / "config.json", text.encode())


def place_of_state(path: Path) -> Path | None:
    """`path` as RUN/state/step-00001000, where a state would stand; None if it is no such place.
    It may be named from inside RUN/state, or by a link."""
    for place in (path, path.absolute(), path.resolve()):
        if place.parent.name == "state" and re.fullmatch(r"step-\d+", place.name):
            return place
    return None


def run_of(folder: Path) -> Path:
    """The run that `folder` is a state of; any other folder is itself."""
    place = place_of_state(folder)
    return place.parent.parent if place else folder


def is_run(folder: Path) -> bool:
    """Whether `folder` holds the config.json of gentool; that of a model of the Hub is another."""
    path = folder / "config.json"
    return path.is_file() and '"gentool_version"' in path.read_text("utf-8", errors="replace")


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a checkpoint of gentool: a run, or a state of one."""
    return is_run(run_of(folder))


def read_config(folder: Path) -> RunConfig:
    """Read `folder/config.json`, of a state that of its run. Raises NotFoundError or
    BadCheckpointError."""
    if folder.is_file():
        raise BadCheckpointError(
            f"{folder} is a file, not a checkpoint folder",
            "pickled weights (.pt, .bin, .ckpt) are never loaded; a checkpoint is a folder with "
            "config.json and model.safetensors",
        )
    path = run_of(folder) / "config.json"
    if not path.is_file():
        raise NotFoundError(
            f"no checkpoint in {folder}", "`gentool list checkpoints` shows those there are"
        )
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {_MAX_CONFIG_BYTES} bytes")
        tree = json.loads(path.read_text(encoding="utf-8"))
        version = tree.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"format {version}; this gentool reads format {FORMAT_VERSION}")
        run_config = RunConfig(**tree)
        for name, kind in _TYPES.items():
            if not isinstance(getattr(run_config, name), kind):
                raise ValueError(f"{name} is not a {kind.__name__}")
        for name, section in run_config.config.items():
            if not isinstance(section, dict):
                raise ValueError(f"config.{name} is not a section")
        for name in ("model", "sample") if run_config.backend in BACKENDS else ("model",):
            if name not in run_config.config:
                raise ValueError(f"config has no section {name}")
        return run_config
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadCheckpointError(f"{path} cannot be read: {error}") from None
