"""On-policy distillation and preference optimisation against plain slow versions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tiny import tiny_llama, tokenizer
from vestige.carriers.numbers import NumberGrammar
from vestige.core.settings import OnPolicy, Optimisation, Trainable
from vestige.core.types import ConfigError
from vestige.models.grammar import Automaton, compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import symbol_ids
from vestige.models.weights import Weights
from vestige.student.checkpoint import Checkpoint
from vestige.student.generalised_jsd import generalised_jsd
from vestige.student.loop import teacher_logprobs, train
from vestige.student.losses import preference
from vestige.student.on_policy import Asked, Written, train_on_policy
from vestige.student.packs import Pack, encode_grammar_rows, make_packs, pack_logprobs
from vestige.student.pairs import ranked_pairs

GRAMMAR = NumberGrammar(values=2, max_digits=1)
LATE = Trainable(layers=(1, 3))
TEXTS = ["1, 2", "3, 4", "5, 6", "7, 7", "8, 9"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def automaton() -> Automaton:
    return compile_grammar(GRAMMAR.next_chars, GRAMMAR.state)


def logs(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def kl(p: Tensor, q: Tensor) -> float:
    return sum(
        math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > -math.inf
    )


# ---- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_the_divergence_is_its_definition(beta: float):
    student = logs([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]])
    teacher = logs([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]])
    want = 0.0
    for s, t in zip(student, teacher, strict=True):
        m = (beta * t.exp() + (1 - beta) * s.exp()).log()
        want += {0.0: kl(t, s), 1.0: kl(s, t)}.get(beta, beta * kl(t, m) + (1 - beta) * kl(s, m))
    assert float(generalised_jsd(student, teacher, beta)) == pytest.approx(want / 2, rel=1e-9)
    assert float(generalised_jsd(teacher, teacher, beta)) == pytest.approx(0.0, abs=1e-12)


def test_the_divergence_has_a_finite_gradient_where_symbols_are_impossible():
    logits = torch.tensor([[0.3, -0.2, 0.0]], requires_grad=True)
    for beta in (0.0, 0.5, 1.0):
        masked = logits.masked_fill(torch.tensor([[False, False, True]]), -torch.inf)
        (grad,) = torch.autograd.grad(
            generalised_jsd(masked.log_softmax(-1), logs([[0.6, 0.4, 0.0]]).float(), beta), logits
        )
        assert torch.isfinite(grad).all() and grad.abs().max() > 0


def rows_of(lm: LanguageModel, automaton: Automaton, batch: int = 4) -> list[Pack]:
    prompts = [lm.question_ids(q) for q in ("More", "More", "Again", "Again", "Again")]
    ids = symbol_ids(lm, automaton)
    made = encode_grammar_rows(lm, prompts, TEXTS, automaton)
    return make_packs(made, batch, automaton=automaton, ids=ids)


def test_pairs_are_of_one_prompt_and_the_teachers_choice(llama: LanguageModel, automaton):
    packs, ids = rows_of(llama, automaton), symbol_ids(llama, automaton)
    base = teacher_logprobs(llama, packs, ids)
    own = {i: own_logprobs(base[i], i, packs) for i in range(5)}
    # a teacher that likes rows 1 and 2 more than the base does, whatever the rows' own chances
    teacher = [b + (0.5 if i in (1, 2) else 0.0) for i, b in enumerate(base)]
    pairs = ranked_pairs(["More", "More", "Again", "Again", "Again"], packs, base, teacher, 0.2)
    assert [pair.rows for pair in pairs] == [(1, 0), (2, 3)]
    for pair in pairs:
        for index, sign, about in zip(pair.rows, (0.2, -0.2), pair.targets, strict=True):
            assert torch.equal(about[:, 0], own[index])
            assert torch.allclose(about[:, 1], torch.tensor(sign))


def own_logprobs(logprobs: Tensor, row: int, packs: list[Pack]) -> Tensor:
    for pack in packs:
        if row in pack.rows:
            tokens = pack.targets.split(list(pack.counts))[pack.rows.index(row)]
            return logprobs[torch.arange(len(tokens)), tokens]
    raise AssertionError(row)


def test_the_preference_loss_is_dpo(llama: LanguageModel, automaton):
    """Against sums over plain passes, one row at a time."""
    packs, ids = rows_of(llama, automaton, batch=2), symbol_ids(llama, automaton)
    base = teacher_logprobs(llama, packs, ids)
    (pack, *_) = packs
    draw = torch.Generator().manual_seed(0)
    now = pack_logprobs(llama, pack, ids).detach()
    moved = (now + 0.3 * torch.randn(now.shape, generator=draw)).log_softmax(-1)
    (pair,) = ranked_pairs(["More", "More"], [pack], base, base, 0.5)
    # as many reference values as the pack's rows have, in the pack's order
    at = {pair.rows[k]: pair.targets[k] for k in (0, 1)}
    target = torch.cat([at[row] for row in pack.rows])
    own = moved.gather(1, pack.targets[:, None])[:, 0].split(list(pack.counts))
    gain = {
        row: float((logprobs - own_logprobs(base[row], row, packs)).sum())
        for row, logprobs in zip(pack.rows, own, strict=True)
    }
    margin = 0.5 * (gain[pair.rows[0]] - gain[pair.rows[1]])
    want = math.log1p(math.exp(-margin))
    assert float(preference.loss(moved, pack, target)) == pytest.approx(want, rel=1e-5)
    assert float(preference.loss(now, pack, target)) == pytest.approx(math.log(2), rel=1e-6)
    with pytest.raises(ConfigError, match="method=preference"):
        preference.loss(now, pack, None)


# ---- training -----------------------------------------------------------------------------------


def a_teacher(folder: Path, automaton: Automaton) -> LanguageModel:
    """One that writes "9, 9" to everything."""
    lm = LanguageModel.load(str(folder))
    ids = symbol_ids(lm, automaton)
    prompts = [lm.question_ids(q) for q in ("More", "Again")]
    examples = encode_grammar_rows(lm, prompts, ["9, 9", "9, 9"], automaton)
    settings = Optimisation(steps=30, batch=2, rate=3e-3, trainable=LATE)
    packs = make_packs(examples, 2, prompts=2, automaton=automaton, ids=ids)
    train(lm, Weights(lm), packs, settings, seed=0, ids=ids)
    return lm


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_an_on_policy_student_comes_to_write_as_its_teacher(folders, tmp_path, automaton, share):
    lm = LanguageModel.load(str(folders["llama"]))
    teacher, weights = a_teacher(folders["llama"], automaton), Weights(lm)
    asked = [
        Asked(lm.question_ids(q), teacher.question_ids(q), TEXTS[:4]) for q in ("More", "Again")
    ]
    seen: list[float] = []

    class Stop(Exception):
        pass

    def run(stop: int | None, place: Path | None) -> dict[str, Tensor]:
        def on_step(step: int, loss: float) -> None:
            seen.append(loss)
            if step == stop:
                raise Stop

        train_on_policy(
            lm, weights, teacher, asked, automaton, OnPolicy(beta=0.5, share=share),
            Optimisation(steps=20, batch=4, rate=3e-3, trainable=LATE),
            longest=GRAMMAR.longest, seed=3, on_step=on_step,
            checkpoint=Checkpoint(place, every=0) if place else None,
        )  # fmt: skip
        return {name: tensor.clone() for name, tensor in weights.changed().items()}

    whole, losses = run(None, None), list(seen)
    if share:  # on what others wrote the teacher's own answers are never seen
        assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    else:
        assert losses[-1] < losses[0]
    seen.clear()
    with pytest.raises(Stop):
        run(7, tmp_path / "kept")
    again = run(None, tmp_path / "kept")
    assert losses[-3:] == seen[-3:]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_each_model_reads_the_rows_in_its_own_tokens(llama: LanguageModel, automaton, tmp_path):
    """The teacher's tokenizer has the same digits under other numbers."""
    words = tokenizer()
    core = json.loads(words.backend_tokenizer.to_str())
    vocab = core["model"]["vocab"]
    core["model"]["vocab"] = dict(zip(vocab, reversed(vocab.values()), strict=True))
    words._tokenizer = type(words.backend_tokenizer).from_str(json.dumps(core))
    words.save_pretrained(tmp_path)
    tiny_llama(len(words)).save_pretrained(tmp_path)
    teacher = LanguageModel.load(str(tmp_path))
    one = Asked(llama.question_ids("More"), teacher.question_ids("More"), TEXTS[:2])
    assert one.prompt != one.teachers_prompt
    written = Written(llama, teacher, [one], automaton, 0.0, 2, GRAMMAR.longest, 0)
    pack, seen = written(1)
    assert seen is not None and len(seen) == len(pack.where)
    ids = symbol_ids(teacher, automaton)
    assert not torch.equal(ids, symbol_ids(llama, automaton))
    # the teacher's own probabilities of the first symbol, from a plain pass
    with torch.no_grad():
        logits = teacher.model(input_ids=torch.tensor([list(one.teachers_prompt)])).logits[0, -1]
    first = logits[ids].masked_fill(~automaton.allowed[0], -torch.inf).log_softmax(-1)
    assert torch.allclose(seen[0], first, atol=2e-2)
