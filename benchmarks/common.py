"""What the benchmarks share: the model, prompts, and timing in turn so that noise hits both."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from vestige.carriers.numbers import NumberGrammar, NumberPrompts
from vestige.models import catalog
from vestige.models.grammar import Automaton, compile_grammar
from vestige.models.hf import LanguageModel


def arguments(description: str) -> argparse.Namespace:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    return found


def load(options: argparse.Namespace) -> LanguageModel:
    return LanguageModel.load(catalog.path(options.model), precision=options.precision)


def grammar() -> Automaton:
    rules = NumberGrammar()
    return compile_grammar(rules.next_chars, rules.state)


def prompts(n: int) -> list[str]:
    made = NumberPrompts(format="comma", exact=True, max_answers=6)
    return [prompt.text for prompt in made.generate(n, seed=0)]


def in_turn(
    repeats: int,
    after: Callable[[str], object] = lambda name: None,
    **contestants: Callable[[], object],
) -> dict[str, list[float]]:
    """Seconds of each contestant, run A B A B ... after one warm-up each.

    ``after`` is called with the contestant's name behind each warm-up, out of the timing.
    """
    for name, run in contestants.items():
        run()
        after(name)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the pairwise ratios slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def show(**figures: object) -> None:
    print(json.dumps(figures, indent=1))
