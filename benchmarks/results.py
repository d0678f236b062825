"""`results.jsonl`: one line per figure, with what it takes to get it again."""

import fcntl
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
RUN = ("gentool", "recipes", "checkpoints", "benchmarks/*.py", "pyproject.toml")


def append(name: str, command: str, figures: list[dict[str, Any]]) -> None:
    """Add the figures of one command under `name`; those it had before under it are replaced."""
    facts = {"name": name, "command": command, "commit": COMMIT, "machine": machine()}
    with RESULTS.open("a") as lock:  # two benchmarks at once would lose lines
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = [line for line in read() if line["name"] != name]
        lines = kept + [facts | figure for figure in figures]
        RESULTS.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read() -> list[dict[str, Any]]:
    """All lines, oldest first."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def commit() -> str:
    """The commit that is measured; "-dirty" where what is run differs from it."""

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=HERE.parent, capture_output=True, text=True)
        return run.stdout.strip()

    changed = git("status", "--porcelain", "--", *RUN)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


COMMIT = commit()  # of when a benchmark begins: files may change while it runs


def machine() -> str:
    """Processor, whether it has bf16, cores and torch, in words."""
    import torch

    from gentool.device import has_bf16

    info = Path("/proc/cpuinfo")
    models = [
        line.partition(": ")[2]
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    cpu = models[0] if models else platform.processor()
    cpu += " with bf16" if has_bf16(torch.device("cpu")) else ""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"
