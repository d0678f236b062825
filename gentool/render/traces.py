"""Traces to files: the ending of the name says which kind."""

from pathlib import Path

from gentool.checkpoint.atomic import check_place, write_file
from gentool.errors import UsageError
from gentool.trace import Trace

ENDINGS = (".gif", ".png", ".html", ".jsonl")


def check_trace_target(target: str, option: str = "--trace", out: str | None = None) -> None:
    """Raise UsageError or OSError if no trace can be written to `target`, or if results go there
    (`out`)."""
    if out and target != "-" and Path(target).resolve() == Path(out).resolve():
        raise UsageError(f"--out and {option} both name {target}")
    if target != "-" and Path(target).suffix not in ENDINGS:
        raise UsageError(f"{option} {target}: not a {', '.join(ENDINGS)} or -")
    if target != "-":
        check_place(Path(target))


def write_trace(trace: Trace, path: Path) -> str:
    """Write `trace` to `path`, which appears whole. A warning, empty if all is well."""
    from gentool.render import animation, page, records

    warning = ""
    if path.suffix == ".gif":
        data, warning = animation.gif(trace)
    elif path.suffix == ".png":
        data, warning = animation.png(trace)
    elif path.suffix == ".html":
        data = page.page(trace).encode()
    else:
        data = records.to_lines(trace).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
    return warning
