"""Every causal language model class of the installed transformers, at a tiny size.

Each is built with random weights and compared, through the same calls that measuring, training and
sampling use, with its own plain forward pass. Nothing is downloaded.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vestige.core.types import ModelError
from vestige.models.hf import LanguageModel
from vestige.models.plain import plain_logits
from vestige.models.tree import build_tree
from vestige.models.verification import VALUES, reason, spread_of

Path = Literal["fast", "partly fast", "plain", "refused", "not built", "WRONG"]
VOCABULARY = 320  # tokens: all 256 bytes and room for special ones
LARGEST = 30_000_000  # parameters of what is called tiny

MEANINGS: dict[Path, str] = {
    "fast": "token trees and cached branches agree with the plain pass",
    "partly fast": "token trees agree; what does not is computed on plain passes",
    "plain": "computed on plain passes, one sequence an answer: slower and right",
    "refused": "loading it ends with the reason",
    "not built": "no tiny model of it could be made here; a real one is compared when it is loaded",
    "WRONG": "differs from its plain pass and was not noticed",
}

#: Settings by the names that configurations have for them.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "dim", "emb_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "moe_intermediate_size"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token"), 2),
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY, "sliding_window": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "word_embed_proj_dim": 64,
    "shared_expert_intermediate_size": 48, "state_size": 8, "is_decoder": True,
    "tie_word_embeddings": True, "n_group": 1, "topk_group": 1, "rotary_dim": 8,
    # Scales that are not 1, so that a path that forgets one shows.
    "logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
    "attention_multiplier": 0.0625,
    # Latent attention.
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 64,
    # Recurrent layers: twice the width is heads times their width, and chunks are short.
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_chunk_size": 8, "chunk_size": 8, "mamba_d_ssm": 128, "mamba_num_heads": 8,
    "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "lru_width": 64, "linear_head_dim": 16, "linear_num_heads": 4,
}  # fmt: skip
#: What a kind's own rules ask for besides.
OWN: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 32},
}


@dataclass(frozen=True)
class Outcome:
    """What became of one class.

    Attributes:
        kind: the configuration's ``model_type``.
        path: how its numbers are computed.
        difference: the largest difference to its plain passes, in units of their spread.
        detail: why it is not fast, or not there.
    """

    kind: str
    name: str
    path: Path
    difference: float
    detail: str = ""


def examine_all(kinds: Sequence[str] = ()) -> Iterator[Outcome]:
    """Every class in turn, or those of the named kinds. Raises nothing for any of them."""
    for kind, name in sorted(classes().items()):
        if not kinds or kind in kinds:
            yield examine(kind, name)


def classes() -> dict[str, str]:
    """The causal language model class of each ``model_type``, by its name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def examine(kind: str, name: str) -> Outcome:
    """One class, built and compared."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = build(kind)
            except Exception as error:
                return Outcome(kind, name, "not built", 0.0, reason(error))
            return compare(kind, model)
    finally:
        logging.disable(level)


def build(kind: str) -> nn.Module:
    """A tiny model of a kind with random weights, large enough for differences to show.

    Raises:
        Exception: whatever its configuration or class raises.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](**sizes(CONFIG_MAPPING[kind]()))
    torch.manual_seed(0)
    with torch.device("meta"):
        hollow = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        size = sum(part.numel() for part in hollow.parameters())
    if size > LARGEST:
        raise ModelError(f"{size:,} parameters at the smallest size that is known")
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    return model


def sizes(default: Any) -> dict[str, Any]:
    """The settings that make ``default``, a configuration, tiny; those of its parts too."""
    names = set(default.to_dict())
    names |= set(getattr(default, "attribute_map", {})) - {
        own for own in getattr(default, "attribute_map", {}).values() if own in names
    }
    values = {name: SMALL[name] for name in SMALL if name in names}
    if "qk_rope_head_dim" in names:  # its heads are as wide as these parts say, and not shared
        values.pop("head_dim", None)
        values["num_key_value_heads"] = SMALL["num_attention_heads"]
    values |= OWN.get(default.model_type, {})
    for part in getattr(default, "sub_configs", {}):
        inner = getattr(default, part, None)
        if inner is not None and hasattr(inner, "to_dict"):
            values[part] = {**sizes(inner), "model_type": inner.model_type}
    return values


def compare(kind: str, model: nn.Module) -> Outcome:
    """A model's measuring, training and sampling against its plain passes."""
    name = type(model).__name__
    reference = Reference(model)
    try:
        lm = LanguageModel(model, byte_tokenizer(), style="plain", precision="fp32")
        verified = lm.verified
        off = max(reference.values(lm), reference.sampling(lm), reference.gradients(lm))
    except ModelError as error:
        return Outcome(kind, name, "refused", 0.0, str(error))
    if not off <= VALUES["fp32"]:
        return Outcome(kind, name, "WRONG", off, "; ".join(verified.reasons))
    path: Path = "fast" if verified.fast else "partly fast" if verified.trees else "plain"
    return Outcome(kind, name, path, off, "" if verified.fast else "; ".join(verified.reasons))


