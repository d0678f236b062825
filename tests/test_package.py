"""How the package is built: what imports what, what the wheel carries, and how long files are."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gentool"
FILES = sorted(PACKAGE.rglob("*.py"))
BACKENDS = sorted(p.name for p in (PACKAGE / "backends").iterdir() if (p / "__init__.py").is_file())


def module(path: Path) -> str:
    """gentool/cli/main.py -> gentool.cli.main"""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


IMPORTS = {module(path): imports(path) for path in FILES}


def offending(importers: tuple[str, ...], banned: tuple[str, ...], but: tuple[str, ...] = ()):
    """Imports of `banned` by modules within `importers` and not within `but`."""
    return [
        (name, target)
        for name, targets in IMPORTS.items()
        if within(name, *importers) and not within(name, *but)
        for target in targets
        if within(target, *banned)
    ]


def test_the_walk_sees_imports():
    assert "gentool.diffusion.gaussian" in IMPORTS["gentool.backends.ddpm.algorithm"]
    assert len(IMPORTS) > 30


def test_nothing_outside_the_command_line_imports_it():
    assert not offending(("gentool",), ("gentool.cli",), but=("gentool.cli", "gentool.__main__"))


def test_shared_layers_import_no_backend():
    backends = tuple(f"gentool.backends.{name}" for name in BACKENDS)
    assert not offending(("gentool",), backends, but=("gentool.backends", "gentool.registry"))


@pytest.mark.parametrize("name", BACKENDS)
def test_no_backend_imports_another(name):
    others = tuple(f"gentool.backends.{other}" for other in BACKENDS if other != name)
    assert not offending((f"gentool.backends.{name}",), others)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_algorithm_imports_torch_and_diffusion_alone(name):
    allowed = {"torch", "gentool.diffusion", *sys.stdlib_module_names}
    wrong = {t for t in IMPORTS[f"gentool.backends.{name}.algorithm"] if not within(t, *allowed)}
    assert not wrong


@pytest.mark.parametrize("name", BACKENDS)
def test_a_network_knows_neither_algorithm_nor_training(name):
    banned = ("gentool.training", "gentool.checkpoint", "gentool.data", "gentool.diffusion")
    assert not offending((f"gentool.backends.{name}.network",), banned)


@pytest.mark.parametrize("name", BACKENDS)
def test_only_the_glue_sees_both(name):
    algorithm, network = (f"gentool.backends.{name}.{part}" for part in ("algorithm", "network"))
    glue = f"gentool.backends.{name}.backend"
    seeing = {m for m, targets in IMPORTS.items() if {algorithm, network} <= targets}
    assert seeing == {glue}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_knows_nothing_of_what_trains_or_measures_it(name):
    above = ("gentool.evaluate", "gentool.training.loop", "gentool.training.start", "gentool.cli")
    assert not offending((f"gentool.backends.{name}",), above)


def test_diffusion_and_data_import_none_of_what_stands_on_them():
    above = tuple(f"gentool.{part}" for part in ("backends", "cli", "training", "checkpoint",
                                                 "registry", "evaluate", "nn"))  # fmt: skip
    assert not offending(("gentool.diffusion", "gentool.data", "gentool.nn"), above[:-1])
    assert not offending(("gentool.diffusion",), ("gentool.nn", "gentool.data"))
    assert not offending(("gentool.nn",), ("gentool.data", "gentool.render"))


def test_imports_run_from_training_to_checkpoint_not_back():
    assert not offending(("gentool.checkpoint",), ("gentool.training",))
    assert not offending(("gentool.protocol",), ("gentool.registry", "gentool.training"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path):
    limit = 150 if path.is_relative_to(PACKAGE / "cli") else 400
    assert len(path.read_text().splitlines()) <= limit


def calls(path: Path) -> list[str]:
    """The functions a file calls, as they are written."""
    return [ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call)]  # fmt: skip


def test_one_place_prints_exits_and_seeds():
    for path in FILES:
        name, called = module(path), calls(path)
        assert "print" not in called, name
        if name != "gentool.__main__":
            assert not {"sys.exit", "exit", "os._exit"} & set(called), name
        seeds = [c for c in called if re.fullmatch(r"(torch|random|np\.random)\.\S*seed\w*", c)]
        if name != "gentool.rng":
            assert not seeds, name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel made from the sdist, so that both are known to be whole."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", place, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(place.glob("*.whl"))) as file:
        yield file


def test_the_wheel_carries_recipes_and_checkpoints(wheel):
    names = set(wheel.namelist())
    for kind in ("recipes", "checkpoints"):
        beside = {p.relative_to(ROOT).as_posix() for p in (ROOT / kind).rglob("*") if p.is_file()}
        assert beside and {f"gentool/{name}" for name in beside} <= names
    assert {path.relative_to(ROOT).as_posix() for path in FILES} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "recipes/"))]


def test_what_the_wheel_holds_runs_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    wheel.extractall(site)
    empty.mkdir()
    code = (
        "from gentool.cli.main import run; import gentool; print(gentool.__file__); run(['list']);"
        "raise SystemExit(run(['sample', 'ddpm', '-n', '1', '--steps', '2', '--out', 'x.png']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env={"PYTHONPATH": str(site)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site)) and "ddpm-scenes" in done.stdout
