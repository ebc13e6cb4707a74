"""Geometry of the charts of the history page. The template draws them as SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusion_diff.counted import counted
from fusion_diff.inspection.wording import number
from fusion_diff.service.pages.trend import BASELINE, FEWEST, Baseline
from fusion_diff.service.reference_level import logit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from fusion_diff.service.reference_level import Level

WIDTH, HEIGHT = 560, 220
LEFT, RIGHT, TOP, BOTTOM = 8, 46, 22, 28  # the labels are at the right, where a narrow screen opens a chart
SHOWN = 200
"""Most scores in a chart; the newest are shown."""

_TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.997, 0.999)
_DATES = 4


@dataclass(frozen=True)
class Scored:
    """The fields of an inspection that charts use: `decision` is the model's, `overruled` the expert's."""

    id: str
    name: str
    created: datetime
    score: float
    decision: str
    overruled: str | None = None
    in_scope: bool = True

    @property
    def told(self) -> str:
        """The model's decision, or that the micrograph is out of scope."""
        return self.decision if self.in_scope else "out of scope"


@dataclass(frozen=True)
class Point:
    """A point in a chart: position, kind, inspection, tooltip, and whether an expert overruled it."""

    x: float
    y: float
    kind: str
    id: str
    title: str
    overruled: bool = False


@dataclass(frozen=True)
class Band:
    """The range of the references in a chart: its top, its height, and the y position of the median."""

    top: float
    height: float
    middle: float


@dataclass(frozen=True)
class Chart:
    """A chart in pixels.

    Attributes:
        name: short name, used in ids.
        title: title.
        summary: the result in one sentence.
        ticks: y position and label of each grid line.
        dates: x position and label of each date.
        points: points.
        line: SVG points of the line; empty for none.
        limits: SVG points of the limit lines.
        centre: y position of the mean; None if unknown.
        band: range of the references; None if unknown.
    """

    name: str
    title: str
    summary: str
    ticks: list[tuple[float, str]]
    dates: list[tuple[float, str]]
    points: list[Point] = field(default_factory=list)
    line: str = ""
    limits: list[str] = field(default_factory=list)
    centre: float | None = None
    band: Band | None = None


