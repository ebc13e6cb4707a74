"""A policy: what a production line asks of verdicts before it lets a job pass, kept as TOML under version control.

    format = "fusion-diff/policy/1"
    authentic_classes = ["sound"]
    alpha = 0.1
    minimum_score = 0.9
    maximum_region_um = 50.0
    out_of_scope = "fail"
    inconclusive = "warn"

Only `format` has to be there. What is judged not authentic fails, whatever else stands in it; what is left open fails
too, unless the policy says `warn` or `pass`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from fusion_diff.errors import PolicyError
from fusion_diff.inspection.wording import number
from fusion_diff.printable import printable
from fusion_diff.warn import warn

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from fusion_diff.inspection.run import Outcome
    from fusion_diff.verdict.result import Inspection, Region

FORMAT = "fusion-diff/policy/1"
"""Name and version of the file's schema."""
Action = Literal["pass", "warn", "fail"]
End = Literal["pass", "warn", "fail", "error"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""What becomes of a micrograph, the gravest last."""
MAX_BYTES = 2**14
MAX_LINES = 400
MAX_CLASSES = 100


@dataclass(frozen=True)
class Ruling:
    """What a policy makes of one outcome.

    Attributes:
        outcome: the inspection, or the error.
        action: `pass`, `warn` or `fail`; `error` where the micrograph could not be inspected.
        reasons: why it is not `pass`, in sentences; empty where it is.
    """

    outcome: Outcome
    action: End
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """What is asked of verdicts. Without arguments, what is judged authentic passes: no gate opens by an omission.

    Attributes:
        authentic_classes: a micrograph whose most likely class is none of these fails; any class where empty.
        alpha: error rate on either side to decide at, in (0, 1); None leaves it to the command.
        minimum_score: a score below this fails, in [0, 1].
        maximum_region_um: a region whose longest side is longer than this, in µm, fails; None allows any.
        out_of_scope: what becomes of a micrograph that is unlike every reference.
        inconclusive: what becomes of any other verdict of inconclusive.

    Raises:
        PolicyError: a value cannot be meant; the message names it and the cure.
    """

    authentic_classes: tuple[str, ...] = ()
    alpha: float | None = None
    minimum_score: float = 0.0
    maximum_region_um: float | None = None
    out_of_scope: Action = "fail"
    inconclusive: Action = "fail"

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not each.default:  # False equals 0.0
                object.__setattr__(self, each.name, _CHECKS[each.name](each.name, value))

    def rule(self, outcome: Outcome) -> Ruling:
        """Return what becomes of an outcome: the gravest of what its verdict, class, score and regions call for."""
        it = outcome.inspection
        if it is None:
            return Ruling(outcome, "error", (outcome.error or "it could not be inspected",))
        found = [
            *self._of_the_decision(it),
            *self._of_the_class(it),
            *self._of_the_score(it),
            *self._of_the_regions(it),
        ]
        action: Action = max((each for each, _ in found), key=ACTIONS.index, default="pass")
        return Ruling(outcome, action, tuple(reason for each, reason in found if each != "pass"))

    def rule_all(self, outcomes: Iterable[Outcome]) -> list[Ruling]:
        """Return what becomes of each outcome."""
        return [self.rule(outcome) for outcome in outcomes]

    def _of_the_decision(self, it: Inspection) -> list[tuple[Action, str]]:
        if it.decision == "authentic":
            return []
        if it.decision == "not authentic":
            return [("fail", f"It is not authentic, with a score of {number(it.score)}.")]
        if not it.in_scope:
            there = it.compared_with.comparable(it.pixel_size_um)
            why = (
                "unlike every reference, authentic or not" if there else "of another magnification than the references"
            )
            return [(self.out_of_scope, f"It is out of scope: {why}.")]
        return [(self.inconclusive, f"The verdict is inconclusive, with a score of {number(it.score)}.")]

    def _of_the_class(self, it: Inspection) -> list[tuple[Action, str]]:
        if not self.authentic_classes or it.predicted_class in self.authentic_classes:
            return []
        allowed = ", ".join(map(printable, self.authentic_classes))
        found = printable(it.predicted_class, 80)
        return [("fail", f"Its most likely class is {found}, none of those that the policy takes ({allowed}).")]

    def _of_the_score(self, it: Inspection) -> list[tuple[Action, str]]:
        if it.score >= self.minimum_score:  # a score that is no number passes nothing
            return []
        return [("fail", f"Its score is {number(it.score)}, less than the {number(self.minimum_score)} asked for.")]

    def _of_the_regions(self, it: Inspection) -> list[tuple[Action, str]]:
        if self.maximum_region_um is None or not it.regions:
            return []
        if it.pixel_size_um is None:
            return [
                (
                    "fail",
                    "It has regions whose size in µm is unknown, for its pixel size is; give it with --pixel-size.",
                )
            ]
        largest = max(region_size_um(region, it.pixel_size_um) for region in it.regions)
        if largest <= self.maximum_region_um:
            return []
        limit = number(self.maximum_region_um)
        return [("fail", f"A region is {number(largest)} µm long, more than the {limit} µm allowed.")]

    def explain(self) -> list[str]:
        """Return what the policy does, in plain sentences."""
        becomes = {"pass": "passes", "warn": "passes with a warning", "fail": "fails"}
        alpha = "an alpha that the command names" if self.alpha is None else f"an alpha of {self.alpha:g}"
        said = [
            f"Decisions are made at {alpha}.",
            "A micrograph that is judged not authentic fails, always.",
            "A micrograph that cannot be inspected is an error, always.",
            f"A micrograph that is out of scope, unlike every reference, {becomes[self.out_of_scope]}.",
            f"A micrograph whose verdict is inconclusive for another reason {becomes[self.inconclusive]}.",
        ]
        if self.authentic_classes:
            allowed = " or ".join(map(printable, self.authentic_classes))
            said.append(f"A micrograph whose most likely class is not {allowed} fails.")
        if self.minimum_score > 0:
            said.append(f"A micrograph with a score below {self.minimum_score:g} fails.")
        if self.maximum_region_um is not None:
            said.append(
                f"A micrograph with a region longer than {self.maximum_region_um:g} µm fails; so does one with any "
                "region where the pixel size is unknown."
            )
        said.append("The exit code is 3 if there is an error (or nothing to inspect), else 1 if any fails, else 0.")
        return said


def warn_of_unknown_classes(policy: Policy, classes: Iterable[str], name: str) -> None:
    """Warn of classes that a policy takes and a model does not have: a name mistyped lets nothing pass.

    Args:
        policy: what is asked of verdicts.
        classes: those of the model.
        name: what warnings call the policy.
    """
    from fusion_diff.references.reference import did_you_mean

    known = sorted(set(classes))
    unknown = [each for each in policy.authentic_classes if each not in known]
    if unknown:
        nothing = "; nothing will pass" if len(unknown) == len(policy.authentic_classes) else ""
        hints = ", ".join(f"{printable(each)}{printable(did_you_mean(each, known))}" for each in unknown)
        warn(
            f"{name}: the policy takes {hints}, and the model has no such class: its classes are "
            f"{', '.join(map(printable, known))}{nothing}"
        )


def exit_code(rulings: Sequence[Ruling]) -> int:
    """Return the exit code of a run under a policy: 3 if any is an error or there is none, 1 if any fails, else 0."""
    actions = {ruling.action for ruling in rulings}
    return 3 if not actions or "error" in actions else int("fail" in actions)


def region_size_um(region: Region, pixel_size_um: float) -> float:
    """Return the longest side of a region's box in µm."""
    return max(region.height, region.width) * pixel_size_um


def read_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy.

    Args:
        path: a TOML file of at most 16 KiB and 400 lines.

    Raises:
        PolicyError: it cannot be read, is not TOML, is of another format, or holds a key or a value that is not known;
            the message names the line and the cure.
    """
    file = Path(path)
    name = printable(file)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PolicyError(f"{name}: cannot be read ({reason}); check the path") from error
    if len(content) > MAX_BYTES or content.count(b"\n") > MAX_LINES:
        raise PolicyError(f"{name}: more than {MAX_BYTES} bytes or {MAX_LINES} lines, so no policy; check the path")
    try:
        text = content.decode("utf-8-sig")  # some editors put a byte order mark first
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the parser names the line itself
        raise PolicyError(f"{name}: not TOML in UTF-8 ({printable(error, 200)}); correct that line") from error
    return _parse(name, text, plain)


class _Problem(PolicyError):  # noqa: N818 (whoever is outside sees a PolicyError)
    """What is wrong with a key, and what to do about it."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{printable(key, 80)} is {problem}")
        self.key = key


