"""The page that `gentool demo` makes: one HTML file that asks for nothing from anywhere."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gentool.render.page import SHADE, filled, part, player
from gentool.trace import Trace

ABOUT = {
    "diffusion-lm": "dreams up the captions. Each word is a point in a space of few dimensions. "
    "Noise is added to the points of a sentence until nothing of it is left, and a network learns "
    "to predict where they were. Writing goes the way back: from pure noise, all words at once.",
    "mask-predict": "translates them. The network guesses how long the translation will be, "
    "predicts all its tokens at once, masks those it was least sure of, and predicts these again, "
    "seeing the others.",
    "ddpm": "draws what the translation says. Noise is added to a picture until nothing of it is "
    "left, and a network learns to predict what was added. Drawing begins with pure noise and "
    "takes a little of it away in each step.",
    "mvtm": "draws it too, from tokens. A picture is a small grid of numbers from a codebook. All "
    "of them begin hidden; each step predicts them all, keeps the surest and hides the rest again.",
}
_SHORT = {"captions": "pipe", "translation": "drawn"}
_WIDTH, _HEIGHT = 100, 24  # of a curve, in its own units


@dataclass
class Training:
    """How a short run went."""

    name: str
    seconds: float
    losses: list[tuple[int, float]]  # after so many steps
    grids: list[bytes] = field(default_factory=list)  # PNG: drawn after it, and by what ships


@dataclass
class Verdicts:
    """What `eval scenes --json` said of pictures beside texts."""

    figures: dict[str, float | None]
    right: list[bool]
    shows: list[str | None]  # a caption of what is there; none: no scene


@dataclass
class Tour:
    """All that the page shows. What is missing was left out, and the page leaves it out too."""

    commands: list[tuple[str, float]] = field(default_factory=list)  # as typed, and its seconds
    trainings: list[Training] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    translations: list[str] = field(default_factory=list)
    pictures: dict[str, list[bytes]] = field(default_factory=dict)  # backend -> PNG files
    verdicts: dict[tuple[str, str], Verdicts] = field(default_factory=dict)  # backend, captions …
    traces: dict[str, Trace] = field(default_factory=dict)  # backend -> of one sample


def tour_page(tour: Tour) -> str:
    """The file."""
    minutes, seconds = divmod(round(sum(seconds for _, seconds in tour.commands)), 60)
    parts = [
        "<header>\n<h1>gentool, a tour</h1>\n<p>Four generators that refine a whole output at "
        "once, step by step, instead of writing it left to right: two take noise away, two predict "
        "what is masked. All that this page shows was made on this computer by the commands "
        f'<a href="#commands">at its end</a>, in {minutes} min {seconds} s.</p>\n</header>\n<main>',
        *_pipe(tour),
        *_steps(tour),
        *_figures(tour),
        *_training(tour),
        *_commands(tour),
        "</main>\n<footer><p>This page holds all it shows and asks for nothing. "
        "<code>gentool --help</code> tells everything else.</p></footer>",
    ]
    return filled("gentool, a tour", "\n".join(parts), part("tour.css"))


def _pipe(tour: Tour) -> Iterable[str]:
    if not tour.captions:
        return
    n = len(tour.captions)
    yield "<h2>One pipe through all four</h2>"
    yield f"""<pre>gentool sample diffusion-lm -n {n} \\
  | tee captions.txt \\
  | gentool decode mask-predict \\
  | tee captions.zh \\
  | gentool decode ddpm --out ddpm/
