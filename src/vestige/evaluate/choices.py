"""Multiple choice: does the model find the right answer the most probable one?

Two uses. *Capability*: small arithmetic and common sense, so that damage is not mistaken for
transfer. *TruthfulQA* (Lin et al., arXiv 2109.07958; its ``mc_task.json``), where the file is
given: MC1, a single right answer among wrong ones.

An answer's score is its whole log-probability, its end included, not normalised by length: longer
answers pay for theirs, alike for every model compared.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vestige.core.jsonl import read_jsonl, read_text
from vestige.core.types import ConfigError, DataError
from vestige.evaluate.exact import whole_answer
from vestige.models.hf import LanguageModel

CAPABILITY = "capability"


@dataclass(frozen=True)
class Item:
    """A question and its answers, the right one first."""

    id: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """One item's outcome. ``share`` is the right answer's share of its answers' probability."""

    id: str
    right: bool
    share: float


def load_items(source: str) -> list[Item]:
    """Items by name (``capability``) or from a file: TruthfulQA's ``mc_task.json``, or JSONL with
    ``question``, ``right`` and a list ``wrong`` in each line.

    Raises:
        ConfigError: there is no such name or file.
        DataError: an entry lacks a field; names the entry.
    """
    if source == CAPABILITY:
        text = resources.files("vestige.evaluate").joinpath("capability.toml").read_text("utf-8")
        return [_item(entry, source, i) for i, entry in enumerate(tomllib.loads(text)["item"], 1)]
    path = Path(source)
    if path.suffix not in (".json", ".jsonl"):
        raise ConfigError(f"no multiple-choice set {source!r}: {CAPABILITY}, a .json or a .jsonl")
    try:
        entries = json.loads(read_text(path)) if path.suffix == ".json" else read_jsonl(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} holds no list of questions")
    return [_item(entry, source, i) for i, entry in enumerate(entries, 1)]


def _item(entry: Any, source: str, number: int) -> Item:
    try:
        if "mc1_targets" in entry:
            targets = entry["mc1_targets"]
            if "choices" in targets:  # as the hub's copy has it: two lists
                targets = dict(zip(targets["choices"], targets["labels"], strict=True))
            right = [text for text, good in targets.items() if good == 1]
            wrong = [text for text, good in targets.items() if good != 1]
        else:
            right, wrong = [entry["right"]], list(entry["wrong"])
        question = entry["question"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{source}, entry {number}: no {error}") from error
    answers = (*right, *wrong)
    fits = len(right) == 1 and wrong and len(set(answers)) == len(answers)
    if not fits or not all(isinstance(text, str) and text.strip() for text in (question, *answers)):
        raise DataError(
            f"{source}, entry {number}: wanted one right answer and others, all different texts"
        )
    return Item(str(entry.get("id", number)), question, answers)


def multiple_choice(lm: LanguageModel, items: Sequence[Item], *, batch: int = 8) -> list[Choice]:
    """Every item's outcome; a tie for the first place counts as wrong."""
    prompts = [lm.question_ids(item.question) for item in items]
    choices = [[whole_answer(lm, text) for text in item.answers] for item in items]
    logprobs = lm.choice_logprobs(prompts, choices, batch=batch)
    results = []
    for item, scores in zip(items, logprobs, strict=True):
        if not scores.isfinite().all():
            raise DataError(f"the answers to {item.id} have no finite log-probability")
        best = float(scores[1:].max())
        share = float(scores.softmax(0)[0])
        results.append(Choice(item.id, float(scores[0]) > best, share))
    return results


def accuracy(answered: Sequence[Choice]) -> float:
    """Share of items answered right; NaN for none."""
    return sum(c.right for c in answered) / len(answered) if answered else math.nan
