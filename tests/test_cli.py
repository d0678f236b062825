"""The command line itself: help, streams, exit codes, precedence, and the list of all options."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from gentool.cli.main import app, run
from gentool.cli.values import assigned
from gentool.registry import options_module
from gentool.resources import read_recipe, shipped
from gentool.settings import build, flatten, to_tree

SURFACE = Path(__file__).with_name("cli_surface.txt")
HEAVY = (
    *("torch", "numpy", "PIL", "datasets", "accelerate"),
    *("transformers", "tokenizers", "sentencepiece"),
)


def commands(command, path=()):
    """(path, command) of every command and group."""
    yield path, command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))
LEAVES = [path for path, command in COMMANDS.items() if not hasattr(command, "commands")]


def surface():
    """One line per command and option or argument."""
    lines = []
    for path, command in COMMANDS.items():
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            names = [*parameter.opts, *parameter.secondary_opts] if is_option else ["ARGUMENT"]
            lines += [f"{' '.join(path) or 'gentool'} {name}" for name in names]
    return sorted(lines)


def test_commands_and_options_are_those_on_record():
    """Scripts of users depend on them. `python tests/test_cli.py` writes the record anew."""
    assert surface() == SURFACE.read_text().splitlines()


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "gentool")
def test_every_command_has_help_that_fits_80_columns(cli, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "80")
    for flag in ("--help", "-h"):
        result = cli(*path, flag)
        assert result.code == 0 and result.err == ""
        assert "gentool" in result.out and "\x1b" not in result.out
        assert max(map(len, result.out.splitlines())) <= 80
    if path in LEAVES:
        assert f"gentool {' '.join(path)}" in result.out.split("Options")[0].split("Usage", 1)[1]


@pytest.mark.parametrize("path", [p for p in COMMANDS if p not in LEAVES])
def test_a_verb_alone_shows_its_help(cli, path):
    result = cli(*path)
    assert "Usage" in result.out + result.err
    assert "error: \n" not in result.err, "an error without a text"


@pytest.mark.parametrize(
    "command",
    ["--help", "train ddpm --help", "sample ddpm --help", "tokenizer train --help", "list"],
)
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys; from gentool.cli.main import run; code = run(sys.argv[1:]); "
        f"print(code, [m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True)
    assert done.stderr.decode().strip() == "0 []"


def test_wrong_options_and_names_are_usage_errors(cli):
    for command, word in [
        ("train nonesuch", "nonesuch"),
        ("sample nonesuch", "nonesuch"),
        ("nonesuch", "nonesuch"),
        ("sample ddpm --nonesuch", "--nonesuch"),
        ("sample ddpm --num 0", "num"),
        ("sample ddpm --num many", "num"),
        ("sample ddpm --seed 1.5", "seed"),
        ("sample ddpm --sampler nonesuch", "sampler"),
        ("sample ddpm extra", "extra"),
        ("list nonesuch", "nonesuch"),
        ("data check", ""),
        ("inspect", ""),
        ("--nonesuch", "--nonesuch"),
    ]:
        result = cli(*command.split())
        assert result.code == 2, (command, result.err)
        assert result.out == "" and word in result.err, command
        assert 1 <= len(result.err.splitlines()) <= 2, result.err


def test_a_reader_that_leaves_is_no_error():
    for arguments in (["list"], ["--help"], ["list", "--json"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "gentool", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert (process.wait(), err) == (141, b""), arguments


def test_ctrl_c_outside_training_is_130_without_a_traceback(cli, monkeypatch):
    import gentool.cli.listing

    def interrupt():
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setitem(gentool.cli.listing._KINDS, "backends", interrupt)
    result = cli("list")
    assert result.code == 130 and result.err == "error: interrupted\n"


def torch_out_of_memory() -> RuntimeError:
    """What torch says here of more memory than there is."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    return caught.value


@pytest.mark.parametrize(
    "error, code",
    [
        (MemoryError(), 6),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), 6),
        (torch_out_of_memory(), 6),
        (OSError(28, "No space left on device"), 1),
        (PermissionError(13, "Permission denied", "x"), 1),
        (ZeroDivisionError("division by zero"), 1),
    ],
)
def test_failures_have_their_codes(cli, monkeypatch, error, code):
    import gentool.cli.listing

    def fail():
        raise error

    monkeypatch.setitem(gentool.cli.listing._KINDS, "backends", fail)
    result = cli("list", "backends")
    assert result.code == code and result.out == "" and "Traceback" not in result.err
    assert 1 <= len(result.err.splitlines()) <= 2
    assert ("bug" in result.err) == isinstance(error, ZeroDivisionError)


