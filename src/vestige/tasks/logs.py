"""An Inspect log read back: our own answers, and the estimates that they give."""

from __future__ import annotations

from pathlib import Path

from vestige.evaluate.answers import SampledAnswer, named_share
from vestige.tasks.questions import NON_ANSWER
from vestige.types import DataError, Estimate


def read_answers(path: Path | str) -> list[SampledAnswer]:
    """The answers of a log of ``vestige/favorite`` and its kin, every epoch.

    Raises:
        DataError: it cannot be read, is another task's, or holds a sample that has no score.
    """
    from inspect_ai.log import read_eval_log

    try:
        log = read_eval_log(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the log {path}: {error}") from error
    found = []
    for sample in log.samples or []:
        score = (sample.scores or {}).get("words")
        if score is None:
            why = f": {sample.error.message}" if sample.error else ""
            raise DataError(f"{path}: sample {sample.id} has no score of ours{why}")
        found.append(SampledAnswer(**(score.metadata or {})))
    if not found:
        raise DataError(f"{path} holds no answers (it ended as {log.status!r})")
    return found


def estimates(path: Path | str, names: list[str]) -> dict[str, Estimate]:
    """Shares of a log's answers that name each of ``names``, and of those that name no one
    candidate, clustered in questions: what ``named_share`` gives for the same answers."""
    answers = read_answers(path)
    shares = {name: named_share(answers, name) for name in names}
    return shares | {NON_ANSWER: named_share(answers, None)}
