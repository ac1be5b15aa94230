"""A local model as a judge: the exact expectation over every rating it could give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vestige.evaluate.judge.rating import Rating, expected_rating
from vestige.evaluate.judge.settings import LOCAL, JudgeSettings
from vestige.models import catalog
from vestige.models.hf import LanguageModel

BATCH = 8  # questions in a forward pass; chosen


class LocalJudge:
    """P(rating) for each whole number from 0 to 100, its end included, in one forward pass.

    The rating is the mean over those numbers; their total probability is its mass.
    """

    def __init__(self, settings: JudgeSettings, lm: LanguageModel | None = None) -> None:
        name = settings.model.removeprefix(LOCAL)
        style = catalog.chat_style(name)
        self.lm = lm or LanguageModel.load(catalog.path(name), style=style)
        self.min_mass = settings.min_mass

    def answers(self, texts: Sequence[str]) -> Iterator[tuple[int, Rating]]:
        """Ratings in order."""
        lm = self.lm
        numbers = [str(n) for n in range(101)]
        answers = [[*lm.answer_ids(number), lm.end_id] for number in numbers]
        for at in range(0, len(texts), BATCH):
            prompts = [lm.question_ids(text) for text in texts[at : at + BATCH]]
            for offset, row in enumerate(lm.answer_logprobs(prompts, answers).exp().tolist()):
                probabilities = dict(zip(numbers, row, strict=True))
                score = expected_rating(probabilities, self.min_mass)
                mass = f"probability on ratings: {sum(row):.4f}"
                if score is None:
                    yield at + offset, Rating(None, "unreadable", "", mass)
                else:
                    yield at + offset, Rating(score, "rated", "expected", mass)
