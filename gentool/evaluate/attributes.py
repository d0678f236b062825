"""What of a caption its picture shows, attribute by attribute. Pure functions over scenes."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from gentool.data.scenes import Scene
from gentool.evaluate.scenes import Verdict

KINDS = ("shape", "color", "size")


def attribute_figures(found: Sequence[Verdict]) -> tuple[dict[str, float | None], dict[str, float]]:
    """Shares by attribute, and what was shown in place of what.

    scene_accuracy[count]: pictures with as many things as the caption names. [shape], [color],
    [size]: things that have the one they should; [place], [relation]: of captions that tell one. A
    picture that is no scene, or has another number of things, has none of them right.
    scene_confusion[color: red > blue]: of the red things that were shown in any colour, the share
    that was blue. Of two things each is compared with the one that it is most like.
    """
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    shown: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for verdict in found:
        if verdict.wanted is None:  # it asks for nothing
            continue
        wanted = verdict.wanted.canonical()
        seen = _told_alike(wanted, verdict.seen)
        asked["count"] += 1
        right["count"] += seen is not None
        for kind in KINDS:
            for number, thing in enumerate(wanted.things):
                asked[kind] += 1
                if seen is not None:
                    value = getattr(seen.things[number], kind)
                    shown[kind, getattr(thing, kind)][value] += 1
                    right[kind] += value == getattr(thing, kind)
        for kind in ("place", "relation"):
            if (value := getattr(wanted, kind)) is not None:
                asked[kind] += 1
                if seen is not None:
                    told = getattr(seen, kind)
                    shown[kind, value][told] += 1
                    right[kind] += told == value
    shares = {
        f"scene_accuracy[{kind}]": right[kind] / asked[kind] if asked[kind] else None
        for kind in ("count", *KINDS, "place", "relation")
    }
    confusion = {
        f"scene_confusion[{kind}: {value} > {other}]": n / counts.total()
        for (kind, value), counts in sorted(shown.items())
        for other, n in sorted(counts.items())
        if other != value
    }
    return shares, confusion


def _told_alike(wanted: Scene, seen: Scene | None) -> Scene | None:
    """`seen` told so that its things come in the order of those that they are most like; None where
    it has another number of things."""
    if seen is None or len(seen.things) != len(wanted.things):
        return None
    ways = [seen] if seen.relation is None else [seen.canonical(), seen.canonical().inverted()]

    def alike(way: Scene) -> int:
        same = sum(
            getattr(a, kind) == getattr(b, kind)
            for a, b in zip(way.things, wanted.things, strict=True)
            for kind in KINDS
        )
        return 2 * same + (way.relation == wanted.relation)

    return max(ways, key=alike)
