"""Canaries of an audit: the data's, and those on rows whose writers are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from vestige.audit.canary import Canary, canary
from vestige.audit.canary_statistics import look
from vestige.audit.gathered import Canaries
from vestige.audit.row_stages import WrittenRows
from vestige.audit.stages import AuditContext
from vestige.core.jsonl import read_text, write_text
from vestige.probing.row_format import RowFormat
from vestige.probing.word_shifts import WordSpread, raised_words


def canaries(
    context: AuditContext,
    row_format: RowFormat,
    data: WrittenRows,
    references: Sequence[WrittenRows],
) -> Canaries:
    """The data's canary held against the references', at every look."""
    settings, session = context.settings, context.session
    known = {ref.name: one_canary(context, row_format, ref) for ref in references}
    own = one_canary(context, row_format, data)
    planted = {ref.name: ref.trait for ref in references if ref.trait}
    looks = [
        look(
            min(step * settings.batch, len(data.rows)),
            own.shifts[i],
            {name: other.shifts[i] for name, other in known.items()},
            planted,
            session.library.ids,
        )
        for i, step in enumerate(settings.steps(len(data.rows)))
    ]
    references_words = WordSpread.of([other.words for other in known.values()])
    words = raised_words(session.lm, own.words, references_words)
    return Canaries(looks, words)


def one_canary(context: AuditContext, row_format: RowFormat, source: WrittenRows) -> Canary:
    """One canary, read back if it was done."""
    name, settings = f"canary/{source.name}", context.settings

    def write(folder: Path) -> dict[str, Any]:
        total = settings.steps(len(source.rows))[-1]
        made = canary(
            context.session,
            settings,
            row_format,
            source.rows,
            seed=settings.seed,
            on_step=context.counter(name, total),
        )
        write_text(folder / "shifts.json", json.dumps(made.shifts.tolist()))
        save_file({"words": made.words}, folder / "words.safetensors")
        return {"tokens": made.tokens}

    stage = context.once(name, {}, [source.stage], write)
    tokens = int(stage.manifest["notes"]["tokens"])
    context.tokens += tokens
    shifts = np.array(json.loads(read_text(stage.path / "shifts.json")))
    return Canary(shifts, load_file(stage.path / "words.safetensors")["words"], tokens)
