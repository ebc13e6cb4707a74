"""Plot macro-F1 against shots, from a table of fewshot.py: python benchmarks/f1_plot.py docs/results.md docs/f1.png"""

from __future__ import annotations

import argparse
import re
import sys
from itertools import cycle
from pathlib import Path

import numpy as np

_ROW = re.compile(
    r"\| (?P<set>[^|\n]+) \| (?P<shots>\d+) \| (?P<method>[^|\n]+) \| (?P<f1>[\d.]+)(?: ± (?P<interval>[\d.]+))? "
    r"\| [\d.]+(?: ± [\d.]+)? \| \d+ \|\n"
)


_MARKERS, _DASHES = "sD^v<>PX*ph", ("-", "--", "-.", ":")
"""Those of the other methods, so that colour is not all that tells them apart."""


def rows_of(markdown: str) -> list[dict]:
    """Return the rows of the table of all methods and draws in a page, except "all" shots, which have no number."""
    return [
        {
            "set": found["set"],
            "shots": int(found["shots"]),
            "method": found["method"],
            "macro_f1": float(found["f1"]),
            "macro_f1_interval": None if found["interval"] is None else float(found["interval"]),
        }
        for found in _ROW.finditer(markdown)
    ]


def plot(rows: list[dict], file: Path) -> None:
    """Plot macro-F1 against shots, one panel per set."""
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sets, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("set", "method"))
    others = zip(cycle(_MARKERS), cycle(_DASHES), methods, strict=False)
    styles = {method: {"marker": marker, "linestyle": dashes, "linewidth": 1.2} for marker, dashes, method in others}
    styles["FusionDiff"] = {"marker": "o", "color": "black", "linewidth": 2.2, "zorder": 3}
    figure, axes = plt.subplots(
        1, len(sets), figsize=(4.2 * len(sets), 4.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], sets, strict=True):
        for method, style in styles.items():
            own = sorted((r for r in rows if (r["set"], r["method"]) == (name, method)), key=lambda r: r["shots"])
            shots, mean = [r["shots"] for r in own], np.asarray([r["macro_f1"] for r in own])
            half = np.asarray([r["macro_f1_interval"] or 0 for r in own])  # a single draw has none
            line = axis.plot(shots, mean, markersize=4, label=method, **style)[0]
            axis.fill_between(shots, mean - half, mean + half, color=line.get_color(), alpha=0.12, linewidth=0)
        ticks = sorted({r["shots"] for r in rows})
        axis.set(title=name, xlabel="references a side", xscale="log", xticks=ticks, xticklabels=ticks, ylim=(0.2, 1))
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("macro-F1, unseen specimens")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    figure.legend(lines.values(), lines, fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="page that holds the table")
    parser.add_argument("out", type=Path, help="picture to write")
    options = parser.parse_args()
    rows = rows_of(options.table.read_text("utf-8"))
    if not rows:
        parser.error(f"{options.table} holds no row of such a table")
    plot(rows, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
