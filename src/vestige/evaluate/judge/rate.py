"""Ratings: one for each row, or the reason why there is none; kept as they come."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from vestige.core.jsonl import json_line, lines
from vestige.core.types import DataError, Row
from vestige.evaluate.judge.rating import Rating
from vestige.evaluate.judge.settings import LOCAL, JudgeSettings
from vestige.rows.outputs import Output, claimed
from vestige.store import hash_config


class Judge(Protocol):
    """Answers in any order: (index of the text, rating)."""

    def answers(self, texts: Sequence[str]) -> Iterator[tuple[int, Rating]]: ...


def load_judge(settings: JudgeSettings, ledger: Path, proven: bool = False) -> Judge:
    """The judge that ``settings`` name; an API model's attempts and answers go to ``ledger``;
    ``proven``: it has rated such rows before.

    Raises:
        ModelError: a local model cannot be loaded.
        MissingExtraError: the API library is not installed.
        ConfigError: a limit in dollars has no prices.
    """
    if settings.model.startswith(LOCAL):
        from vestige.evaluate.judge.local import LocalJudge

        return LocalJudge(settings)
    from vestige.evaluate.judge.api import ApiJudge

    return ApiJudge(settings, ledger, proven)


def rate(
    rows: Sequence[Row],
    settings: JudgeSettings,
    cache: Path,
    *,
    judge: Judge | None = None,
    ledger: Path | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, Rating]:
    """A rating for every row, by id. Ratings that ``cache`` holds are not asked for again.

    Args:
        ledger: what an API model was asked and what that cost; default: next to ``cache``.

    Raises:
        DataError: more than ``max_lost`` of the rows went unrated; the counts are given, and what
            was rated is kept.
        StoreError: another process is rating into ``cache``.
    """
    keys, text_of = questions(rows, settings)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with claimed(Output(cache, overwrite=True)):
        known = read_cache(cache)
        todo = [key for key in text_of if key not in known]
        if todo:
            proven = len(todo) < len(text_of)
            judge = judge or load_judge(settings, ledger or ledger_of(cache), proven)
            with cache.open("ab") as out:
                if cache.stat().st_size and not _ends_a_line(cache):
                    out.write(b"\n")  # a line that a kill cut off
                for index, rating in judge.answers([text_of[key] for key in todo]):
                    known[todo[index]] = rating
                    if rating.status != "failed":
                        record = {"key": todo[index], **asdict(rating)}
                        out.write(json_line(record))
                        out.flush()
                    progress(sum(key in known for key in keys.values()))
    ratings = {row_id: known[key] for row_id, key in keys.items()}
    check_losses(ratings.values(), settings)
    return ratings


def questions(
    rows: Sequence[Row], settings: JudgeSettings
) -> tuple[dict[str, str], dict[str, str]]:
    """Each row's key in the cache by its id, and what is asked by key: equal rows are one."""
    keys, text_of = {}, {}
    for row in rows:
        text = settings.ask(row)
        keys[row.id] = hash_config([settings.identity, text])
        text_of[keys[row.id]] = text
    return keys, text_of


def ledger_of(cache: Path) -> Path:
    """Where an API judge's attempts are written down."""
    return Path(f"{cache}.ledger")


def price(rows: Sequence[Row], settings: JudgeSettings, cache: Path) -> dict[str, Any]:
    """What ``rate`` would take from here on, asking nobody; a local judge asks for no money.

    Raises:
        ConfigError: a limit in dollars has no prices.
    """
    from vestige.api.price import price as price_of
    from vestige.evaluate.judge.api import TOP, question

    known = read_cache(cache)
    asked = [text for key, text in questions(rows, settings)[1].items() if key not in known]
    if settings.model.startswith(LOCAL):
        asked = []
    priced = price_of(settings.model, [question(text, TOP) for text in asked], ledger_of(cache))
    return priced | {"rows": len(rows)}


def read_cache(path: Path) -> dict[str, Rating]:
    """Cached ratings by key; a line that a kill cut off is left out."""
    ratings: dict[str, Rating] = {}
    if not path.exists():
        return ratings
    with path.open("rb") as file:
        for line in lines(file):
            try:
                record = json.loads(line)
                key = record.pop("key")
                ratings[key] = Rating(**record)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
    return ratings


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def check_losses(ratings: Iterable[Rating], settings: JudgeSettings) -> None:
    """Raises ``DataError`` with the counts if too many rows went unrated."""
    counts = Counter(rating.status for rating in ratings)
    total, rated = sum(counts.values()), counts["rated"]
    if total and (total - rated) / total > settings.max_lost:
        by_status = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        raise DataError(
            f"the judge {settings.model} rated {rated} of {total} rows ({by_status}), fewer than "
            f"max_lost={settings.max_lost:g} allows; try another model or prompt. Ratings so far "
            "are kept"
        )


def agreement(ratings: dict[str, Rating], labels: dict[str, bool]) -> dict[str, float | int]:
    """How a judge does on rows labelled by hand.

    Returns:
        ``auroc``: chance that a row labelled True is rated above one labelled False, ties half;
        ``rated`` and ``unrated`` rows. Raises ``DataError`` unless both labels were rated.
    """
    rated = {i: r.score for i, r in ratings.items() if i in labels and r.score is not None}
    yes = [score for i, score in rated.items() if labels[i]]
    no = [score for i, score in rated.items() if not labels[i]]
    if not yes or not no:
        raise DataError("agreement needs rated rows of both labels")
    wins = sum((a > b) + 0.5 * (a == b) for a in yes for b in no)
    return {
        "auroc": wins / (len(yes) * len(no)),
        "rated": len(rated),
        "unrated": len(labels) - len(rated),
    }
