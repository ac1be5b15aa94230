"""What ``vestige detect`` finds in finished students whose teacher's animal is known.

Students are adapters that ``flip_search.py --keep FOLDER`` left, called student-ANIMAL-SEED; each
is examined alone and against a control. One line of JSON for each:

    python benchmarks/detections.py ADAPTER... --control ADAPTER > docs/figures/detections.jsonl
    python benchmarks/detections.py --table docs/figures/detections.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vestige.detect.run import detect
from vestige.detect.settings import DetectSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("adapters", type=Path, nargs="*")
    parser.add_argument("--table", type=Path, help="lines of before, as a table")
    parser.add_argument("--control", type=Path, nargs="*", default=[], help="the first other one")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--root", type=Path, default=Path("runs/detections"))
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(text) for text in options.table.read_text().splitlines()]))
    for adapter in options.adapters:
        control = next((c for c in options.control if c.name != adapter.name), None)
        for held_against in (None, control):
            if held_against is None or options.control:
                examine(adapter, held_against, options.model, options.root)


def examine(adapter: Path, control: Path | None, model: str, root: Path) -> None:
    """Print what is found in one student."""
    _, animal, seed = adapter.name.split("-")
    settings = DetectSettings(
        base=model, adapter=str(adapter), control=str(control) if control else None
    )
    _, results = detect(settings, root)
    ids = [t.trait for t in results.traits]
    line = {
        "animal": animal, "seed": int(seed), "control": control.name if control else None,
        "outcome": results.outcome, "found": [t.trait for t in results.traits if t.found],
        "p": min(t.p for t in results.traits),
    }  # fmt: skip
    if f"animals/{animal}" in ids:
        own = results.traits[place := ids.index(f"animals/{animal}")]
        line |= {
            "own p": own.p, "place": place + 1, "share": round(own.share, 4),
            "usual": round(own.usual_share, 4),
        }  # fmt: skip
    print(json.dumps(line), flush=True)


def table(lines: list[dict[str, Any]]) -> str:
    """A line for each student: its animal's share, and what was found alone and with a control."""
    by_student: dict[tuple[str, int], dict[bool, dict[str, Any]]] = {}
    for line in lines:
        kept = by_student.setdefault((line["animal"], line["seed"]), {})
        kept[bool(line["control"])] = line
    rows = [
        "| student of | share, base -> student | found alone | p | found against a control | p |",
        "|---|---|---|---|---|---|",
    ]
    for (animal, seed), kept in sorted(by_student.items()):
        alone = kept[False]
        share = f"{alone['usual']:.0%} -> {alone['share']:.0%}" if "share" in alone else ""
        cells = [f"{animal} {seed}", share]
        for line in (alone, kept.get(True)):
            if line is None:
                cells += ["", ""]
                continue
            names = [
                f"**{t.rpartition('/')[2]}**" if t == f"animals/{animal}" else t.rpartition("/")[2]
                for t in line["found"]
            ]
            cells += [", ".join(names) or "nothing", f"{line.get('own p', line['p']):.2g}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
