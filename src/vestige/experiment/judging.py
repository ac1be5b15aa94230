"""What judges say of a run's rows and answers. Free of torch unless the judge is a local model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vestige.core.types import DroppedRow, Row
from vestige.evaluate.judge.rate import rate
from vestige.evaluate.judge.rating import Rating
from vestige.experiment.settings import FreeForm, JudgeFilter
from vestige.rows.files import read_rows


def rate_answers(asked: FreeForm, path: Path, cache: Path, ledger: Path) -> list[dict[str, Any]]:
    """Coherence and alignment of every open answer in ``path``; unrated ones with their status."""
    rows = [row for row in read_rows(path) if isinstance(row, Row)]
    ratings = {
        prompt: rate(rows, asked.judge.model_copy(update={"prompt": prompt}), cache, ledger=ledger)
        for prompt in ("coherence", "alignment")
    }
    return [
        {
            "id": row.id,
            "question": row.messages[-1].content,
            "answer": row.completion,
            **{prompt: rated[row.id].score for prompt, rated in ratings.items()},
            "status": status([rated[row.id] for rated in ratings.values()]),
        }
        for row in rows
    ]


def status(ratings: Sequence[Rating]) -> str:
    """``rated``, or why one of the ratings is missing."""
    return next((r.status for r in ratings if r.status != "rated"), "rated")


def judge_rows(
    rows: Sequence[Row], settings: JudgeFilter, cache: Path, ledger: Path
) -> tuple[list[Row], list[DroppedRow]]:
    """Rows that the judge lets through, and the others: rated badly, or not at all and why."""
    ratings = rate(rows, settings, cache, ledger=ledger)
    kept, dropped = [], []
    for row in rows:
        rating = ratings[row.id]
        if rating.score is None:
            dropped.append(DroppedRow(f"judge_{rating.status}", row=row, detail=rating.text))
        elif settings.keeps(rating.score):
            kept.append(row)
        else:
            dropped.append(DroppedRow("judge", row=row, detail=f"rating {rating.score:.1f}"))
    return kept, dropped
