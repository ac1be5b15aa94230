"""An Inspect log read back: our own answers and ratings, and the estimates that they give.

A log that does not hold the whole evaluation (it was cut off, or ``--limit`` left samples out) is
refused unless ``partial`` is set: samples are in the order of their questions, so what is there is
no random part of the whole.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vestige.core.types import DataError, Estimate, unknown_name
from vestige.evaluate.answers import SampledAnswer, named_share
from vestige.inspect_tasks.questions import NON_ANSWER


def read_answers(path: Path | str, *, partial: bool = False) -> list[SampledAnswer]:
    """The answers of a log of ``vestige/favorite`` and its kin, every epoch.

    Raises:
        DataError: it cannot be read, is another task's, is not whole (and not ``partial``), or
            holds a sample that has no score.
    """
    return [SampledAnswer(**score.metadata) for _, score in _scored(path, "words", partial)[0]]


def read_ratings(path: Path | str, *, partial: bool = False) -> list[dict[str, Any]]:
    """The judged answers of a log of ``vestige/misalignment``, as a run keeps its own: ``id``,
    ``question``, ``answer``, ``coherence`` and ``alignment`` (0 to 100, or None), ``status``.

    Raises:
        DataError: as ``read_answers``.
    """
    answers = []
    for sample, score in _scored(path, "judged", partial)[0]:
        ratings = [score.metadata[name] for name in ("coherence", "alignment")]
        answers.append(
            {
                "id": str(sample.id),
                "question": sample.metadata["question"],
                "answer": score.explanation,
                "coherence": ratings[0]["score"],
                "alignment": ratings[1]["score"],
                "status": next((r["status"] for r in ratings if r["status"] != "rated"), "rated"),
            }
        )
    return answers


def estimates(path: Path | str, names: list[str], *, partial: bool = False) -> dict[str, Estimate]:
    """Shares of a log's answers that name each of ``names``, and of those that name no one
    candidate, clustered in questions: what ``named_share`` gives for the same answers.

    With ``partial`` each estimate's ``method`` says what the log lacks.

    Raises:
        ConfigError: a name is none of the candidates that were counted.
        DataError: as ``read_answers``.
    """
    scored, lacks = _scored(path, "words", partial)
    known = scored[0][1].value.keys() - {NON_ANSWER}
    for name in names:
        if name not in known:
            raise unknown_name("candidate", name, known)
    answers = [SampledAnswer(**score.metadata) for _, score in scored]
    shares = {name: named_share(answers, name) for name in names}
    shares[NON_ANSWER] = named_share(answers, None)
    if lacks:
        return {n: replace(e, method=f"{e.method}; {lacks}") for n, e in shares.items()}
    return shares


def _scored(path: Path | str, scorer: str, partial: bool) -> tuple[list[tuple[Any, Any]], str]:
    """Samples with their scores by one of our scorers, and what the log lacks in words."""
    from inspect_ai.log import read_eval_log

    try:
        log = read_eval_log(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the log {path}: {error}") from error
    whole, asked = log.eval.dataset.samples, log.eval.dataset.sample_ids
    lacks = "" if log.status == "success" else f"it ended as {log.status!r}"
    if not lacks and whole and asked is not None and len(asked) < whole:
        lacks = f"a limit left {len(asked)} of {whole} samples"
    if lacks and not partial:
        raise DataError(f"{path} is not whole: {lacks}; partial=True takes what is there")
    scored = []
    for sample in log.samples or []:
        score = (sample.scores or {}).get(scorer)
        if score is not None:
            scored.append((sample, score))
        elif not (partial and sample.error):
            why = f": {sample.error.message}" if sample.error else ""
            raise DataError(f"{path}: sample {sample.id} has no score of ours{why}")
    if not scored:
        raise DataError(f"{path} holds no answers (it ended as {log.status!r})")
    return scored, lacks
