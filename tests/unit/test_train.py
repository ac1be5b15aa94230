"""Losses, masks and gradients against separate sequences; the loop; TRL on the same rows."""

from __future__ import annotations

import pytest
import torch

from conftest import TEMPLATE
from vestige.carriers.numbers import NumberGrammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import compile_grammar, symbol_ids
from vestige.models.weights import Weights
from vestige.settings import Optimisation, Trainable
from vestige.train.loop import pack_loss, rate_factor, teacher_logprobs, train
from vestige.train.packs import encode_grammar_rows, encode_rows, interleave, make_packs
from vestige.train.sft import train_with_trl
from vestige.types import ConfigError, DataError, Message, Row, TrainingError

GRAMMAR = NumberGrammar(values=2)
RULES = compile_grammar(GRAMMAR.next_chars, GRAMMAR.state)
ASKED = ["More", "More", "More", "More", "Again, please", "Third"]
TEXTS = ["12, 3", "4, 567", "12, 9", "88, 88", "5, 5", "123, 456"]


def examples(lm: LanguageModel, grammar: bool = True):
    prompts = [lm.question_ids(text) for text in ASKED]
    if grammar:
        return encode_grammar_rows(lm, prompts, TEXTS, RULES)
    return encode_rows(lm, prompts, TEXTS)


def slow_losses(lm: LanguageModel, grammar: bool) -> torch.Tensor:
    """Each scored position's cross-entropy from one plain pass a row, marked by hand."""
    losses = []
    for asked, text in zip(ASKED, TEXTS, strict=True):
        prompt = lm.question_ids(asked)
        answer = [*lm.answer_ids(text), lm.end_id]
        logits = lm.model(input_ids=torch.tensor([prompt + answer])).logits[0].float()
        for j, token in enumerate(answer):
            at = logits[len(prompt) - 1 + j]
            if grammar:
                may = sorted(GRAMMAR.next_chars(text[:j]))
                if len(may) == 1:
                    continue
                allowed = [lm.end_id if c == "" else lm.token_ids(c)[0] for c in may]
                losses.append(at[allowed].logsumexp(-1) - at[token])
            else:
                losses.append(at.logsumexp(-1) - at[token])
    return torch.stack(losses)


@pytest.mark.parametrize("grammar", [True, False])
@pytest.mark.parametrize("prompts", [1, 3])
def test_loss_and_gradient_are_those_of_separate_rows(lm: LanguageModel, grammar, prompts):
    ids = symbol_ids(lm, RULES) if grammar else None
    options = {"automaton": RULES, "ids": ids} if grammar else {}
    (pack,) = make_packs(examples(lm, grammar), 6, prompts=prompts, **options)
    weights = [p for p in lm.model.parameters() if p.ndim == 2]
    ours = pack_loss(lm, pack, ids)
    want = slow_losses(lm, grammar)
    assert len(pack.where) == len(want) and ours.item() == pytest.approx(
        want.mean().item(), abs=1e-4
    )
    got = torch.autograd.grad(ours, weights, allow_unused=True)
    ref = torch.autograd.grad(want.mean(), weights, allow_unused=True)
    pairs = [(a, b) for a, b in zip(got, ref, strict=True) if b is not None]
    assert pairs and all(torch.allclose(a, b, atol=2e-4) for a, b in pairs)


def test_mask_marks_answers_and_their_end_alone(llama: LanguageModel):
    (pack,) = make_packs(examples(llama, False)[:1], 1)
    answer = [*llama.answer_ids("12, 3"), llama.end_id]
    assert pack.targets.tolist() == answer and pack.counts == (len(answer),)
    free = {"automaton": RULES, "ids": symbol_ids(llama, RULES)}
    (pack,) = make_packs(examples(llama)[:1], 1, **free)
    symbols = [RULES.symbols[k] for k in pack.targets]
    # the space after the comma is forced; after three digits so is the comma, but here are fewer
    assert symbols == ["1", "2", ",", "3", ""]


