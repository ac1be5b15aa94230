"""Training tokens/s of the packed loop against plain ``SFTTrainer``: same rows, steps and loss.

Both tune all decoder layers with completion-only cross-entropy over the whole vocabulary, in the
same precision, batch and rate; the loss on all rows afterwards shows that both got equally far.
Tokens are counted as SFTTrainer sees them (prompt and completion of every row, unpadded). Run:
python benchmarks/training.py
"""

from __future__ import annotations

import statistics

import torch

import common
from vestige.core.settings import Optimisation
from vestige.core.types import Message, Row
from vestige.models.sampling import sample_grammar
from vestige.models.weights import Weights
from vestige.student.loop import pack_loss, train
from vestige.student.packs import encode_rows, make_packs
from vestige.student.trl import train_with_trl

PROMPTS, PER_PROMPT, STEPS = 8, 16, 8


def main() -> None:
    options = common.arguments(__doc__ or "")
    lm, rules = common.load(options), common.grammar()
    weights = Weights(lm)
    texts = [t for t in common.prompts(PROMPTS) for _ in range(PER_PROMPT)]
    ids = [lm.question_ids(text) for text in texts]
    answers = sample_grammar(lm, ids, range(len(ids)), rules, seed=0, max_length=31)
    rows = [
        Row(str(i), (Message("user", text),), answer)
        for i, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    how = Optimisation(steps=STEPS, batch=PER_PROMPT, rate=5e-5)
    examples = encode_rows(lm, ids, answers)
    tokens = sum(len(e.prompt) + len(e.completion) for e in examples) * STEPS / PROMPTS
    packs = make_packs(examples, how.batch)
    losses: dict[str, float] = {}

    def loss_of(name: str) -> None:
        with torch.no_grad():
            losses[name] = sum(pack_loss(lm, pack).item() for pack in packs) / len(packs)

    loss_of("before")
    seconds = common.in_turn(
        options.repeats,
        after=loss_of,
        packed=lambda: train(lm, weights, make_packs(examples, how.batch), how, seed=0),
        trl=lambda: train_with_trl(lm, weights, rows, how, seed=0),
    )
    common.show(
        tokens_per_second={k: tokens / statistics.median(s) for k, s in seconds.items()},
        loss_on_all_rows=losses,
        speedup=common.ratio(seconds["trl"], seconds["packed"]),
    )


if __name__ == "__main__":
    main()
