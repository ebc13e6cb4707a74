"""JUnit XML with one test case per micrograph, for continuous integration.

A micrograph that fails by the policy is a `failure`, one with a warning is `skipped`, one that could not be inspected
is an `error`. `printable` escapes control characters in names and sentences, which XML cannot represent.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from fusion_diff import __version__
from fusion_diff.inspection.policy import policy_of
from fusion_diff.inspection.run import time_span
from fusion_diff.inspection.wording import number
from fusion_diff.printable import paragraph, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fusion_diff.inspection.policy import Ruling

SUITE = "fusion-diff inspect"
_MODEL = ("model_name", "model_sha256", "references_sha256", "alpha")
_TAGS = {"fail": "failure", "warn": "skipped", "error": "error"}


def to_junit(rulings: Sequence[Ruling], notes: Sequence[str] = ()) -> str:
    """Return rulings as a JUnit document, one test case each, in the same order.

    Args:
        rulings: on each micrograph.
        notes: remarks on the whole, such as which files were skipped.
    """
    counts = Counter(ruling.action for ruling in rulings)
    seconds = sum(ruling.outcome.inspection.seconds for ruling in rulings if ruling.outcome.inspection is not None)
    totals = {
        "tests": str(len(rulings)),
        "failures": str(counts["fail"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["warn"]),
        "time": f"{seconds:.3f}",
    }
    suites = ElementTree.Element("testsuites", {"name": SUITE, **totals})
    span = time_span(ruling.outcome for ruling in rulings)
    began = {} if span is None else {"timestamp": f"{span[0]:%Y-%m-%dT%H:%M:%S}"}  # its schema allows no zone
    suite = ElementTree.SubElement(suites, "testsuite", {"name": SUITE, **totals, **began})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(rulings):
        ElementTree.SubElement(properties, "property", {"name": name, "value": value})
    for ruling in rulings:
        _add_case(suite, ruling)
    if notes:
        ElementTree.SubElement(suite, "system-err").text = "\n".join(paragraph(note) for note in notes)
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _properties(rulings: Sequence[Ruling]) -> Iterable[tuple[str, str]]:
    """Return name and value of what judged: the program, the policy and the model, each once."""
    policy = policy_of(rulings)
    told = [("version", __version__), *([] if policy is None else [("policy_sha256", str(policy.sha256))])]
    for it in (ruling.outcome.inspection for ruling in rulings):
        if it is not None:
            told += [(name, printable(getattr(it, name))) for name in _MODEL]
    return dict.fromkeys(told)


def _add_case(suite: ElementTree.Element, ruling: Ruling) -> None:
    it = ruling.outcome.inspection
    name = printable(ruling.outcome.path)
    attributes = {"classname": "micrographs", "name": name, "file": name, "time": f"{it.seconds if it else 0:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    said = [paragraph(reason) for reason in ruling.reasons]
    if ruling.action != "pass":
        told = ElementTree.SubElement(case, _TAGS[ruling.action], {"message": " ".join(said)})
        if ruling.action != "warn":
            told.set("type", "could not be inspected" if it is None else it.decision)
            told.text = "\n".join(said)
    if it is not None:
        out = ElementTree.SubElement(case, "system-out")
        lines = [f"{it.decision}, score {number(it.score)}, class {printable(it.predicted_class)}", *it.reasons]
        out.text = "\n".join(paragraph(line) for line in lines)
