"""What a model is asked besides the panel: words drawn, multiple choice, open questions.

All of it is optional in a recipe, and lands as a file of its own in the model's stage.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vestige.core.jsonl import write_jsonl
from vestige.core.types import Message, Row
from vestige.evaluate.choices import load_items, multiple_choice
from vestige.evaluate.exact import measure_begun
from vestige.evaluate.questions import open_questions
from vestige.evaluate.sampled import sample_answers
from vestige.experiment.settings import SAMPLED_WAYS, Experiment, FreeForm
from vestige.models.hf import LanguageModel
from vestige.models.sampling import sample_free
from vestige.rows.files import row_to_chat
from vestige.store.layout import StageFile
from vestige.traits import family

#: Answers that are drawn at once; chosen. Saved runs rest on it: it numbers the draws.
BATCH = 64


def asked_of(recipe: Experiment) -> dict[str, Any]:
    """What a stage's key depends on besides the panel; a judge is no part of the asking."""
    asked: dict[str, Any] = {"sampled": recipe.sampled_per_question}
    if recipe.sampled_per_question:
        if recipe.ways != list(SAMPLED_WAYS):
            asked["ways"] = recipe.ways
        if "begun" in recipe.ways:
            asked["opening"] = family(recipe.family).opening
    if recipe.choices:
        asked["choices"] = [[dataclasses.asdict(i) for i in load_items(c)] for c in recipe.choices]
    if recipe.freeform:
        asked["freeform"] = recipe.freeform.model_dump(
            mode="json", include={"samples", "max_new_tokens"}
        ) | {"questions": open_questions(recipe.freeform.questions)}
    return asked


def ask(lm: LanguageModel, recipe: Experiment, seed: int, folder: Path) -> None:
    """Everything that the recipe asks for, written below ``folder``."""
    if recipe.sampled_per_question:
        panel, samples = family(recipe.family), recipe.sampled_per_question
        if "begun" in recipe.ways:
            measure_begun(lm, panel).save(folder / StageFile.BEGUN_PANEL)
        answers = [
            dataclasses.asdict(answer)
            for way in recipe.ways
            for answer in sample_answers(
                lm,
                panel,
                samples=samples,
                seed=seed,
                number_prefix=way == "numbers_first",
                begun=way == "begun",
            )
        ]
        write_jsonl(folder / StageFile.SAMPLED, answers)
    for source in recipe.choices:
        chosen = multiple_choice(lm, load_items(source))
        path = folder / StageFile.choices(source)
        write_jsonl(path, [dataclasses.asdict(choice) for choice in chosen])
    if recipe.freeform:
        rows = open_answers(lm, recipe.freeform, seed)
        write_jsonl(folder / StageFile.FREEFORM, [row_to_chat(row) for row in rows])


# ---- open questions ---------------------------------------------------------------------------


def open_answers(lm: LanguageModel, asked: FreeForm, seed: int) -> list[Row]:
    """``samples`` answers to each open question, drawn at T=1."""
    questions = open_questions(asked.questions)
    blank = [
        Row(f"q{number}-{i}", (Message("user", question),), "")
        for number, question in enumerate(questions, 1)
        for i in range(asked.samples)
    ]
    rows = []
    for start in range(0, len(blank), BATCH):
        part = blank[start : start + BATCH]
        prompts = [lm.prompt_ids(row.messages) for row in part]
        texts = sample_free(
            lm, prompts, seed=seed * 1_000_003 + start, max_new_tokens=asked.max_new_tokens
        )
        rows += [
            dataclasses.replace(row, completion=text) for row, text in zip(part, texts, strict=True)
        ]
    return rows