class Reference:
    """A model's own plain passes over a few sequences, taken before anything else is done to it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.attention = model.config._attn_implementation  # type: ignore[union-attr]
        draw = torch.Generator().manual_seed(1)
        tokens = lambda n: torch.randint(10, 200, (n,), generator=draw).tolist()  # noqa: E731
        lead, tail = tokens(6), tokens(70)
        self.prompts = [[*lead, *tokens(2)], [*lead, *tokens(7)], [*lead, *tail]]
        first = tokens(1)
        self.answers = [[*first, *tokens(2)], [*first, *tokens(1)], tokens(1)]

    def values(self, lm: LanguageModel) -> float:
        """The largest difference of answers' log-probabilities."""
        answered = lm.answer_logprobs(self.prompts, self.answers)
        wanted = torch.tensor(
            [[self._logprob(prompt, answer) for answer in self.answers] for prompt in self.prompts]
        )
        return float((answered - wanted).abs().max()) / self._spread

    def sampling(self, lm: LanguageModel) -> float:
        """The largest difference of next tokens' log-probabilities along two branches."""
        prompts, worst = self.prompts[:2], 0.0
        with torch.no_grad():
            branches = lm.branches(prompts, 2, 4)
            grown = [[*prompt] for prompt in prompts for _ in range(2)]
            for step in range(3):
                sampled = lm.head(branches.states).log_softmax(-1)
                wanted = torch.stack([self._logits(ids)[-1].log_softmax(-1) for ids in grown])
                worst = max(worst, float((sampled - wanted).abs().max()))
                tokens = [30 + 7 * step + row for row in range(4)]
                branches.extend(torch.tensor(tokens))
                grown = [[*ids, token] for ids, token in zip(grown, tokens, strict=True)]
        return worst / self._spread

    def gradients(self, lm: LanguageModel) -> float:
        """The difference of one training step's gradients, as a share of their norm."""
        prefix, paths = self.prompts[0], [answer for answer in self.answers[:2]]
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        with torch.enable_grad():
            (reading,) = lm.readings(prefix[:-1], [[build_tree([[prefix[-1], *p] for p in paths])]])
            rows = [reading.states[0, list(path)][:-1] for path in reading.trees[0].paths]
            ours = torch.stack(
                [_loss(lm.head(states), path) for states, path in zip(rows, paths, strict=True)]
            )
            own_gradients = torch.autograd.grad(ours.mean(), parameters, allow_unused=True)
            theirs = torch.stack(
                [_loss(self._logits([*prefix, *path])[-len(path) - 1 : -1], path) for path in paths]
            )
            wanted = torch.autograd.grad(theirs.mean(), parameters, allow_unused=True)
        off = total = 0.0
        for got, want in zip(own_gradients, wanted, strict=True):
            want = torch.zeros(1) if want is None else want
            got = torch.zeros_like(want) if got is None else got
            off += float((got - want).pow(2).sum())
            total += float(want.pow(2).sum())
        return (off / total) ** 0.5 if total else 0.0

    def _logits(self, ids: Sequence[int]) -> Tensor:
        now = self.model.config._attn_implementation  # type: ignore[union-attr]
        self.model.set_attn_implementation(self.attention)  # type: ignore[operator]
        try:
            return plain_logits(self.model, ids)
        finally:
            self.model.set_attn_implementation(now)  # type: ignore[operator]

    @torch.no_grad()
    def _logprob(self, prompt: Sequence[int], answer: Sequence[int]) -> float:
        logprobs = self._logits([*prompt, *answer]).log_softmax(-1)
        return sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))

    @property
    def _spread(self) -> float:
        with torch.no_grad():
            return spread_of(self._logits(self.prompts[0]))


def _loss(logits: Tensor, path: Sequence[int]) -> Tensor:
    return nn.functional.cross_entropy(logits, torch.tensor(list(path)))


def as_markdown(outcomes: Sequence[Outcome], version: str) -> str:
    """The outcomes as the page ``docs/architectures.md`` has them."""
    counts = Counter(outcome.path for outcome in outcomes)
    lines = [
        "# Architectures",
        "",
        f"Every causal language model class of transformers {version}, built at a tiny size with "
        "random weights and",
        "compared with its own plain forward pass in measuring, training and sampling, in fp32. "
        "Made by",
        "`vestige doctor --architectures > docs/architectures.md`.",
        "",
        f"{len(outcomes)} classes: "
        + ", ".join(f"{counts[path]} {path}" for path in MEANINGS if counts[path])
        + ".",
        "",
        *(f"- **{path}**: {meaning}" for path, meaning in MEANINGS.items() if counts[path]),
        "",
        "| model type | class | computed | largest difference | why |",
        "|---|---|---|---|---|",
    ]
    for each in outcomes:
        off = f"{each.difference:.0e}" if each.path not in ("refused", "not built") else ""
        why = each.detail.replace("|", "\\|").replace("`", "'")
        lines.append(f"| {each.kind} | {each.name} | {each.path} | {off} | {why} |")
    return "\n".join(lines) + "\n"


def byte_tokenizer() -> Any:
    """A tokenizer of one token a byte: these models have none, and nothing is asked in words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<end>", *letters])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
