"""Policies: rules by which a production line passes, warns of or fails verdicts, in a TOML file.

    format = "fusion-diff/policy/1"
    authentic_classes = ["sound"]
    alpha = 0.1
    minimum_score = 0.9
    maximum_region_um = 50.0
    out_of_scope = "fail"
    inconclusive = "warn"

Only `format` is required. A micrograph that is judged not authentic always fails. An inconclusive one fails too, unless
the policy says `warn` or `pass`.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from fusion_diff.errors import PolicyError
from fusion_diff.inspection.wording import number, told_apart
from fusion_diff.printable import printable
from fusion_diff.warn import warn

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from fusion_diff.inspection.run import Outcome
    from fusion_diff.verdict.result import Inspection

FORMAT = "fusion-diff/policy/1"
"""Name and version of the file format."""
Action = Literal["pass", "warn", "fail"]
End = Literal["pass", "warn", "fail", "error"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""Actions on a micrograph, the most severe last."""
MAX_BYTES = 2**14
MAX_LINES = 400
MAX_CLASSES = 100


@dataclass(frozen=True)
class Ruling:
    """Result of applying a policy to one outcome.

    Attributes:
        outcome: the inspection or the error.
        action: `pass`, `warn` or `fail`; `error` where the micrograph could not be inspected.
        reasons: reasons for any other action than `pass`, in sentences.
        policy: the policy; None where it is not known.
    """

    outcome: Outcome
    action: End
    reasons: tuple[str, ...] = ()
    policy: Policy | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What outputs tell beside the decision: `sha256` of the policy's file, `action` and `reasons`.

        It is empty where the policy is from no file. The reason for an error is the error itself, which they hold.
        """
        if self.policy is None or self.policy.sha256 is None:
            return {}
        reasons = [] if self.action == "error" else list(self.reasons)
        return {"sha256": self.policy.sha256, "action": self.action, "reasons": reasons}


@dataclass(frozen=True)
class Policy:
    """Rules for verdicts. The defaults are strict: only micrographs that are judged authentic pass.

    Attributes:
        authentic_classes: allowed classes; a micrograph with another most likely class fails. Empty allows any class.
        alpha: error rate on either side, in (0, 1); None leaves it to the command.
        minimum_score: lowest allowed score, in [0, 1].
        maximum_region_um: largest allowed length of a region, in µm; None allows any.
        out_of_scope: action on a micrograph that is out of scope.
        inconclusive: action on any other inconclusive verdict.
        sha256: sha256 of the file it was read from, by which outputs name it; None where it is from no file.

    Raises:
        PolicyError: a value is not allowed; the message names it and the cure.
    """

    authentic_classes: tuple[str, ...] = ()
    alpha: float | None = None
    minimum_score: float = 0.0
    maximum_region_um: float | None = None
    out_of_scope: Action = "fail"
    inconclusive: Action = "fail"
    sha256: str | None = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in _CHECKS and value is not each.default:  # False equals 0.0
                object.__setattr__(self, each.name, _CHECKS[each.name](each.name, value))

    def rule(self, outcome: Outcome) -> Ruling:
        """Return the ruling on an outcome: the most severe action that decision, class, score and regions require."""
        it = outcome.inspection
        if it is None:
            return Ruling(outcome, "error", (outcome.error or "it could not be inspected",), self)
        found = [
            *self._of_the_decision(it),
            *self._of_the_class(it),
            *self._of_the_score(it),
            *self._of_the_regions(it),
        ]
        action: Action = max((each for each, _ in found), key=ACTIONS.index, default="pass")
        return Ruling(outcome, action, tuple(reason for each, reason in found if each != "pass"), self)

    def rule_all(self, outcomes: Iterable[Outcome]) -> list[Ruling]:
        """Return the ruling on each outcome."""
        return [self.rule(outcome) for outcome in outcomes]

    def _of_the_decision(self, it: Inspection) -> list[tuple[Action, str]]:
        if it.decision == "authentic":
            return []
        if it.decision == "not authentic":
            by = f"a p-value of {it.p_values['authentic']:.2g} at alpha {it.alpha:g}"
            return [("fail", f"It is not authentic, with a score of {number(it.score)} and {by}.")]
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
        return [("fail", f"Its most likely class is {found}, but the policy allows only {allowed}.")]

    def _of_the_score(self, it: Inspection) -> list[tuple[Action, str]]:
        if it.score >= self.minimum_score:  # NaN never passes
            return []
        score, required = told_apart(it.score, self.minimum_score)
        return [("fail", f"Its score is {score}, below the required {required}.")]

    def _of_the_regions(self, it: Inspection) -> list[tuple[Action, str]]:
        if self.maximum_region_um is None or not it.regions:
            return []
        lengths = [region.length_um for region in it.regions if region.length_um is not None]
        if len(lengths) < len(it.regions):
            return [
                (
                    "fail",
                    "It has regions of unknown size in µm, because its pixel size is unknown; give it "
                    "(--pixel-size, or pixel_size_um in Python).",
                )
            ]
        if max(lengths) <= self.maximum_region_um:
            return []
        length, limit = told_apart(max(lengths), self.maximum_region_um)
        return [("fail", f"A region is {length} µm long, more than the allowed {limit} µm.")]

    def explain(self) -> list[str]:
        """Return a description of the policy, in sentences."""
        becomes = {"pass": "passes", "warn": "passes with a warning", "fail": "fails"}
        alpha = "the alpha of the command" if self.alpha is None else f"an alpha of {self.alpha:g}"
        said = [
            f"Decisions are made at {alpha}.",
            "A micrograph that is judged not authentic always fails.",
            "A micrograph that cannot be inspected is always an error.",
            "A micrograph that is out of scope, unlike every reference or of another magnification, "
            f"{becomes[self.out_of_scope]}.",
            f"A micrograph whose verdict is inconclusive for another reason {becomes[self.inconclusive]}.",
        ]
        if self.authentic_classes:
            allowed = " or ".join(map(printable, self.authentic_classes))
            said.append(f"A micrograph fails if its most likely class is other than {allowed}.")
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
    """Warn of classes that a policy allows and the model lacks, such as a mistyped name, with which nothing passes.

    Args:
        policy: the policy.
        classes: classes of the model.
        name: name of the policy in warnings.
    """
    from fusion_diff.references.reference import did_you_mean

    known = sorted(set(classes))
    unknown = [each for each in policy.authentic_classes if each not in known]
    if unknown:
        nothing = "; nothing will pass" if len(unknown) == len(policy.authentic_classes) else ""
        hints = ", ".join(f"{printable(each)}{printable(did_you_mean(each, known))}" for each in unknown)
        warn(
            f"{name}: the policy allows {hints}, but the classes of the model are "
            f"{', '.join(map(printable, known))}{nothing}"
        )


def policy_of(rulings: Iterable[Ruling]) -> Policy | None:
    """Return the policy of a run's rulings, which outputs name; None where it is from no file."""
    return next((ruling.policy for ruling in rulings if ruling.told), None)


