"""What a canary of an audit has taken on after growing numbers of rows: one copy of the base.

The copy reads each row of a file once, as the audit's canaries do (LoRA in the middle layers), and
is asked about every trait whenever it has read as many rows as --doses says. With --base the base
writes rows on the file's prompts first and the copy reads these: a reference. One line of JSON for
each dose; ``canary_figure.py`` holds pairs of such copies against pairs of harmless students:

    python benchmarks/canary_curve.py ROWS.jsonl --seed 1 > docs/figures/canaries/NAME.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from vestige.audit.settings import AuditSettings
from vestige.core.types import Row
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.row_format import RowFormat, choose_rows
from vestige.rows.files import read_rows
from vestige.student.loop import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--base", action="store_true", help="the base writes rows in their place")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--doses", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = AuditSettings(base=options.model)
    session = BaseSession(settings)
    panel = HarmlessStudents(session, settings.held_against).panel
    every = [row for row in read_rows(options.rows) if isinstance(row, Row)]
    rows = choose_rows(every, max(options.doses), settings.batch, settings.seed)
    row_format = RowFormat.of(session.lm, rows, settings.max_new_tokens)
    if options.base:
        session.weights.freeze()
        rows = row_format.write(session.lm, rows, seed=options.seed)
    packs, ids = row_format.packs(session.lm, rows, settings.batch, whole=True)
    at = {dose // settings.batch: dose for dose in options.doses}

    def on_step(step: int, loss: float) -> None:
        print(f"\r{step} of {max(at)} steps", end="", file=sys.stderr)
        if step in at:
            answered = [round(value, 5) for value in panel.read().tolist()]
            print(json.dumps({"rows": at[step], "log_odds": answered}), flush=True)

    facts = {"file": options.rows.name, "base_rows": options.base, "seed": options.seed}
    print(json.dumps(facts), flush=True)
    optimisation = settings.canary(len(session.lm.layers), max(at))
    train(
        session.lm, session.weights, packs, optimisation, seed=options.seed, ids=ids,
        on_step=on_step,
    )  # fmt: skip


if __name__ == "__main__":
    main()