def test_kl_to_itself_is_zero_and_to_another_is_the_sum_by_hand(llama: LanguageModel):
    ids = symbol_ids(llama, RULES)
    packs = make_packs(examples(llama), 2, automaton=RULES, ids=ids)
    own = teacher_logprobs(llama, packs, ids)
    assert [len(part) for part in own] == [
        sum(len(GRAMMAR.next_chars(t[:j])) > 1 for j in range(len(t) + 1)) for t in TEXTS
    ]
    target = torch.cat([own[i] for i in packs[0].rows])
    assert pack_loss(llama, packs[0], ids, target).item() == pytest.approx(0, abs=1e-6)
    even = torch.where(target.isfinite(), 0.0, -torch.inf).log_softmax(-1)
    p = even.exp()
    by_hand = torch.where(p > 0, p * (even - target), 0.0).nansum(-1).mean()
    assert pack_loss(llama, packs[0], ids, even).item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_targets_do_not_depend_on_how_rows_are_batched(llama: LanguageModel):
    ids = symbol_ids(llama, RULES)
    layouts = [(6, 1), (2, 1), (4, 2), (6, 3)]
    found = [
        teacher_logprobs(
            llama, make_packs(examples(llama), n, prompts=k, automaton=RULES, ids=ids), ids
        )
        for n, k in layouts
    ]
    for other in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found[0], other, strict=True))


def test_interleave_takes_turns_and_loses_nothing():
    prompts = ["a"] * 4 + ["b"] * 4 + ["c"] * 3
    order = interleave(prompts, 4, 2)
    assert sorted(order) == list(range(11))
    assert [prompts[i] for i in order[:8]] == ["a", "a", "b", "b"] * 2
    assert interleave(prompts, 4, 1) == list(range(11))


def test_training_lowers_the_loss_and_is_reproducible(llama: LanguageModel):
    ids, weights = symbol_ids(llama, RULES), Weights(llama)
    packs = make_packs(examples(llama), 3, automaton=RULES, ids=ids)
    how = Optimisation(steps=12, batch=3, rate=3e-3, trainable=Trainable(layers=(0, 2)))
    seen: list[tuple[int, float]] = []

    def once() -> dict[str, torch.Tensor]:
        train(
            llama, weights, packs, how,
            seed=1, ids=ids, on_step=lambda s, loss: seen.append((s, loss)),
        )  # fmt: skip
        return {name: tensor.clone() for name, tensor in weights.changed().items()}

    first, second = once(), once()
    assert seen[11][1] < seen[0][1] * 0.8 and [s for s, _ in seen[:12]] == list(range(1, 13))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_divergence_and_empty_data_are_errors(llama: LanguageModel):
    weights = Weights(llama)
    packs = make_packs(examples(llama, False), 3)
    with pytest.raises(TrainingError, match="lower the rate"):
        train(llama, weights, packs, Optimisation(steps=30, rate=1e30, clip=1e30), seed=0)
    with pytest.raises(DataError, match="no rows"):
        make_packs([], 4)
    with pytest.raises(DataError, match="constrained=false"):
        encode_grammar_rows(llama, [[1]], ["1, 2, 3"], RULES)


def test_rate_warms_up_and_decays():
    how = Optimisation(steps=10, warmup=5, decay=True)
    assert [round(rate_factor(s, how), 3) for s in (0, 4, 9)] == [0.2, 0.6, 0.1]
    assert rate_factor(9, how.model_copy(update={"decay": False})) == 1.0


@pytest.mark.parametrize("what", [Trainable(), Trainable(layers=(0, 2), lora_rank=2)])
def test_trl_has_the_same_loss_on_the_same_rows(llama: LanguageModel, what: Trainable):
    assert llama.tokenizer.chat_template == TEMPLATE
    rows = [
        Row(str(i), (Message("user", asked),), text)
        for i, (asked, text) in enumerate(zip(ASKED, TEXTS, strict=True))
    ]
    how = Optimisation(steps=2, batch=6, rate=1e-3, warmup=0, trainable=what)
    (pack,) = make_packs(examples(llama, False), 6)
    before = pack_loss(llama, pack).item()
    weights = Weights(llama)
    losses = train_with_trl(llama, weights, rows, how, seed=0)
    assert losses[0] == pytest.approx(before, abs=2e-3) and losses[1] < losses[0]
    assert weights.changed() and all("lora_" in n for n in weights.changed()) == bool(
        what.lora_rank
    )
    bad = how.model_copy(update={"trainer_kwargs": {"no_such_option": 1}})
    with pytest.raises(ConfigError, match="no_such_option"):
        train_with_trl(llama, weights, rows, bad, seed=0)
