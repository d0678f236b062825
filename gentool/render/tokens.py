"""What the renderers of traces share: which tokens changed, and grids of tokens as pictures."""

from collections.abc import Sequence

import numpy as np

from gentool.trace import Frame, Tokens, View

PAPER, INK, FAINT = (255, 255, 255), (26, 26, 26), (150, 150, 150)
SURE, CHANGED, MASKED = (158, 197, 254), (214, 92, 0), (224, 224, 224)


def pictures(view: View) -> dict[str, np.ndarray]:
    """Everything in `view` that is a picture, uint8 [H, W, 3]: its images and grids of tokens."""
    images = {name: np.repeat(i, 3, 2) if i.shape[2] == 1 else i for name, i in view.images.items()}
    side = max((max(image.shape[:2]) for image in images.values()), default=64)
    grids = {name: _grid(tokens, side) for name, tokens in view.tokens.items() if not tokens.words}
    return images | grids


def texts(view: View) -> dict[str, Tokens]:
    """The rows of words in `view`."""
    return {name: tokens for name, tokens in view.tokens.items() if tokens.words}


def shown(tokens: Tokens) -> tuple[str, ...]:
    """The words of a row up to where nothing stands any more, at least one."""
    end = max((i for i, word in enumerate(tokens.words) if word), default=0)
    return tokens.words[: end + 1]


def changed(before: View | None, name: str, place: int, word: str) -> bool:
    """Whether the word at `place` of the row `name` was another one in `before`."""
    if before is None or name not in before.tokens:
        return False
    words = before.tokens[name].words
    return place >= len(words) or words[place] != word


def shade(confidence: float) -> tuple[int, ...]:
    """The colour behind a token: from paper to SURE, in a few steps that the eye tells apart."""
    share = min(4, int(max(0.0, min(1.0, confidence)) * 5)) / 4
    return tuple(round(p + (s - p) * share) for p, s in zip(PAPER, SURE, strict=True))


def spread(frames: Sequence[Frame], n: int) -> list[Frame]:
    """At most n of the frames, evenly, the first and the last among them."""
    if len(frames) <= n:
        return list(frames)
    return [frames[round(i * (len(frames) - 1) / (n - 1))] for i in range(n)]


def _grid(tokens: Tokens, side: int) -> np.ndarray:
    """A cell for each token: its shade, or grey with a dark corner where it is masked."""
    rows, columns = tokens.confidence.shape
    n = max(4, side // max(rows, columns))
    corner = np.add.outer(np.arange(n), np.arange(n)) < n // 2
    grid = np.empty((rows, n, columns, n, 3), np.uint8)
    for row, column in np.ndindex(rows, columns):
        cell = np.empty((n, n, 3), np.uint8)
        cell[:] = shade(float(tokens.confidence[row, column]))
        if tokens.masked[row, column]:
            cell[:] = MASKED
            cell[corner] = FAINT
        cell[-1], cell[:, -1] = PAPER, PAPER
        grid[row, :, column] = cell
    return grid.reshape(rows * n, columns * n, 3)
