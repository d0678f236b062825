"""A trace as one HTML file that asks for nothing from anywhere: a slider over the steps."""

import html
import json
import re
from importlib.resources import files
from typing import Any

from gentool.render.records import frame_record
from gentool.trace import Trace

_NAMES = {"x_t": "x_t, on its way", "x_0_hat": "x_0_hat, where it seems to lead"}
SHADE = (
    "The more colour behind a token, the likelier it is; an underlined one has changed since the "
    "step before; one in dashes is masked and will be drawn again."
)
_PICTURES = "What each step has made, from the first to the last."
_KEYS = (
    "<kbd>←</kbd> <kbd>→</kbd> a step back or on, <kbd>Home</kbd> <kbd>End</kbd> first and last, "
    "<kbd>Space</kbd> plays and stops. This page holds all it shows and asks for nothing."
)


def page(trace: Trace) -> str:
    """The file. Without scripts it shows the last step; its text tells all but the pictures."""
    title = html.escape(f"{trace.facts['verb']} {trace.facts['backend']}, step by step")
    facts = "\n".join(_fact(name, value) for name, value in _told(trace.facts).items())
    legend = SHADE if any(frame.view.tokens for frame in trace.frames) else _PICTURES
    return filled(
        title,
        f"<header>\n<h1>{title}</h1>\n<dl>\n{facts}\n</dl>\n</header>\n"
        f"<main>\n{player(trace)}\n</main>\n"
        f"<footer>\n<p>{legend}</p>\n<p>{_KEYS}</p>\n</footer>",
    )


def filled(title: str, body: str, style: str = "") -> str:
    """A page that holds all it shows: `body`, which may have players, with `style` of its own."""
    parts = {"title": title, "body": body}
    parts |= {"style": part("page.css") + style, "script": part("player.js")}
    return re.sub("@([a-z]+)@", lambda match: parts[match[1]], part("page.html"))


def player(trace: Trace) -> str:
    """The samples of a trace with a slider over their steps; a page may have several."""
    records = [frame_record(frame) for frame in trace.frames]
    last = {record["sample"]: record for record in records}
    total = int(trace.facts["steps"])
    is_text = any(t["words"] for record in records for t in record["tokens"].values())
    sections = "\n".join(_section(record, total) for record in last.values())
    # No text of the trace can end the script that holds it.
    frames = json.dumps(records, ensure_ascii=False).replace("<", "\\u003c")
    return f"""<div class="trace" data-total="{total}">
<div class="controls" hidden>
<button type="button">Play</button>
<label>Step <input type="range" min="0" step="1"></label>
<output></output>
</div>
<div class="samples {"text" if is_text else "pictured"}">
{sections}
</div>
<script type="application/json" class="frames">{frames}</script>
</div>"""


def part(name: str) -> str:
    """A file beside this one that pages are made of."""
    return (files("gentool.render") / name).read_text(encoding="utf-8")


def _told(facts: dict[str, Any]) -> dict[str, str]:
    settings = ", ".join(f"{name} {value}" for name, value in facts["settings"].items())
    return {
        "checkpoint": f"{facts['checkpoint']} (step {facts['checkpoint_step']})",
        **({} if facts["seed"] is None else {"seed": str(facts["seed"])}),
        "settings": settings,
        "command": facts["command"],
    }


def _fact(name: str, value: str) -> str:
    text = html.escape(value)
    return f"<dt>{name}</dt><dd>{f'<code>{text}</code>' if name == 'command' else text}</dd>"


def _section(record: dict[str, Any], total: int) -> str:
    """One sample after its last step, which scripts turn into any other."""
    number = int(record["sample"])
    prompt = f": {html.escape(record['prompt'])}" if record["prompt"] else ""
    figures, rows = [], []
    for name, data in record["images"].items():
        view, data = html.escape(name), html.escape(data)
        alt = html.escape(f"Sample {number}, {name} after step {record['step']} of {total}")
        picture = f'<img data-view="{view}" alt="{alt}" src="data:image/png;base64,{data}">'
        figures.append(f"<figure>{picture}{_caption(name)}</figure>")
    for name, tokens in record["tokens"].items():
        view = html.escape(name)
        if tokens["words"]:
            text = html.escape(" ".join(word for word in tokens["words"] if word))
            heading = html.escape(_NAMES.get(name, name))
            rows.append(f'<h3>{heading}</h3>\n<p class="row" data-view="{view}">{text}</p>')
        else:
            grid = f'<div class="grid" role="img" data-view="{view}"></div>'
            figures.append(f"<figure>{grid}{_caption(name)}</figure>")
    pictures = f'<div class="pictures">{"".join(figures)}</div>' if figures else ""
    parts = [f"<h2>Sample {number}{prompt}</h2>", pictures, *rows]
    body = "\n".join(part for part in parts if part)
    return f'<section data-sample="{number}">\n{body}\n</section>'


def _caption(name: str) -> str:
    return f"<figcaption>{html.escape(_NAMES.get(name, name))}</figcaption>"
