"""Sampling completions: free, or inside a grammar of single characters.

Each row draws from a noise stream of its own (seed, row), so that a row is the same whatever the
batch it is drawn in, a run can be resumed in mid-stage, and two models given the same seed share
their random numbers (common random numbers: their rows differ only where the models do).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vestige.core.types import ConfigError
from vestige.models.backend import SampleRequest, ScoreRequest, end_tokens, lines_end
from vestige.models.grammar import Automaton, symbol_tokens
from vestige.models.hf import LanguageModel
from vestige.models.passes import pad_left


def symbol_ids(lm: LanguageModel, automaton: Automaton) -> Tensor:
    """``symbol_tokens`` on the model's device, shape [K]. Raises ``ConfigError`` as it does."""
    return torch.tensor(symbol_tokens(lm, automaton), device=lm.device)


def row_noise(seed: int, rows: Sequence[int], steps: int, width: int) -> Tensor:
    """Gumbel noise for each row from its own stream, shape [rows, steps, width]."""
    draws = [
        np.random.Generator(np.random.Philox(key=[seed, row])).random((steps, width))
        for row in rows
    ]
    uniform = torch.from_numpy(np.stack(draws)).clamp(1e-12, 1 - 1e-12)
    return -torch.log(-torch.log(uniform)).float()


@torch.no_grad()
def sample_grammar(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[int],
    automaton: Automaton,
    *,
    seed: int,
    max_length: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[str]:
    """One answer of the grammar for each prompt, at ``temperature`` over the allowed tokens.

    Args:
        top_p: draw among the likeliest of these alone, as many as hold so much of the probability.
        prompts: token ids, one prompt for each row; equal ones are computed once.
        rows: each row's number in the data set, which selects its noise.
        max_length: symbols at most, the end included.

    Returns:
        The answers' texts, in order.
    """
    tokens = symbol_ids(lm, automaton)
    allowed, step = automaton.allowed.to(lm.device), automaton.step.to(lm.device)
    end = len(tokens) - 1
    drawn: dict[int, list[int]] = {}
    for members in blocks(prompts):
        noise = row_noise(seed, [rows[int(i)] for i in members.flatten()], max_length, len(tokens))
        shared = [prompts[int(i)] for i in members[:, 0]]
        branches = lm.branches(shared, members.shape[1], max_length)
        state = torch.zeros(members.size, dtype=torch.long, device=lm.device)
        alive = torch.ones(members.size, dtype=torch.bool, device=lm.device)
        out = torch.full((members.size, max_length), end, device=lm.device)
        for t in range(max_length):
            logits = lm.head(branches.states, tokens).masked_fill(~allowed[state], -torch.inf)
            scaled = logits / temperature
            if top_p < 1:
                scaled = scaled.masked_fill(~nucleus(scaled, top_p), -torch.inf)
            choice = (scaled + noise[:, t].to(lm.device)).argmax(-1)
            out[:, t] = torch.where(alive, choice, end)
            following = step[state, choice]
            alive &= following >= 0
            if not alive.any():
                break
            state = following.clamp(min=0)
            branches.extend(tokens[choice])
        drawn |= dict(zip(members.flatten().tolist(), out.tolist(), strict=True))
    return ["".join(automaton.symbols[k] for k in drawn[i]) for i in range(len(prompts))]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Which of the last dimension are the likeliest that together hold ``top_p`` of the probability
    at least; the likeliest always is (Holtzman et al. 2020, arXiv 1904.09751, section 3.1)."""
    order = logits.softmax(-1).sort(-1, descending=True)
    before = order.values.cumsum(-1) - order.values
    return torch.zeros_like(before, dtype=torch.bool).scatter(-1, order.indices, before < top_p)


def blocks(prompts: Sequence[Sequence[int]]) -> list[NDArray[np.int64]]:
    """Row indices as [prompts, rows of each], one block for each number of rows a prompt has."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(index)
    sizes: dict[int, list[list[int]]] = {}
    for members in groups.values():
        sizes.setdefault(len(members), []).append(members)
    return [np.array(block) for block in sizes.values()]


@torch.no_grad()
def sample_free(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    seed: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    lines: int = 0,
) -> list[str]:
    """One free answer for each prompt, at temperature ``temperature`` over the whole vocabulary.

    Prompts that are all different go through transformers' ``generate``, where it agrees with the
    model's plain passes; where some are the same, each is computed once
    (``benchmarks/sampling.py``).

    Args:
        lines: an answer also ends after this many lines; 0 never does.
    """
    alone = len(set(map(tuple, prompts))) == len(prompts) and lm.verified.generate
    if not alone or not lm.trees_hold(max(map(len, prompts)) + max_new_tokens):
        return _sample_shared(lm, prompts, seed, max_new_tokens, temperature, lines)
    ids, mask = (part.to(lm.device) for part in pad_left(prompts, lm.end_id))
    width, stop = ids.shape[1], end_tokens(lm)
    with torch.random.fork_rng(devices=[]), lm.autocast():
        torch.manual_seed(seed)
        out = lm.model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop,
            pad_token_id=lm.end_id,
            stopping_criteria=[LinesEnded(lm.tokenizer, width, lines)] if lines else None,
        )
    texts = []
    for row in out[:, width:].tolist():
        end = min((row.index(s) for s in stop if s in row), default=len(row))
        text = lm.tokenizer.decode(row[:end], skip_special_tokens=True)
        texts.append(text[: lines_end(text, lines)])
    return texts


