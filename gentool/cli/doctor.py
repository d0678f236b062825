"""`gentool doctor`: is this installation in order, and what can this machine do?"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gentool import __version__
from gentool.cli import options
from gentool.cli.console import console
from gentool.errors import GentoolError, MachineError
from gentool.registry import BACKENDS, BROKEN
from gentool.resources import shipped

PACKAGES = (
    *("torch", "accelerate", "datasets", "safetensors", "transformers", "tokenizers"),
    *("sentencepiece", "typer", "rich", "numpy", "pillow"),
)


def doctor(as_json: options.Json = False) -> None:
    """Check the installation; exit 1 if something is wrong.

    \b
    gentool doctor
    gentool doctor --json
    """
    checks: dict[str, Callable[[], str]] = {
        "gentool": lambda: f"{__version__} in {Path(__file__).parents[1]}",
        "python": lambda: f"{platform.python_version()} in {sys.prefix}",
        **{name: _version_of(name) for name in PACKAGES},
        **{f"backend {name}": _backend(name) for name in BACKENDS | BROKEN},
        "device": _device,
        "recipes": _recipes,
        "checkpoints": _checkpoints,
        "temporary files": _temporary,
        "free disk here": lambda: f"{shutil.disk_usage('.').free / 1e9:.1f} GB",
    }
    bad = []
    for name, check in checks.items():
        try:
            ok, text = True, check()
        except (GentoolError, ImportError, OSError) as error:
            ok, text = False, str(error)
            bad.append(name)
        if as_json:
            console.record({"check": name, "ok": ok, "about": text})
        else:
            console.result(f"{'ok ' if ok else 'BAD'} {name:20} {text}")
    if bad:
        raise MachineError(f"not in order: {', '.join(bad)}", "reinstall, or see the lines above")


def _version_of(name: str) -> Callable[[], str]:
    def version() -> str:
        from importlib.metadata import version  # not for every --help

        return version(name)

    return version


def _backend(name: str) -> Callable[[], str]:
    def backend() -> str:
        if name in BROKEN:
            raise ImportError(BROKEN[name])
        return BACKENDS[name]

    return backend


def _device() -> str:
    import torch

    from gentool.device import has_bf16, pick_device

    device = pick_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    bf16 = "bf16 in hardware" if has_bf16(device) else "no bf16 in hardware"
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{device.type} ({name}), {bf16}; {cores}"


def _recipes() -> str:
    from gentool.registry import options_module
    from gentool.resources import read_recipe
    from gentool.settings import build

    for name in shipped("recipes"):
        _, tree = read_recipe(name)
        build(options_module(tree.pop("backend")).Config, tree)
    return f"{len(shipped('recipes'))} valid"


def _checkpoints() -> str:
    from gentool.checkpoint.config import read_config
    from gentool.checkpoint.weights import read_weights

    for folder in shipped("checkpoints").values():
        read_weights(folder, read_config(folder).config)
    return f"{len(shipped('checkpoints'))} verified"


def _temporary() -> str:
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 1024)
    return tempfile.gettempdir()
