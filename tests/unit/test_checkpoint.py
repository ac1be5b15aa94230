"""A training that is stopped and goes on ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_train import ASKED, TEXTS, as_rows, examples

from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import ConfigError, Message, Row, StoreError
from vestige.experiment.row_log import append_rows, whole_rows
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student import checkpoint as module
from vestige.student.checkpoint import SECONDS, Checkpoint, seconds_apart
from vestige.student.loop import pack_order, train
from vestige.student.packs import make_packs
from vestige.student.trl import train_with_trl

WHAT = [Trainable(layers=(0, 2)), Trainable(layers=(1, 3), lora_rank=2)]
STEPS = 8


class Stop(Exception):
    pass


def how(what: Trainable) -> Optimisation:
    return Optimisation(steps=STEPS, batch=2, rate=3e-3, decay=True, trainable=what)


def trained(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in weights.changed().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("what", WHAT, ids=["layers", "lora"])
def test_the_packed_loop_goes_on(folders, tmp_path, what, precision):
    lm = LanguageModel.load(str(folders["llama"]), precision=precision)
    weights, packs = Weights(lm), make_packs(examples(lm, False), 2)
    seen: list[float] = []

    def run(stop: int | None, place: Path | None) -> None:
        def on_step(step: int, loss: float) -> None:
            seen.append(loss)
            if step == stop:
                raise Stop

        kept = Checkpoint(place, every=0) if place else None
        train(lm, weights, packs, how(what), seed=5, on_step=on_step, checkpoint=kept)

    run(None, None)
    whole, losses = trained(weights), list(seen)
    for stop in (1, 4, 6):
        seen.clear()
        with pytest.raises(Stop):
            run(stop, tmp_path / "c")
    assert len(Checkpoint(tmp_path / "c").losses()) == 5  # the step that was stopped is not in it
    before = Checkpoint(tmp_path / "c").losses()
    seen.clear()
    run(None, tmp_path / "c")
    assert before + seen == losses and len(seen) == 3
    assert same(trained(weights), whole)
    run(None, tmp_path / "c")  # nothing is left to do
    assert same(trained(weights), whole)


@pytest.mark.parametrize("what", WHAT, ids=["layers", "lora"])
def test_trl_goes_on_from_its_last_whole_checkpoint(llama, tmp_path, what):
    weights = Weights(llama)
    whole = train_with_trl(llama, weights, as_rows(), how(what), seed=5)
    want = trained(weights)

    def stop_at(step: int) -> None:
        if step == 6:
            raise Stop

    place = tmp_path / "c"
    with pytest.raises(Stop):
        train_with_trl(
            llama, weights, as_rows(), how(what), seed=5, on_step=stop_at,
            checkpoint=Checkpoint(place, every=0),
        )  # fmt: skip
    assert sorted(p.name for p in place.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    (place / "checkpoint-5/trainer_state.json").write_text('{"log_history": [')  # a kill in writing
    steps: list[int] = []
    losses = train_with_trl(
        llama, weights, as_rows(), how(what), seed=5, on_step=steps.append,
        checkpoint=Checkpoint(place, every=1e9),
    )  # fmt: skip
    assert steps == [5, 6, 7, 8]
    assert losses == whole and same(trained(weights), want)
    assert Checkpoint(place).latest() == str(place / "checkpoint-4")
    Checkpoint(place).remove()
    assert Checkpoint(place).latest() is None


def test_a_full_disk_leaves_the_checkpoint_before(llama, tmp_path, monkeypatch):
    weights, packs = Weights(llama), make_packs(examples(llama, False), 2)
    kept = Checkpoint(tmp_path / "c", every=0)
    short = how(WHAT[0]).model_copy(update={"steps": 2})
    train(llama, weights, packs, short, seed=5, checkpoint=kept)
    assert len(kept.losses()) == 2

    def full(tensors: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(StoreError, match="disk is full"):
        train(llama, weights, packs, how(WHAT[0]), seed=5, checkpoint=kept)
    assert len(kept.losses()) == 2
    assert [p.name for p in kept.folder.iterdir()] == ["state.safetensors"]


def test_seconds_between_checkpoints(monkeypatch):
    monkeypatch.delenv(SECONDS, raising=False)
    assert seconds_apart() == 60
    monkeypatch.setenv(SECONDS, "0.5")
    assert Checkpoint(Path("x")).every == 0.5 and not Checkpoint(Path("x")).due()
    monkeypatch.setenv(SECONDS, "often")
    with pytest.raises(ConfigError, match=r"VESTIGE_CHECKPOINT_SECONDS='often'"):
        seconds_apart()


def test_packs_come_in_epochs():
    order = pack_order(4, seed=3)
    first, second = [[next(order) for _ in range(4)] for _ in range(2)]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3] and first != second
    assert [i for i, _ in zip(pack_order(4, seed=3), range(8), strict=False)] == first + second


def drawn(n: int) -> list[Row]:
    return [Row(f"p-{i}", (Message("user", ASKED[0]),), TEXTS[0]) for i in range(n)]


@pytest.mark.parametrize(
    ("written", "torn", "left"),
    [(0, b"", 0), (8, b"", 8), (8, b'{"id": "p-8"', 8), (6, b'{"id"', 4), (10, b"", 10),
     (3, b"", 0)],
)  # fmt: skip
def test_rows_go_on_from_whole_batches(tmp_path, written, torn, left):
    path = tmp_path / "raw.jsonl"
    append_rows(path, drawn(written))
    with path.open("ab") as file:
        file.write(torn)
    assert whole_rows(path, 4, 10) == drawn(10)[:left]
    assert path.read_bytes().count(b"\n") == left and (not left or path.read_bytes()[-1:] == b"\n")
    append_rows(path, drawn(10)[left:])
    assert whole_rows(path, 4, 10) == drawn(10)
    assert whole_rows(tmp_path / "none", 4, 10) == []