def test_version_doctor_and_list(cli):
    assert cli("--version").out.startswith("gentool 0.")
    result = cli("doctor")
    assert result.code == 0 and "BAD" not in result.out and "torch" in result.out
    assert all(record["ok"] for record in cli("doctor", "--json").records)
    assert {"kind": "backends", "name": "ddpm"}.items() <= cli("list", "--json").records[0].items()
    recipes = cli("list", "recipes", "--json").records
    assert {record["name"] for record in recipes} == set(shipped("recipes"))
    assert "ddim" in cli("list", "samplers").out
    text = shipped("recipes")["ddpm-photos"].read_text()
    assert cli("list", "recipes", "ddpm-photos").out == text
    assert cli("list", "recipes", "ddpm-photos", "--json").records[0]["backend"] == "ddpm"
    assert cli("list", "recipes", shipped("recipes")["ddpm-photos"]).out == text
    assert cli("list", "recipes", "ddpm-photo").code == 3
    assert cli("list", "backends", "ddpm").code == 2


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_recipe_is_valid(name, cli, text_run, tmp_path):
    _, tree = read_recipe(name)
    backend = tree.pop("backend")
    config = build(options_module(backend).Config, tree)
    assert name.startswith(f"{backend}-") and config.train.steps > 0
    if "scenes" in config.data.spec:  # the others need their data
        given = ("--set", f"lm.checkpoint={text_run}") if hasattr(config, "lm") else ()
        dry = cli(
            "train", backend, "--recipe", name, "--dry-run", "--out", tmp_path / "run", *given
        )
        assert dry.code == 0, dry.err
    default = flatten(to_tree(options_module(backend).Config()))
    idle = [key for key, value in flatten(tree).items() if default.get(key) == value]
    assert not idle, "a recipe says what differs from the defaults"
    text = shipped("recipes")[name].read_text()
    header = text[: text.index("\nbackend =")]
    assert header.startswith("# ") and "\n#   " in header and "gentool train" in header
    told = re.search(r"minute|hour|With --|Not (run|trained)|[Aa]fter \d", header)
    assert told, "how long it took, or that it was not run"


def test_an_option_goes_over_the_environment_over_the_recipe(cli, recipe, tmp_path, monkeypatch):
    seven = tmp_path / "seven.toml"
    seven.write_text(recipe.read_text().replace("[train]", "[train]\nseed = 7"))

    def train(*arguments):
        return cli("train", "ddpm", "--recipe", seven, "--dry-run", *arguments)

    def seed(*arguments):
        lines = train(*arguments).out.splitlines()
        return next(line.split("=")[1].strip() for line in lines if line.startswith("train.seed"))

    assert seed() == "7" and seed("--seed", 3) == "3" and seed("--set", "train.seed=4") == "4"
    monkeypatch.setenv("GENTOOL_SEED", "5")
    assert seed() == "5" and seed("--seed", 3) == "3" and seed("--set", "train.seed=4") == "4"
    monkeypatch.setenv("GENTOOL_SEED", "five")
    result = train()
    assert result.code == 2 and "seed" in result.err.lower()


def test_settings_are_checked_and_the_nearest_key_is_named(train):
    for text, words in [
        ("train.stepz=5", ["train.stepz", "steps"]),
        ("trian.steps=5", ["trian", "train"]),
        ("model.channel=8", ["model.channel", "channels"]),
        ("train.steps=many", ["train.steps", "many"]),
        ("train.steps=1.5", ["train.steps", "1.5"]),
        ("train.steps=true", ["train.steps"]),
        ("train.steps=0", ["train.steps", "0"]),
        ("train=5", ["train"]),
        ("train.steps", ["train.steps"]),
        ("=5", ["=5"]),
        ("train.schedule=cosin", ["train.schedule", "cosine"]),
        ("train.learning_rate=-1.0", ["train.learning_rate"]),
        ("train.learning_rate=nan", ["train.learning_rate"]),
        ("model.norm_groups=3", ["norm_groups"]),
        ("data.image_size=30", ["image_size"]),
        ("data.channels=2", ["channels"]),
        ("train.beta2=1.0", ["train.beta2", "in 0.0..0.999999"]),
        ("data.spec=5", ["data.spec", "5", """write 'data.spec="5"'"""]),
        ("data.label_column=true", ["""write 'data.label_column="true"'"""]),
    ]:
        result = train("--dry-run", "--set", text)
        assert result.code == 2 and result.out == "", (text, result.err)
        assert all(word in result.err for word in words), (text, result.err)
        assert len(result.err.splitlines()) <= 2


def test_a_name_like_a_date_is_a_name():
    for name in ("2024-01-01", "07:30:00"):
        assert assigned([f"data.validation={name}"]) == {"data": {"validation": name}}


@pytest.mark.parametrize(("T", "code"), [(1, 0), (2, 2), (20, 2), (21, 0)])
def test_a_chain_too_short_for_a_schedule_is_a_usage_error(train, T, code):
    """Linear betas, scaled to T steps, reach 1."""
    short = ("--set", f"diffusion.T={T}", "--set", "sample.steps=1")
    result = train("--dry-run", *short, "--set", "diffusion.schedule=linear")
    assert result.code == code and "bug" not in result.err, result.err


def test_quiet_says_nothing_and_no_colour_reaches_a_file(train, cli, tiny_run, tmp_path):
    assert train("--quiet", "--steps", 1).err == ""
    out = tmp_path / "x.png"
    result = cli("sample", "ddpm", "-c", tiny_run, "-n", 1, "--out", out, "-q")
    assert result.code == 0 and result.err == ""
    loud = cli("sample", "ddpm", "-c", tiny_run, "-n", 1, "--out", out)
    assert str(tiny_run) in loud.err and "\x1b" not in loud.err + loud.out


def test_debug_shows_the_traceback(cli, tmp_path, monkeypatch):
    from gentool.cli import console
    from gentool.errors import NotFoundError

    monkeypatch.setattr(console.console, "debug", False)
    with pytest.raises(NotFoundError):
        run(["inspect", str(tmp_path / "nothing"), "--debug"])


if __name__ == "__main__":
    os.environ.pop("GENTOOL_SEED", None)
    SURFACE.write_text("\n".join(surface()) + "\n")
    print(json.dumps(len(surface())))


def test_output_is_utf_8_whatever_the_locale():
    run = subprocess.run(
        [sys.executable, "-m", "gentool", "list", "data"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == 0 and not run.stdout.isascii()
    assert run.stdout.decode().endswith("\n")