gentool decode mvtm captions.zh --out mvtm/
gentool eval scenes --images mvtm/ \\
  --captions captions.txt</pre>"""
    yield (
        "<p>A caption is dreamt up, translated into Chinese, and drawn twice from the translation. "
        "The last command reads each picture, and strictly: does it show exactly what the first "
        f"caption said, in no other colour, shape, size or place?{_score(tour)}</p>"
    )
    yield f'<ol class="cards">\n{"".join(_card(tour, i) for i in range(n))}</ol>'


def _score(tour: Tour) -> str:
    told = [
        f"{sum(found.right)} of {len(found.right)} by {backend}"
        for (backend, texts), found in tour.verdicts.items()
        if texts == "captions"
    ]
    return f" Here {' and '.join(told)} do." if told else ""


def _card(tour: Tour, i: int) -> str:
    """A caption, its translation, and what was drawn of it."""
    lines = [f'<li><p lang="en">{html.escape(tour.captions[i])}</p>']
    if tour.translations:
        lines.append(f'<p lang="zh">{html.escape(tour.translations[i])}</p>')
    figures = []
    for backend, files in tour.pictures.items():
        picture = _picture(files[i], f"{backend}: {tour.captions[i]}")
        verdict = _verdict(tour, backend, i)
        figures.append(f"<figure>{picture}<figcaption>{backend}{verdict}</figcaption></figure>")
    if figures:
        lines.append(f'<div class="pictures">{"".join(figures)}</div>')
    return "\n".join(lines) + "</li>\n"


def _picture(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def _verdict(tour: Tour, backend: str, i: int) -> str:
    found = tour.verdicts.get((backend, "captions"))
    if found is None:
        return ""
    if found.right[i]:
        return '<br><span class="right">as it says</span>'
    there = html.escape(found.shows[i] or "not a scene")
    translated = tour.verdicts.get((backend, "translation"))
    blame = ", as the translation says" if translated and translated.right[i] else ""
    return f'<br><span class="wrong">{there}{blame}</span>'


def _steps(tour: Tour) -> Iterable[str]:
    if tour.traces:
        yield "<h2>Step by step</h2>"
        yield f"<p>The first line, from the first step of each backend to its last. {SHADE}</p>"
    for backend, trace in tour.traces.items():
        yield f'<h3 class="backend" id="{backend}">{backend}</h3>'
        yield f"<p>It {ABOUT[backend]}</p>"
        yield player(trace)


def _figures(tour: Tour) -> Iterable[str]:
    if not tour.verdicts:
        return
    names = list(dict.fromkeys(name for v in tour.verdicts.values() for name in v.figures))
    yield "<h2>Figures</h2>"
    yield (
        "<p>Shares: <code>scene_accuracy</code> of pictures that show exactly what the text says, "
        "and in brackets of what they got right of it; <code>scene_validity</code> of those that "
        "show any scene at all. <i>pipe</i> is beside the first caption, <i>drawn</i> beside the "
        "translation that was drawn.</p>"
    )
    head = [f"{backend}<br>{_SHORT[texts]}" for backend, texts in tour.verdicts]
    rows = [
        [f"<code>{html.escape(name)}</code>"]
        + [_number(found.figures.get(name)) for found in tour.verdicts.values()]
        for name in names
    ]
    yield _table(["figure", *head], rows)


def _training(tour: Tour) -> Iterable[str]:
    if not tour.trainings:
        return
    drawn = any(run.grids for run in tour.trainings)
    yield "<h2>Training, for a moment</h2>"
    yield (
        "<p>Each backend began from nothing on the built-in world, so that you see it learn; "
        "<code>vq</code> is what makes tokens of pictures for <code>mvtm</code>. What is shown "
        "above comes from the checkpoints that ship with gentool: the same recipes, trained for "
        f"longer.{' Below the table are pictures of both.' if drawn else ''}</p>"
    )
    rows = [
        [
            f"<code>{run.name}</code>",
            str(run.losses[-1][0]),
            f"{run.seconds:.0f}",
            f"{run.losses[0][1]:.3g}",
            f"{run.losses[-1][1]:.3g}",
            _curve(run.losses),
        ]
        for run in tour.trainings
    ]
    yield _table(["", "steps", "seconds", "loss at first", "at last", ""], rows)
    for run in tour.trainings:
        if run.grids:
            yield f'<div class="grids">{"".join(_grids(run))}</div>'


def _grids(run: Training) -> Iterable[str]:
    when_drawn = (f"after {run.losses[-1][0]} steps", "as shipped")
    for png, when in zip(run.grids, when_drawn, strict=True):
        caption = f"<figcaption>{run.name}, {when}</figcaption>"
        yield f"<figure>{_picture(png, f'{run.name}, {when}')}{caption}</figure>"


def _curve(losses: Sequence[tuple[int, float]]) -> str:
    """The loss over the steps, from its highest to its lowest value."""
    high, low = max(loss for _, loss in losses), min(loss for _, loss in losses)
    last = losses[-1][0]
    points = " ".join(
        f"{_WIDTH * step / last:.1f},{_HEIGHT * (high - loss) / ((high - low) or 1):.1f}"
        for step, loss in losses
    )
    view = f"0 -1 {_WIDTH} {_HEIGHT + 2}"
    told = f"loss from {losses[0][1]:.3g} to {losses[-1][1]:.3g}"
    return (
        f'<svg viewBox="{view}" preserveAspectRatio="none" role="img" aria-label="{told}">'
        f'<polyline points="{points}"/></svg>'
    )


def _commands(tour: Tour) -> Iterable[str]:
    yield '<h2 id="commands">The commands</h2>'
    yield "<pre>"
    for command, seconds in tour.commands:
        words = " ".join(f"<span>{html.escape(word)}</span>" for word in command.split(" "))
        yield f'<div>{words} <span class="seconds"># {seconds:.0f} s</span></div>'
    yield "</pre>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{cells}</tr>\n{body}\n</table></div>'


def _number(value: Any) -> str:
    return "undefined" if value is None else f"{value:.2f}"
