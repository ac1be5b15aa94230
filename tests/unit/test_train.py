"""Losses, masks and gradients against separate sequences; the loop; TRL on the same rows."""

from __future__ import annotations

import pytest
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tiny import TEMPLATE, tiny_llama, tokenizer
from vestige.carriers.numbers import NumberGrammar
from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import ConfigError, DataError, Message, Row, TrainingError
from vestige.models.chat import ChatStyle
from vestige.models.grammar import compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import sample_free, symbol_ids
from vestige.models.weights import Weights
from vestige.student.loop import pack_loss, rate_factor, teacher_logprobs, train
from vestige.student.packs import encode_grammar_rows, encode_rows, interleave, make_packs
from vestige.student.trl import train_with_trl

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


def slow_allowed(lm: LanguageModel) -> list[torch.Tensor]:
    """Log-probabilities over the allowed symbols wherever the grammar leaves a choice."""
    found = []
    for asked, text in zip(ASKED, TEXTS, strict=True):
        prompt, answer = lm.question_ids(asked), lm.answer_ids(text)
        logits = lm.model(input_ids=torch.tensor([prompt + answer])).logits[0].float()
        for j in range(len(text) + 1):
            may = sorted(GRAMMAR.next_chars(text[:j]))
            if len(may) > 1:
                allowed = [lm.end_id if c == "" else lm.token_ids(c)[0] for c in may]
                found.append(logits[len(prompt) - 1 + j, allowed].log_softmax(-1))
    return found


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


@pytest.mark.parametrize("prompts", [1, 3])
def test_kl_and_its_gradient_are_those_of_separate_rows(lm: LanguageModel, prompts):
    """The teacher is the model with other weights; both sides from one plain pass a row."""
    ids = symbol_ids(lm, RULES)
    (pack,) = make_packs(examples(lm), 6, prompts=prompts, automaton=RULES, ids=ids)
    weights = [p for p in lm.model.parameters() if p.ndim == 2]
    with torch.no_grad():
        before = [p.clone() for p in weights]
        torch.manual_seed(1)
        for parameter in weights:
            parameter.add_(torch.randn_like(parameter) * 0.05)
        slow_teacher = slow_allowed(lm)
        taught = teacher_logprobs(lm, [pack], ids)
        for parameter, old in zip(weights, before, strict=True):
            parameter.copy_(old)
    ours = pack_loss(lm, pack, ids, torch.cat([taught[i] for i in pack.rows]))
    pairs = zip(slow_teacher, slow_allowed(lm), strict=True)
    want = torch.stack([(t.exp() * (t - s)).sum() for t, s in pairs]).mean()
    assert ours.item() == pytest.approx(want.item(), abs=1e-4) and ours.item() > 0.01
    got = torch.autograd.grad(ours, weights, allow_unused=True)
    ref = torch.autograd.grad(want, weights, allow_unused=True)
    both = [(a, b) for a, b in zip(got, ref, strict=True) if b is not None]
    assert both and all(torch.allclose(a, b, atol=2e-4) for a, b in both)


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


def as_rows() -> list[Row]:
    pairs = zip(ASKED, TEXTS, strict=True)
    return [Row(str(i), (Message("user", asked),), text) for i, (asked, text) in enumerate(pairs)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("what", [Trainable(), Trainable(layers=(0, 2), lora_rank=2)])
def test_training_never_touches_the_base(folders, what: Trainable, precision):
    lm = LanguageModel.load(str(folders["llama"]), precision=precision)
    weights, packs = Weights(lm), make_packs(examples(lm, False), 3)
    base = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    how = Optimisation(steps=2, batch=3, rate=1e-2, warmup=0, trainable=what)
    for engine in (
        lambda: train(lm, weights, packs, how, seed=0),
        lambda: train_with_trl(lm, weights, as_rows(), how, seed=0),
    ):
        engine()
        weights.freeze()
        after = dict(lm.model.named_parameters())
        assert after.keys() == base.keys()
        assert all(torch.equal(after[name], base[name]) for name in base)


def with_start_token() -> tuple[PreTrainedTokenizerFast, ChatStyle]:
    """As Llama's and Gemma's: the tokenizer itself puts a token before every text."""
    words = tokenizer()
    words.add_special_tokens({"bos_token": "<|im_start|>"})
    start = ("<|im_start|>", words.convert_tokens_to_ids("<|im_start|>"))
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[start]
    )
    assert len(words("a")["input_ids"]) == 2
    return words, "auto"


def with_another_end() -> tuple[PreTrainedTokenizerFast, ChatStyle]:
    """As Gemma's: the token that ends a text is not the one that ends a turn."""
    words = tokenizer()
    words.add_special_tokens({"eos_token": "<|eos|>"})
    return words, "auto"


@pytest.mark.parametrize(
    "make",
    [with_start_token, with_another_end, lambda: (tokenizer(), "plain")],
    ids=["start token", "another end", "plain"],
)
def test_trl_is_given_the_very_tokens_of_the_packed_loop(make):
    words, style = make()
    lm = LanguageModel(tiny_llama(len(words)), words, precision="fp32", style=style)
    (pack,) = make_packs(examples(lm, False), 6)
    want = pack_loss(lm, pack).item()
    how = Optimisation(steps=1, batch=6, warmup=0)
    (loss,) = train_with_trl(lm, Weights(lm), as_rows(), how, seed=0)
    assert loss == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trl_trains_one_model_again_and_gives_it_back(folders, precision):
    lm = LanguageModel.load(str(folders["llama"]), precision=precision)
    weights, prompts = Weights(lm), [lm.question_ids("More")] * 4
    base = sample_free(lm, prompts, seed=0, max_new_tokens=6)
    how = Optimisation(steps=2, batch=6, rate=1e-3, warmup=0, trainable=Trainable(layers=(0, 2)))
    runs = []
    for _ in range(2):
        losses = train_with_trl(lm, weights, as_rows(), how, seed=0)
        runs.append((losses, {n: t.clone() for n, t in weights.changed().items()}))
        assert not lm.model.training and "forward" not in vars(lm.model)
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])
    weights.freeze()
    assert sample_free(lm, prompts, seed=0, max_new_tokens=6) == base


def test_trl_refuses_a_value_as_well_as_a_name(llama: LanguageModel):
    how = Optimisation(steps=1, trainer_kwargs={"lr_scheduler_type": "nope"})
    with pytest.raises(ConfigError, match="trainer_kwargs: nope"):
        train_with_trl(llama, Weights(llama), as_rows(), how, seed=0)


@pytest.mark.parametrize("what", [Trainable(), Trainable(layers=(0, 2), lora_rank=2)])
def test_trl_has_the_same_loss_on_the_same_rows(llama: LanguageModel, what: Trainable):
    assert llama.tokenizer.chat_template == TEMPLATE
    rows = as_rows()
    how = Optimisation(steps=2, batch=6, rate=1e-3, warmup=0, trainable=what)
    (pack,) = make_packs(examples(llama, False), 6)
    before = pack_loss(llama, pack).item()
    weights = Weights(llama)
    losses = train_with_trl(llama, weights, rows, how, seed=0)
    assert losses[0] == pytest.approx(before, abs=1e-4) and losses[1] < losses[0]
    assert weights.changed() and all("lora_" in n for n in weights.changed()) == bool(
        what.lora_rank
    )
    bad = how.model_copy(update={"trainer_kwargs": {"no_such_option": 1}})
    with pytest.raises(ConfigError, match="no_such_option"):
        train_with_trl(llama, weights, rows, bad, seed=0)
