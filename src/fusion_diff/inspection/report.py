"""The report: one HTML file that contains its pictures and needs no server.

The page loads nothing, and its content security policy allows no script but the one defined here. File names are
untrusted: Jinja2 escapes them, and the policy keeps them from running anything if that failed.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff import __version__
from fusion_diff.counted import typeset
from fusion_diff.inspection import draw, verdict_values
from fusion_diff.inspection.pages import template
from fusion_diff.inspection.policy import ACTIONS, policy_of
from fusion_diff.inspection.wording import SYMBOLS, below_common_folder, p_value_sentences, region_count
from fusion_diff.printable import paragraph
from fusion_diff.verdict.reasons import MEANING, nothing_decided
from fusion_diff.whole import whole_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from fusion_diff.fewshot.decision import Decision
    from fusion_diff.inspection.policy import Ruling
    from fusion_diff.inspection.run import Outcome
    from fusion_diff.verdict.result import Inspection

_SCRIPT = (
    'document.documentElement.classList.add("scripted");'
    'document.addEventListener("input",function(e){if(e.target.matches(".fade"))'
    'e.target.closest("figure").style.setProperty("--heat",e.target.value/100)});'
    'addEventListener("beforeprint",function(){document.querySelectorAll("details").forEach(function(d){d.open=true})})'
)
_GRAVEST_FIRST = ("not authentic", "inconclusive", "authentic")


def write_report(
    outcomes: Iterable[Outcome],
    folder: str | os.PathLike[str],
    *,
    title: str = "Inspection report",
    rulings: Sequence[Ruling] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write `index.html` to a folder and return its path.

    Micrographs are sorted by decision (not authentic, inconclusive, authentic) and then by rising score, after a list
    of those that could not be inspected. Where an expert overruled the model, the expert's decision is used and both
    are shown. All heat maps share one scale. The file is replaced atomically once it is complete. Pictures are drawn
    one micrograph at a time, so that hundreds fit in memory.

    Args:
        outcomes: outcomes of `inspect_paths`.
        folder: created where it does not exist.
        title: heading of the report.
        rulings: rulings on these outcomes, told beside the decisions where the policy is from a file.
        notes: remarks on the whole, such as which files were skipped.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    with whole_file(page) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(report_page(outcomes, title=title, rulings=rulings, notes=notes))
    return page


def report_page(
    outcomes: Iterable[Outcome],
    *,
    title: str = "Inspection report",
    rulings: Sequence[Ruling] = (),
    notes: Sequence[str] = (),
) -> Iterator[str]:
    """Return the parts of the page, drawn as they are asked for; see `write_report`."""
    outcomes = list(outcomes)
    inspected = [(outcome, outcome.inspection) for outcome in outcomes if outcome.inspection is not None]
    inspected.sort(key=lambda pair: (_GRAVEST_FIRST.index(_decision(*pair)), pair[1].score))
    inspections = [inspection for _, inspection in inspected]
    limit = draw.heat_limit([i.evidence for i in inspections], [i.threshold for i in inspections])
    longest = max((abs(value) for i in inspections for value in verdict_values.summands(i).values()), default=0.0)

    counts = Counter[str](_decision(*pair) for pair in inspected)
    ruled = {ruling.outcome: ruling.told for ruling in rulings if ruling.told}
    actions = Counter(told["action"] for told in ruled.values())
    stream = template(Path(__file__).with_name("report.html.j2")).stream(
        title=paragraph(title),
        printed=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        script=_SCRIPT,
        script_hash=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        total=len(outcomes),
        counts=[(decision, SYMBOLS[decision], counts[decision]) for decision in SYMBOLS],
        policy=policy_of(rulings),
        ruled=ruled,
        actions=[(action, actions[action]) for action in ("error", *reversed(ACTIONS)) if actions[action]],
        undecided=nothing_decided([i for outcome, i in inspected if outcome.overruled is None]),
        notes=notes,
        kinds=[
            (name, meaning) for name, meaning in MEANING.items() if any(name in i.contributions for i in inspections)
        ],
        beyond=sum(not i.in_scope and outcome.overruled is None for outcome, i in inspected),
        calibrated=all(i.calibrated for i in inspections),
        two_sided=any("not authentic" in i.p_values for i in inspections),
        one_sided=any(set(i.p_values) == {"authentic"} for i in inspections),
        symbols=SYMBOLS,
        region_count=region_count,
        shown=below_common_folder([outcome.path for outcome in outcomes]),
        rows=inspected,
        failures=[outcome for outcome in outcomes if outcome.inspection is None],
        judges=list({(i.model_sha256, i.references_sha256, i.alpha): i for i in inspections}.values()),
        limit=limit,
        gradient=", ".join(f"rgb({r} {g} {b} / {a:.2f})" for r, g, b, a in verdict_values.heat_stops()),
        cards=(
            _card(outcome, inspection, limit, longest) | {"ruled": ruled.get(outcome)}
            for outcome, inspection in inspected
        ),
    )
    stream.enable_buffering(64)
    return stream


def _decision(outcome: Outcome, inspection: Inspection) -> Decision:
    """Return the decision that is valid: the expert's where there is one."""
    return inspection.decision if outcome.overruled is None else outcome.overruled.decision


def _card(outcome: Outcome, inspection: Inspection, limit: float, longest: float) -> dict[str, Any]:
    """Return the template's values for one micrograph, with its pictures drawn."""
    from PIL import Image

    evidence, size, compared = inspection.evidence, inspection.pixel_size_um, inspection.compared_with
    notes = draw.outlines(evidence, inspection.threshold, inspection.regions, size)
    return {
        "path": outcome.path,
        "it": inspection,
        "decision": _decision(outcome, inspection),
        "overruled": outcome.overruled,
        "recorded": outcome.recorded,
        "judged": f"{outcome.judged:%Y-%m-%d %H:%M:%S} UTC",
        "micrograph": outcome.thumbnail is not None and draw.data_uri(Image.fromarray(outcome.thumbnail), "JPEG"),
        "heat": draw.data_uri(draw.heat_map(evidence, limit), "PNG"),
        "notes": draw.data_uri(notes, "PNG"),
        "scale_bar": draw.scale_bar(inspection.width, size).label,
        "peak": float(evidence.values.max()),
        "threshold_at": verdict_values.threshold_at(inspection, limit),
        "field": verdict_values.field_of_view(inspection),
        "regions": [verdict_values.measures(region) for region in inspection.regions],
        "p_values": p_value_sentences(inspection.p_values, compared),
        "contributions": verdict_values.bars(inspection, longest),
        "log_odds": sum(verdict_values.summands(inspection).values()),
        "nearest": [(each.name, each.label, _similarity(each.similarity)) for each in inspection.nearest],
    }


def _similarity(value: float) -> str:
    """Return a cosine with three decimals; zero has no sign."""
    return typeset(f"{round(value, 3) + 0.0:.3f}")
