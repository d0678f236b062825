"""Where drawn pictures go and how their files are told, for `sample` and `decode`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gentool.cli.console import console
from gentool.cli.options import value
from gentool.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Out = Annotated[
    str | None,
    value(
        "PATH|-",
        "x.png: a grid; dir/: a PNG each; x.npy: float32 [N, C, H, W] in [-1, 1]; "
        "-: the grid to standard output. (default: a new PNG here)",
        *("--out", "-o"),
    ),
]


def check_streams(out: str | None, as_json: bool) -> None:
    """Raise UsageError for pictures and records in one stream."""
    if out == "-" and as_json:
        raise UsageError("--out - and --json both want standard output", "--out FILE with --json")


def check_guided(settings: dict[str, Any], lines: Sequence[str]) -> None:
    """Raise UsageError for guidance where no line says what to draw."""
    scale = settings.get("guidance_scale", 1.0)
    if scale != 1.0 and not settings.get("negative") and lines and not any(lines):
        raise UsageError(
            f"--guidance-scale {scale}: no line names anything to guide to", "leave it out"
        )


def write(
    batches: Iterable[tuple[Sequence[int], "Tensor"]],
    shape: tuple[int, int, int, int],
    out: str | None,
    stem: str,
    record: Callable[[int], dict[str, Any]] | None,
    columns: int | None = None,
) -> None:
    """Write pictures of `shape` [N, C, H, W] to `out`, or to a new file called after `stem`; a grid
    with so many columns. Print each file once or, where `record` gives the facts of picture number
    i, one record a picture."""
    from gentool.outputs import write_images

    written: dict[Path, None] = {}

    def tell(number: int, path: Path | None, place: int | None) -> None:
        if record:
            console.record({"index": number, **record(number), "path": str(path), "place": place})
        elif path and path not in written:
            console.result(str(path))
        if path:
            written[path] = None

    write_images(batches, shape[0], shape[1:], out, stem, tell, columns)
    # One alone may be drawn anew among the others.
    if out and Path(out).is_dir() and len(written) > 1:
        others = {path for path in Path(out).glob("*.png") if path.stem.isdigit()} - {*written}
        if others:
            console.warn(f"{out} also holds {len(others)} pictures of an earlier command")


def with_blanks(
    batches: Iterable[tuple[Sequence[int], "Tensor"]], blank: Sequence[int], shape: tuple[int, ...]
) -> Iterator[tuple[Sequence[int], "Tensor"]]:
    """`batches` of pictures [B, *shape], with white ones for the numbers in `blank`, in order."""
    import torch

    waiting = list(blank)
    for numbers, images in batches:
        for number, image in zip(numbers, images, strict=True):
            while waiting and waiting[0] < number:
                yield [waiting.pop(0)], torch.ones(1, *shape)
            yield [number], image[None]
    for number in waiting:
        yield [number], torch.ones(1, *shape)