class _Scale:
    """Maps indices and log-odds to pixels."""

    def __init__(self, count: int, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        margin = max(0.65, 0.06 * (high - low))  # so that at least one grid line is visible
        self._low, self._high, self._count = low - margin, high + margin, count

    def x(self, place: int) -> float:
        share = 0.5 if self._count == 1 else place / (self._count - 1)
        return round(LEFT + 6 + share * (WIDTH - LEFT - RIGHT - 12), 1)

    def y(self, value: float) -> float:
        share = (min(self._high, max(self._low, value)) - self._low) / (self._high - self._low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        inside = [score for score in _TICKS if self._low < logit(score) < self._high]
        found: list[tuple[float, str]] = []
        for score in sorted(inside, key=lambda each: abs(logit(each))):  # labels near 0.5 come first
            height = self.y(logit(score))
            if all(abs(height - other) >= 16 for other, _ in found):
                found.append((height, f"{score:g}"))
        return found

    def band(self, level: Level | None) -> Band | None:
        if level is None:
            return None
        top, bottom = self.y(level.high), self.y(level.low)
        return Band(top, max(2.0, round(bottom - top, 1)), self.y(level.middle))


def score_chart(scored: Sequence[Scored], baseline: Baseline | None, level: Level | None) -> Chart:
    """Return the chart of single scores with their limits. Those out of scope are drawn, and count nowhere.

    Args:
        scored: at least one inspection, oldest first.
        baseline: baseline of the model's first scores; None if there are too few.
        level: level of its references; None if unknown.
    """
    shown = scored[-SHOWN:]
    values = [logit(each.score) for each in shown]
    limits: tuple[float, ...] = () if baseline is None else baseline.limits
    scale = _Scale(len(shown), [*values, *limits, *_ends(level)])
    points = [
        Point(scale.x(place), scale.y(value), each.overruled or each.told, each.id, _title(each), bool(each.overruled))
        for place, (each, value) in enumerate(zip(shown, values, strict=True))
    ]
    count = counted(sum(each.in_scope for each in shown), "score")
    if baseline is None:
        told = f"{count}; limits are drawn once there are {FEWEST}."
    else:
        low, high = baseline.limits
        beyond = sum(each.in_scope and not low <= value <= high for each, value in zip(shown, values, strict=True))
        told = f"{count}, {beyond} of them outside the limits set by the model's first {baseline.count} scores."
        told += _provisional(baseline)
    if left_out := sum(not each.in_scope for each in shown):
        told += f" Left out: {counted(left_out, 'score')} out of scope."
    return Chart(
        "scores",
        "Scores",
        told,
        scale.ticks,
        _dates(shown, scale),
        points,
        limits=[f"{LEFT},{scale.y(limit)} {WIDTH - RIGHT},{scale.y(limit)}" for limit in limits],
        centre=None if baseline is None else scale.y(baseline.mean),
        band=scale.band(level),
    )


def drift_chart(
    scored: Sequence[Scored], baseline: Baseline | None, level: Level | None, *, more: bool = False
) -> Chart | None:
    """Return the chart of the moving average with its limits; None if there is no baseline or nothing in scope.

    Args:
        scored: inspections, oldest first; filtered by time only, because other filters bias the average. Those out of
            scope are left out.
        baseline: as in `score_chart`.
        level: as in `score_chart`.
        more: whether `scored` has more inspections than the filters accept; the summary then says so.
    """
    scored = [each for each in scored if each.in_scope]
    if baseline is None or not scored:
        return None
    values = [logit(each.score) for each in scored]
    averages, beyond = baseline.averages(values), baseline.beyond(values)
    first = max(0, len(scored) - SHOWN)
    shown = scored[first:]
    widths = [baseline.half_width(place + 1) for place in range(first, len(scored))]
    reach = max(widths)
    scale = _Scale(len(shown), [*averages[first:], baseline.mean - reach, baseline.mean + reach, *_ends(level)])
    places = range(len(shown))
    out = [
        Point(scale.x(place - first), scale.y(averages[place]), "beyond", scored[place].id, _title(scored[place]))
        for place in beyond
        if place >= first
    ]
    return Chart(
        "drift",
        "Drift: moving average of the scores",
        _drifted(averages, beyond, baseline)
        + _provisional(baseline)
        + more * " All scores of the model are averaged, also those that the filters leave out.",
        scale.ticks,
        _dates(shown, scale),
        out,
        line=" ".join(f"{scale.x(place)},{scale.y(averages[first + place])}" for place in places),
        limits=[
            " ".join(f"{scale.x(place)},{scale.y(baseline.mean + side * widths[place])}" for place in places)
            for side in (1, -1)
        ],
        centre=scale.y(baseline.mean),
        band=scale.band(level),
    )


def _drifted(averages: Sequence[float], beyond: Sequence[int], baseline: Baseline) -> str:
    if not beyond:
        return "The average has stayed within its limits: no drift seen."
    if beyond[-1] == len(averages) - 1:
        side = "below" if averages[-1] < baseline.mean else "above"
        return f"The average is now {side} its limits: check the instrument, the preparation and the ware."
    return f"The average was outside its limits at {counted(len(beyond), 'inspection')}, and is now within them."


def _provisional(baseline: Baseline) -> str:
    """Return a remark on limits that new scores still move."""
    if baseline.count >= BASELINE:
        return ""
    return f" Limits provisional ({baseline.count} of {BASELINE} scores)."


def _title(each: Scored) -> str:
    decision = f"{each.overruled} (overruled; the model said {each.told})" if each.overruled else each.told
    return f"{each.name}: {number(each.score)}, {decision}, {each.created:%Y-%m-%d %H:%M}"


def _ends(level: Level | None) -> tuple[float, ...]:
    return () if level is None else (level.low, level.high)


def _dates(shown: Sequence[Scored], scale: _Scale) -> list[tuple[float, str]]:
    """Return x position and label of some dates, the newest first, each day once."""
    step = max(1, math.ceil(len(shown) / _DATES))
    found: list[tuple[float, str]] = []
    for place in range(len(shown) - 1, -1, -step):
        day = f"{shown[place].created:%Y-%m-%d}"
        if not found or found[-1][1] != day:
            found.append((scale.x(place), day))
    return found
