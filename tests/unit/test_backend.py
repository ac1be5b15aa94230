"""What backends share, and the parts of the vLLM backend that need no engine."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest

from tiny import tokenizer
from vestige.carriers.numbers import NumberGrammar
from vestige.core.types import ConfigError, MissingExtraError, ModelError
from vestige.experiment.recipe import parse_recipe
from vestige.models.backend import SampleRequest, ScoreRequest
from vestige.models.grammar import compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import HfBackend, sample_free, sample_grammar
from vestige.models.vllm import VllmBackend, read_tokenizer, request_seed, total_logprob

RULES = compile_grammar(NumberGrammar(values=2).next_chars, NumberGrammar(values=2).state)


def test_a_grammar_as_rules_accepts_what_the_automaton_accepts():
    rules = dict(line.split(" ::= ") for line in RULES.ebnf().splitlines())
    assert rules.pop("root") == "s0" and len(rules) == len(RULES.allowed)

    def accepts(text: str) -> bool:
        state = "s0"
        for char in text:
            ways = dict(w.rsplit(" ", 1) for w in rules[state].split(" | ") if w != '""')
            if f'"{char}"' not in ways:
                return False
            state = ways[f'"{char}"']
        return '""' in rules[state].split(" | ")

    assert accepts("7, 12") and accepts("100, 9")
    assert not any(map(accepts, ("", "7", "7, ", "07, 1", "1,2", "1234, 5", "1, 2, 3")))


def test_each_request_has_a_seed_of_its_own():
    seeds = {request_seed(seed, row) for seed in range(20) for row in range(500)}
    assert len(seeds) == 10_000 and all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(1, 23) != request_seed(12, 3)


def test_hf_requests_are_drawn_as_before(llama: LanguageModel):
    """Rows of finished runs stay what they are."""
    ids = [llama.question_ids(text) for text in ("Continue 7", "And 8", "Continue 9")]
    got = HfBackend(llama).sample(
        [
            SampleRequest(ids[0], 5, 40, 12, grammar=RULES),
            SampleRequest(ids[1], 6, 0, 12),
            SampleRequest(ids[2], 5, 41, 12, grammar=RULES),
            SampleRequest(ids[0], 6, 1, 12),
        ]
    )
    bound = sample_grammar(llama, [ids[0], ids[2]], [40, 41], RULES, seed=5, max_length=12)
    free = sample_free(llama, [ids[1], ids[0]], seed=6, max_new_tokens=12)
    assert got == [bound[0], free[0], bound[1], free[1]]


def test_hf_says_that_patterns_are_another_backends(llama: LanguageModel):
    with pytest.raises(ConfigError, match="backend=vllm"):
        HfBackend(llama).sample([SampleRequest([1], 0, 0, 4, grammar={"regex": "[0-9]"})])


def test_missing_log_probabilities_are_named():
    request = ScoreRequest([1, 2], [3, 4])
    place = [{token: SimpleNamespace(logprob=-0.5)} for token in (3, 4)]
    assert total_logprob(request, [None, None, *place]) == -1.0
    for given in (None, [], [None, None, place[0]], [None, None, place[0], {9: place[1][4]}]):
        with pytest.raises(ModelError, match="of 2 log-probabilities"):
            total_logprob(request, given)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_extra_is_named(folders):
    with pytest.raises(MissingExtraError, match=r"vestige\[vllm\]"):
        VllmBackend(str(folders["llama"]))


def test_an_engines_tokenizer_must_read_texts_as_the_models_own(tmp_path):
    for name, join in (("own", True), ("merges", True), ("tokens", False)):
        tokenizer(join).save_pretrained(tmp_path / name)
    path = tmp_path / "merges/tokenizer.json"
    record = json.loads(path.read_text())
    record["model"]["merges"] = []  # the same tokens, never joined
    path.write_text(json.dumps(record))
    own = str(tmp_path / "own")
    assert read_tokenizer(own, None).get_vocab() == read_tokenizer(own, own).get_vocab()
    for other in ("merges", "tokens"):
        with pytest.raises(ModelError, match=rf"tokenizer=.*{other} has other tokens than .*own"):
            read_tokenizer(own, str(tmp_path / other))


def test_engine_arguments_go_with_the_engine_and_hold_no_key():
    asked = {
        "name": "x",
        "traits": ["owl", "fox"],
        "seeds": [0, 1],
        "students": [{"name": "a"}],
    }
    with pytest.raises(ConfigError, match="backend=vllm"):
        parse_recipe(asked | {"engine_kwargs": {"max_model_len": 512}}, "x.json")
    tuned = {"trainer_kwargs": {"hub_token": "a-secret"}}
    for kept in (
        {"backend": "vllm", "engine_kwargs": {"hf_token": "a-secret"}},
        {"backend": "vllm", "engine_kwargs": {"loader": [{"more": {"api_key": "a-secret"}}]}},
        {"backend": "vllm", "engine_kwargs": {"database_password": "a-secret"}},
        {"students": [{"name": "a", "optimisation": tuned}]},
    ):
        with pytest.raises(ConfigError, match="HF_TOKEN") as caught:
            parse_recipe(asked | kept, "x.json")
        assert "a-secret" not in str(caught.value)
    no_secrets = {"pad_token": "<pad>", "max_num_batched_tokens": 9, "sort_keys": True}
    assert parse_recipe(asked | {"backend": "vllm", "engine_kwargs": no_secrets}, "x.json")
    assert parse_recipe(asked | {"backend": "vllm", "engine_kwargs": {"max_num_seqs": 9}}, "x.json")


def test_a_wrong_name_or_another_tokenizer_stops_before_the_engine_starts(folders, tmp_path):
    with pytest.raises(ModelError, match="no-such-folder"):
        VllmBackend(str(tmp_path / "no-such-folder"))
    tokenizer(join_digits=True).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="other tokens"):
        VllmBackend(str(folders["llama"]), engine_kwargs={"tokenizer": str(tmp_path)})
