"""The model card, written from the run's own facts."""

from pathlib import Path

from gentool.checkpoint.atomic import write_file
from gentool.checkpoint.config import RunConfig
from gentool.registry import draws
from gentool.settings import Tree


def write_card(run: Path, run_config: RunConfig) -> None:
    """Replace `run/README.md`."""
    config, metrics = run_config.config, run_config.metrics
    train, sample = config["train"], config.get("sample")
    size = run_config.data["size"]
    unknown = "endless, generated" if config["data"]["spec"] == ["scenes"] else "streamed"
    records = unknown if size is None else f"{size:,} records"
    facts = [
        ("backend", run_config.backend),
        ("recipe", run_config.recipe),
        (
            "data",
            f"`{' '.join(config['data']['spec'])}` ({records}), fingerprint "
            f"`{run_config.data['fingerprint']}`",
        ),
        *([("tokenizer", f"`{tokens}`")] if (tokens := run_config.data.get("tokenizer")) else []),
        ("steps", f"{metrics['step']:,} of {train['steps']:,}"),
        ("examples seen", f"{metrics['examples']:,}"),
        ("began with", run_config.init or "random weights"),
        ("seed", str(train["seed"])),
        ("training loss", _figure(metrics.get("loss"))),
        ("validation loss", _figure(metrics.get("val_loss"))),
        *([("sampling defaults", _pairs(sample))] if sample else []),
        ("written by", f"gentool {run_config.gentool_version}"),
    ]
    n = train.get("average_best", 0)
    mean = f"the mean of up to {n} states of best validation BLEU" if n else "EMA"
    came = (
        f"weights averaged over training ({mean}),\ntrained with the recipe `{run_config.recipe}`."
    )
    _write(run, run_config, came, facts)


def write_imported_card(run: Path, run_config: RunConfig, came: str) -> None:
    """Replace `run/README.md` for weights that gentool did not train; `came`: from where."""
    config = run_config.config
    facts = [
        ("backend", run_config.backend),
        ("weights", f"`{run_config.data['fingerprint']}`"),
        ("trained", "elsewhere; data, steps and seed are not known here"),
        ("images", f"{config['data']['channels']} × {config['data']['image_size']} pixels square"),
        ("sampling defaults", _pairs(config["sample"])),
        ("converted by", f"gentool {run_config.gentool_version}"),
    ]
    _write(run, run_config, came, facts)


def _write(run: Path, run_config: RunConfig, came: str, facts: list[tuple[str, str]]) -> None:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    commands = "gentool inspect DIR"
    if "sample" in run_config.config:  # of a backend, not of a helper
        verb = "sample" if draws(run_config.backend) else "decode"
        commands = f"gentool {verb} {run_config.backend} --checkpoint DIR\n{commands}"
    text = f"""# {run_config.recipe}

A `{run_config.backend}` checkpoint of gentool: {came}

| | |
| --- | --- |
{rows}

```
{commands}
```
"""
    write_file(run / "README.md", text.encode())


def _pairs(section: Tree) -> str:
    return ", ".join(f"{name} {value}" for name, value in section.items() if value != "")


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.5f}"