def _sample_shared(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    seed: int,
    max_new_tokens: int,
    temperature: float,
    lines: int,
) -> list[str]:
    """``sample_free`` with the computation of equal prompts shared; row i draws from (seed, i)."""
    texts, stop = [""] * len(prompts), end_tokens(lm)
    for members in blocks(prompts):
        rows = members.flatten().tolist()
        draws = np.stack(
            [
                np.random.Generator(np.random.Philox(key=[seed, row])).random(max_new_tokens)
                for row in rows
            ]
        )
        uniform = torch.from_numpy(draws).float().to(lm.device)
        shared = [prompts[int(i)] for i in members[:, 0]]
        branches = lm.branches(shared, members.shape[1], max_new_tokens)
        drawn: list[list[int]] = [[] for _ in rows]
        alive = set(range(len(rows)))
        for t in range(max_new_tokens):
            below = (lm.head(branches.states) / temperature).softmax(-1).cumsum(-1)
            wanted = uniform[:, t : t + 1] * below[:, -1:]
            chosen = torch.searchsorted(below, wanted, right=True)[:, 0].clamp(
                max=below.shape[1] - 1
            )
            for i, token in enumerate(chosen.tolist()):
                if i in alive and token in stop:
                    alive.remove(i)
                elif i in alive:
                    drawn[i].append(token)
                    text = lm.tokenizer.decode(drawn[i], skip_special_tokens=True) if lines else ""
                    if lines_end(text, lines) < len(text):
                        alive.remove(i)
            if not alive or t + 1 == max_new_tokens:
                break
            branches.extend(chosen)
        for row, tokens in zip(rows, drawn, strict=True):
            text = lm.tokenizer.decode(tokens, skip_special_tokens=True)
            texts[row] = text[: lines_end(text, lines)]
    return texts


class LinesEnded:
    """Ends every answer on its own: a stopping criterion for ``generate``."""

    def __init__(self, tokenizer: Any, start: int, lines: int) -> None:
        self.tokenizer, self.start, self.lines = tokenizer, start, lines

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        texts = self.tokenizer.batch_decode(ids[:, self.start :], skip_special_tokens=True)
        ended = [lines_end(text, self.lines) < len(text) for text in texts]
        return torch.tensor(ended, device=ids.device)


class HfBackend:
    """The ``hf`` backend's two batch verbs: a loaded model as it stands, adapters in place.

    Free answers of one call draw from the first one's seed together; inside a grammar every row
    has noise of its own.
    """

    batch = 128

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm

    @property
    def facts(self) -> dict[str, str]:
        return {"backend": "hf", "dtype": self.lm.precision}

    def sample(self, requests: Sequence[SampleRequest]) -> list[str]:
        """Raises ``ConfigError`` for a constraint that is no ``Automaton``."""
        texts = [""] * len(requests)
        for members in alike(requests):
            first, part = requests[members[0]], [requests[i] for i in members]
            prompts = [request.prompt for request in part]
            if first.grammar is None:
                group_texts = sample_free(
                    self.lm,
                    prompts,
                    seed=first.seed,
                    max_new_tokens=first.max_tokens,
                    lines=first.lines,
                )
            elif isinstance(first.grammar, Automaton):
                group_texts = sample_grammar(
                    self.lm,
                    prompts,
                    [request.row for request in part],
                    first.grammar,
                    seed=first.seed,
                    max_length=first.max_tokens,
                )
            else:
                raise ConfigError(
                    "the hf backend samples inside a grammar of characters; "
                    f"{sorted(first.grammar)} needs backend=vllm"
                )
            for index, text in zip(members, group_texts, strict=True):
                texts[index] = text
        return texts

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[float]:
        answers = self.lm.choice_logprobs(
            [request.prompt for request in requests], [[request.answer] for request in requests]
        )
        return [float(values[0]) for values in answers]


def alike(requests: Sequence[SampleRequest]) -> list[list[int]]:
    """Indices of requests that differ in prompt and row alone."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, r in enumerate(requests):
        groups.setdefault((r.seed, r.max_tokens, r.lines, id(r.grammar)), []).append(index)
    return list(groups.values())
