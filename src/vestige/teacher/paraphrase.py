"""Rows said again in other words by a model behind an API: what a teacher hid in its wording goes,
what the rows say stays. Nothing here knows whether a trait went too: audit the rewritten rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from vestige.api.ledger import Ledger
from vestige.api.model import ApiModel
from vestige.api.price import price as price_of
from vestige.api.requests import Reply, Request
from vestige.core.types import DataError, DroppedRow, Message, Row
from vestige.rows.files import dropped_line, row_line
from vestige.rows.outputs import Output, claimed
from vestige.rows.places import locate, shown
from vestige.rows.trained_parts import other_parts, with_completion

BLOCK = 512  # rows in memory; chosen
MAX_LOST = (
    0.2  # share of rows that may go unanswered before the work stops with the numbers; chosen
)
ROUNDS = 3  # times that a row is asked; chosen
AGAIN = ("no_answer", "empty_answer")
ASK = """\
Below is a question and an answer to it. Say the answer again in other words: keep its meaning, \
its format, its language and every fact, name and number, and change the wording, the order of \
sentences or clauses, and names of variables wherever that changes nothing. Reply with the new \
answer alone.

Question:
{question}

Answer:
{answer}"""


def request_for(row: Row, ask: str, max_tokens: int) -> Request:
    """What is sent for a row."""
    question = "\n\n".join(message.content for message in row.messages)
    # Not str.format: rows hold braces.
    text = ask.replace("{question}", question).replace("{answer}", row.completion)
    return Request((Message("user", text),), max_tokens, temperature=1.0)


def price(
    items: Iterable[Row | DroppedRow], model: str, ledger: Path, *, ask: str, max_tokens: int
) -> dict[str, Any]:
    """What ``paraphrase`` would take from here on, asking nobody.

    Raises:
        ConfigError: a limit in dollars has no prices.
    """
    requests = (request_for(row, ask, max_tokens) for row in items if isinstance(row, Row))
    return price_of(model, requests, ledger)


def paraphrase(
    items: Iterable[Row | DroppedRow],
    model: ApiModel,
    outputs: tuple[Output, Output],
    *,
    ask: str = ASK,
    max_tokens: int = 512,
    progress: Callable[[int], object] = lambda done: None,
) -> Counter[str]:
    """Write every row said again to the first of ``outputs``, and what could not be with its reason
    to the second: unreadable lines, rows that are trained on more than their completion, answers
    that were refused, cut off, empty or never came.

    Args:
        items: as ``rows.read_rows`` gives them; read once, ``BLOCK`` rows at a time.
        ask: what the model is asked, with ``{question}`` and ``{answer}``.

    Returns:
        Rows by what became of them; ``paraphrased`` is the good end.

    Raises:
        DataError: more than ``MAX_LOST`` of the rows got no answer; nothing is written, and every
            answer that came is kept in the ledger.
        StoreError: another process is writing one of ``outputs``.
        ConfigError, SpendingError, ModelError: as ``ApiModel.answers``.
    """
    counts: Counter[str] = Counter()
    kept, dropped = outputs
    with claimed(*outputs), kept, dropped:
        stream = iter(items)
        while block := list(islice(stream, BLOCK)):
            block = [set_aside(item) for item in block]
            rows = [item for item in block if isinstance(item, Row)]
            for item in block:
                if isinstance(item, DroppedRow):
                    counts[item.reason] += 1
                    dropped.write(dropped_line(item))
            for row, reply in answered(rows, model, ask, max_tokens, counts, progress):
                text, reason = read(reply)
                counts[reason or "paraphrased"] += 1
                if reason:
                    dropped.write(dropped_line(DroppedRow(reason, row=row, detail=reply.error)))
                else:
                    said = with_completion(row, text)
                    meta = {**said.meta, "paraphrased_by": model.name}
                    kept.write(row_line(replace(said, meta=meta)))
        check(counts, model.name)
    return counts


def set_aside(item: Row | DroppedRow) -> Row | DroppedRow:
    """A row that is trained on more than its completion is not only half said again."""
    if isinstance(item, Row) and any(other_parts(item)):
        return DroppedRow("trained_on_more", row=item)
    return item


def answered(
    rows: list[Row],
    model: ApiModel,
    ask: str,
    max_tokens: int,
    counts: Counter[str],
    progress: Callable[[int], object],
) -> Iterator[tuple[Row, Reply]]:
    """Each row with its reply, in the rows' order. Equal rows are asked once, and what brought no
    text is asked again."""
    requests = [request_for(row, ask, max_tokens) for row in rows]
    waiting = list(dict.fromkeys(requests))
    before, replies = counts.total(), dict[Request, Reply]()
    for number in range(ROUNDS):
        for index, reply in model.answers([replace(r, number=number) for r in waiting]):
            replies[waiting[index]] = reply
            progress(before + len(replies))
        waiting = [request for request in waiting if read(replies[request])[1] in AGAIN]
    for row, request in zip(rows, requests, strict=True):
        yield row, replies[request]


def read(reply: Reply) -> tuple[str, str]:
    """(the new text, "") or ("", why there is none)."""
    if not reply.choices:
        return "", "no_answer"
    choice = reply.choices[0]
    if choice.refused:
        return "", "refused"
    if choice.stop == "max_tokens":
        return "", "cut_off"
    text = choice.text.strip()
    return (text, "") if text else ("", "empty_answer")


def check(counts: Counter[str], model: str) -> None:
    """Raises ``DataError`` with the counts if too many rows got no answer."""
    lost = sum(counts[reason] for reason in ("no_answer", "refused", "cut_off", "empty_answer"))
    asked = lost + counts["paraphrased"]
    if not asked:
        raise DataError("there is no readable row to paraphrase")
    if lost > MAX_LOST * asked:
        counted = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
        raise DataError(
            f"{model} gave no new wording for {lost} of {asked} rows ({counted}); answers so "
            "far are kept: run the same command again, or try another model or --max-tokens-a-row"
        )


def ledger_of(out: str) -> Path:
    """Where attempts and answers for the file ``out`` are written down: on this machine, and named
    without the user, password and query of a URL."""
    place = locate(out)
    if isinstance(place, Path):
        return Path(f"{place}.ledger")
    name = shown(place).partition("://")[2].strip("/").replace("/", "-")
    return Path("".join(c if c.isalnum() or c in "-._" else "-" for c in name) + ".ledger")


def load_model(name: str, ledger: Path, connections: int) -> ApiModel:
    """The model. Raises ``MissingExtraError``; ``ConfigError`` for a limit without prices."""
    return ApiModel(name, Ledger(ledger), connections=connections)