def exit_code(rulings: Sequence[Ruling]) -> int:
    """Return the exit code of a run: 3 if there is an error or no ruling at all, else 1 if any fails, else 0."""
    actions = {ruling.action for ruling in rulings}
    return 3 if not actions or "error" in actions else int("fail" in actions)


def read_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy.

    Args:
        path: a TOML file of at most 16 KiB and 400 lines.

    Raises:
        PolicyError: it cannot be read, is not TOML, has another format, or has an unknown key or a value that is not
            allowed; the message names the line and the cure.
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
        raise PolicyError(
            f"{name}: has more than {MAX_BYTES} bytes or {MAX_LINES} lines, too many for a policy; check the path"
        )
    try:
        text = content.decode("utf-8-sig")  # some editors write a byte order mark
        plain = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the parser names the line itself
        raise PolicyError(f"{name}: is not TOML in UTF-8 ({printable(error, 200)}); correct that line") from error
    return replace(_parse(name, text, plain), sha256=hashlib.sha256(content).hexdigest())


class _Problem(PolicyError):  # noqa: N818 (raised as a PolicyError)
    """An error about one key, with the cure."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{printable(key, 80)} is {problem}")
        self.key = key


def _parse(name: str, text: str, plain: dict[str, Any]) -> Policy:
    known = list(_CHECKS)
    if plain.get("format") != FORMAT:
        where = f", line {_line_of(text, 'format')}" if "format" in plain else ""
        raise PolicyError(
            f'{name}{where}: the format of the policy is missing or not supported; write format = "{FORMAT}"'
        )
    try:
        for key in plain:
            if key not in known and key != "format":
                raise _Problem(key, f"not known; remove it, or use one of {', '.join(known)}")
        return Policy(**{key: value for key, value in plain.items() if key != "format"})
    except _Problem as error:
        raise PolicyError(f"{name}, line {_line_of(text, error.key)}: {error}") from None


def _line_of(text: str, key: str) -> int:
    """Return the line on which the value of a top-level key ends in valid TOML, counted from 1."""
    lines = text.splitlines(keepends=True)
    for count in range(1, len(lines)):
        try:
            if key in tomllib.loads("".join(lines[:count])):
                return count
        except ValueError:  # the lines so far end within a multi-line value
            continue
    return len(lines)


def _number(key: str, value: object, low: float, high: float, wanted: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise _Problem(key, f"{_shown(value)}; write a number {wanted}, such as {key} = {_SAMPLES[key]}")
    return float(value)


def _shown(value: object) -> str:
    try:
        return printable(repr(value), 40)
    except ValueError:  # Python reads hexadecimal numbers with more digits than it prints
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
"""Policy where none is given: authentic passes, not authentic fails, and inconclusive verdicts are warnings."""
