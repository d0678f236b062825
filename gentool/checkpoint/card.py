"""The model card, written from the run's own facts."""

from pathlib import Path

from gentool.checkpoint.atomic import write_file
from gentool.checkpoint.config import RunConfig


def write_card(run: Path, run_config: RunConfig) -> None:
    """Replace `run/README.md`."""
    config, metrics = run_config.config, run_config.metrics
    train, sample = config["train"], config["sample"]
    examples = metrics["step"] * train["batch_size"] * train["accumulate"]
    size = run_config.data["size"]
    records = "endless, generated" if size is None else f"{size:,} records"
    facts = [
        ("backend", run_config.backend),
        ("recipe", run_config.recipe),
        (
            "data",
            f"`{' '.join(config['data']['spec'])}` ({records}), fingerprint "
            f"`{run_config.data['fingerprint']}`",
        ),
        ("steps", f"{metrics['step']:,} of {train['steps']:,}"),
        (
            "examples seen",
            f"{examples:,} per process, batches of {train['batch_size']} × {train['accumulate']}",
        ),
        ("began with", run_config.init or "random weights"),
        ("seed", str(train["seed"])),
        ("training loss", _figure(metrics.get("loss"))),
        ("validation loss", _figure(metrics.get("val_loss"))),
        ("sampling defaults", ", ".join(f"{k} {v}" for k, v in sample.items())),
        ("written by", f"gentool {run_config.gentool_version}"),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    text = f"""# {run_config.recipe}

A `{run_config.backend}` checkpoint of gentool: weights averaged over training (EMA),
trained with the recipe `{run_config.recipe}`.

| | |
| --- | --- |
{rows}

```
gentool sample {run_config.backend} --checkpoint DIR
gentool inspect DIR
```
"""
    write_file(run / "README.md", text.encode())


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.5f}"
