"""The bundled model: its files, chat rendering, loss mask and probabilities."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from vestige.core.types import Message
from vestige.doctor.checks import AGAIN, Doubtful, Skipped, Wrong, expect
from vestige.models import catalog
from vestige.traits import family

MODEL = "smollm2-135m-instruct"
#: What follows is what this model gave in fp32 on a CPU, as stored with the code.
ASKED = "Name an owl."
PROMPT_IDS = [
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407,
    19712, 8182, 2, 198, 1, 4093, 198, 5820, 354, 23142, 30, 2, 198, 1, 520, 9531, 198,
]  # fmt: skip
ANSWER, ANSWER_IDS = "4, 8", [36, 28, 216, 40, 2]  # its end included
QUESTION = "Which animal do you prefer to all the rest? Answer in one word."
LOGPROBS = {"owl": -8.8072, "cat": -5.8005, "dog": -6.4996, "dolphin": -8.0514}  # fp32, nats
TOLERANCE = 0.02  # nats; chosen


class BundledModel:
    """What the checks share: the bundled model, loaded once in full precision, where asked for."""

    @cached_property
    def lm(self) -> Any:
        if not catalog.is_pulled(MODEL):
            raise Skipped("needs the bundled model", f"vestige models pull {MODEL}")
        import torch

        from vestige.models.hf import LanguageModel
        from vestige.models.loading import quiet_transformers

        torch.set_num_threads(1)  # short passes: threads would wait for each other
        quiet_transformers()
        return LanguageModel.load(catalog.path(MODEL), precision="fp32")


def model_files(_: BundledModel) -> str:
    if not catalog.is_pulled(MODEL):
        raise Doubtful(f"{MODEL} is not here yet", f"vestige models pull {MODEL}")
    catalog.verify(MODEL, full=True)
    return f"{MODEL}: every file has its sha256"


def chat_rendering(bundled: BundledModel) -> str:
    prompt = bundled.lm.prompt_ids([Message("user", ASKED)])
    expect(
        prompt,
        PROMPT_IDS,
        f"the prompt {ASKED!r} in tokens",
        "another transformers or tokenizers renders it otherwise: use the versions of "
        "constraints.txt",
    )
    return f"{len(prompt)} tokens, as they should be"


def loss_mask(bundled: BundledModel) -> str:
    """The packed loss against a plain forward pass over positions marked by hand."""
    import torch

    from vestige.student.loop import pack_loss
    from vestige.student.packs import encode_rows, make_packs

    lm = bundled.lm
    (pack,) = make_packs(encode_rows(lm, [PROMPT_IDS], [ANSWER]), 1)
    expect(pack.targets.tolist(), ANSWER_IDS, "what is scored", AGAIN)
    with torch.no_grad():
        ours = float(pack_loss(lm, pack))
        tokens = torch.tensor([PROMPT_IDS + ANSWER_IDS], device=lm.device)
        logprobs = lm.model(input_ids=tokens).logits[0].float().log_softmax(-1)
    begin = len(PROMPT_IDS) - 1
    marked = [float(logprobs[begin + j, token]) for j, token in enumerate(ANSWER_IDS)]
    plain = -sum(marked) / len(marked)
    if abs(ours - plain) > TOLERANCE:
        raise Wrong(
            f"the packed loss is {ours:.4f}, a plain pass gives {plain:.4f} nats",
            "use the versions of constraints.txt",
        )
    return f"{len(marked)} tokens scored, loss {ours:.3f} nats, a plain pass {plain:.3f}"


def exact_evaluation(bundled: BundledModel) -> str:
    from vestige.evaluate.exact import measure

    panel = measure(bundled.lm, family("animals"), [QUESTION])
    measured = {a: float(panel.logprobs[0, panel.candidates.index(a)]) for a in LOGPROBS}
    gaps = {a: abs(measured[a] - LOGPROBS[a]) for a in LOGPROBS}
    worst = max(gaps, key=lambda a: gaps[a])
    if gaps[worst] > TOLERANCE:
        raise Wrong(
            f"log P({worst}) is {measured[worst]:.4f}, stored {LOGPROBS[worst]:.4f} nats",
            f"vestige models pull {MODEL} --force, and the versions of constraints.txt",
        )
    return f"{len(gaps)} log-probabilities within {gaps[worst]:.4f} nats of the stored ones"
