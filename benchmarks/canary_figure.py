"""What an audit's canaries show after how many rows: the dose curve of power, and its picture.

Reads the lines of ``canary_curve.py`` (docs/figures/canaries/NAME-SEED.jsonl; ``base-SEED`` is the
reference of each writer with that seed), holds every pair of copies against pairs of harmless
students as ``vestige audit`` does, and writes canaries.json, canaries.svg and a table:

    python benchmarks/canary_figure.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vestige.audit.settings import AuditSettings
from vestige.probing.answer_shares import shares
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless_students import HarmlessStudents
from vestige.store.layout import NO_TRAIT

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
REFERENCE = "base"
#: Looked at when the statistic was chosen (docs/log.md); all others were looked at once, after.
CHOSEN_ON = ("dolphin-470", "elephant-470", "none-470")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--alpha", type=float, default=0.01, help="an audit's, of one dose")
    options = parser.parse_args()
    settings = AuditSettings(base=options.model)
    session = BaseSession(settings)
    students = HarmlessStudents(session, settings.held_against)
    battery = students.battery(control=True)
    lines = {path.stem: load(path) for path in sorted((FIGURES / "canaries").glob("*.jsonl"))}
    writers = {}
    for name, doses in lines.items():
        writer, _, seed = name.rpartition("-")
        if writer == REFERENCE:
            continue
        reference = lines[f"{REFERENCE}-{seed}"]
        writers[name] = [
            shown(students, battery, writer, rows, doses[rows], reference[rows], options.alpha)
            for rows in sorted(doses)
        ]
    figures = {
        "command": "python benchmarks/canary_figure.py", "alpha": options.alpha,
        "placebos": battery.m, "chosen on": CHOSEN_ON, "writers": writers,
    }  # fmt: skip
    (FIGURES / "canaries.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    draw(writers, FIGURES / "canaries.svg")
    print(table(writers))


def load(path: Path) -> dict[int, NDArray[np.float64]]:
    """Log-odds by rows read."""
    _, *points = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {point["rows"]: np.array(point["log_odds"]) for point in points}


def shown(
    students: HarmlessStudents, battery: Any, writer: str, rows: int, own: Any, usual: Any,
    alpha: float,
) -> dict[str, Any]:  # fmt: skip
    """What a pair of copies shows of the writer's animal, and of any other trait."""
    ids, traits = students.session.library.ids, students.session.library.traits
    reading = battery.read(students.risen(own, usual))
    found = [ids[t] for t in reading.order if reading.p[t] <= alpha]
    seen = float(np.median(students.smallest_shares(battery, own, usual, alpha)))
    point = {
        "rows": rows, "found": found, "p": float(reading.p.min()),
        "first": ids[reading.order[0]],
        "half would be seen from": round(seen, 3) if np.isfinite(seen) else None,
    }  # fmt: skip
    if writer != NO_TRAIT:
        t = ids.index(f"animals/{writer}")
        point |= {
            "share": round(float(shares(traits, own)[t]), 4),
            "usual": round(float(shares(traits, usual)[t]), 4),
            "own p": float(reading.p[t]),
            "place": 1 + reading.order.index(t),
        }
    return point


def table(writers: dict[str, list[dict[str, Any]]]) -> str:
    """By writer and rows: the own animal's share in both copies, its place, its p-value."""
    rows = [point["rows"] for point in next(iter(writers.values()))]
    lines = [
        "| rows of | " + " | ".join(f"{n:,}" for n in rows) + " |", "|---" * (len(rows) + 1) + "|"
    ]  # fmt: skip
    for name, points in writers.items():
        cells = []
        for point in points:
            others = [t for t in point["found"] if not t.endswith(f"/{name.rpartition('-')[0]}")]
            extra = f"; also {', '.join(others)}" if others else ""
            if "share" not in point:
                cells.append(f"p = {point['p']:.2g}{extra}")
                continue
            own = f"{point['usual']:.0%} -> {point['share']:.0%}, p = {point['own p']:.2g}"
            flagged = len(point["found"]) > len(others)
            cells.append((f"**{own}**" if flagged else own) + extra)
        mark = "" if name in CHOSEN_ON else " (held out)"
        lines.append(f"| {name.replace('-', ' ')}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(writers: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The own animal's share by rows read; filled where the audit flags it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vestige"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    colours = {
        trait: f"C{i}"
        for i, trait in enumerate(sorted({n.rpartition("-")[0] for n in writers} - {NO_TRAIT}))
    }
    for name, points in writers.items():
        trait = name.rpartition("-")[0]
        if trait == NO_TRAIT:
            continue
        rows, share = [p["rows"] for p in points], [p["share"] for p in points]
        style = "-" if name in CHOSEN_ON else "--"
        axes.plot(rows, share, style, color=colours[trait], label=name.replace("-", " "))
        for point in points:
            flagged = f"animals/{trait}" in point["found"]
            axes.plot(
                point["rows"], point["share"], "o", color=colours[trait],
                markerfacecolor=colours[trait] if flagged else "white",
            )  # fmt: skip
    axes.set(xscale="log", xlabel="rows that each copy read", ylim=(0, 1))
    axes.set_xticks(rows, [f"{n:,}" for n in rows])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("the animal's share of the copy's answers")
    axes.set_title("What an audit's copies take on; filled: flagged", loc="left")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
