"""Exact against sampled evaluation: seconds for the same interval width.

Both estimate the mean over held-out questions of P(answer begins with "owl"), on a briefly tuned
teacher. The exact one's interval holds the spread of the questions alone; the sampled one adds the
sampling itself, var = between/Q + mean p(1-p)/(Q n). Its n is the smallest whose interval is at
most 10% wider; its seconds are n times those measured for one answer a question. Run:
python benchmarks/evaluation.py
"""

from __future__ import annotations

import math
import statistics

import numpy as np

import common
from vestige.core.settings import Optimisation, Trainable
from vestige.evaluate.exact import measure
from vestige.evaluate.sampled import sample_answers
from vestige.models.weights import Weights
from vestige.student.loop import train
from vestige.student.packs import encode_rows, make_packs
from vestige.traits import family, trait

WIDER, MEASURED = 1.10, 4


def main() -> None:
    options = common.arguments(__doc__ or "")
    lm, panel = common.load(options), family("animals")
    weights, owl = Weights(lm), trait("owl")
    pairs = owl.pairs[:48]
    examples = encode_rows(lm, [lm.question_ids(q) for q, _ in pairs], [a for _, a in pairs])
    how = Optimisation(steps=6, batch=8, rate=2e-4, trainable=Trainable(layers=(0, 8)))
    train(lm, weights, make_packs(examples, 8), how, seed=0)
    column = [answer.name for answer in panel.answers].index("owl")
    p = np.exp(measure(lm, panel).logprobs[:, column])
    between = p.var(ddof=1) / len(p)
    noise = float((p * (1 - p)).mean()) / len(p)
    n = max(1, math.ceil(noise / ((WIDER**2 - 1) * between)))
    seconds = common.in_turn(
        options.repeats,
        exact=lambda: measure(lm, panel),
        sampled=lambda: sample_answers(lm, panel, samples=MEASURED, max_new_tokens=4),
    )
    exact = statistics.median(seconds["exact"])
    sampled = statistics.median(seconds["sampled"]) / MEASURED * n
    common.show(
        probability=float(p.mean()),
        samples_a_question=n,
        seconds={"exact": exact, "sampled": sampled},
        speedup=sampled / exact,
    )


if __name__ == "__main__":
    main()