def _parse(name: str, text: str, plain: dict[str, Any]) -> Policy:
    known = [each.name for each in fields(Policy)]
    if plain.get("format") != FORMAT:
        where = f", line {_line_of(text, 'format')}" if "format" in plain else ""
        raise PolicyError(f'{name}{where}: this version reads policies of one format; write format = "{FORMAT}"')
    try:
        for key in plain:
            if key not in known and key != "format":
                raise _Problem(key, f"not known; remove it, or use one of {', '.join(known)}")
        return Policy(**{key: value for key, value in plain.items() if key != "format"})
    except _Problem as error:
        raise PolicyError(f"{name}, line {_line_of(text, error.key)}: {error}") from None


def _line_of(text: str, key: str) -> int:
    """Return the line on which a top-level key of valid TOML is completed, counted from 1."""
    lines = text.splitlines(keepends=True)
    for count in range(1, len(lines)):
        try:
            if key in tomllib.loads("".join(lines[:count])):
                return count
        except ValueError:  # the text ends within a value of several lines
            continue
    return len(lines)


def _number(key: str, value: object, low: float, high: float, wanted: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise _Problem(key, f"{_shown(value)}; write a number {wanted}, such as {key} = {_SAMPLES[key]}")
    return float(value)


def _shown(value: object) -> str:
    try:
        return printable(repr(value), 40)
    except ValueError:  # hexadecimal numbers are read that have more digits than Python prints
        return "a number of thousands of digits"


def _alpha(key: str, value: object) -> float:
    return _number(key, value, 1e-6, 1 - 1e-6, "between 0 and 1")


def _score(key: str, value: object) -> float:
    return _number(key, value, 0, 1, "from 0 to 1")


def _length(key: str, value: object) -> float:
    return _number(key, value, 1e-9, 1e9, "of µm, above 0")


def _action(key: str, value: object) -> Action:
    for action in ACTIONS:
        if value == action:
            return action
    raise _Problem(key, f'{_shown(value)}; write "pass", "warn" or "fail"')


def _classes(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_CLASSES:
        raise _Problem(key, f'{_shown(value)}; write a list of names, such as {key} = ["sound"]')
    for each in value:
        if not isinstance(each, str) or not each.strip():
            raise _Problem(key, f'a list that holds {_shown(each)}; write names in quotes, such as ["sound"]')
    return tuple(value)


_SAMPLES = {"alpha": "0.1", "minimum_score": "0.9", "maximum_region_um": "50.0"}
_CHECKS: dict[str, Callable[[str, object], object]] = {
    "authentic_classes": _classes,
    "alpha": _alpha,
    "minimum_score": _score,
    "maximum_region_um": _length,
    "out_of_scope": _action,
    "inconclusive": _action,
}

NO_POLICY = Policy(out_of_scope="warn", inconclusive="warn")
"""What is done without a policy: the model's verdicts are followed, and what they leave open is warned of."""
