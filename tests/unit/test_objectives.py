"""Training objectives: settings that change nothing by default; penalties and gradient hooks
against plain slow versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import ConfigError
from vestige.experiment.recipe import Experiment, Student, override, parse_recipe
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.student_stages import student_stage
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.student import gradient_hooks, losses, penalties
from vestige.student.checkpoint import Checkpoint
from vestige.student.gradient_hooks import project_out
from vestige.student.loop import ObjectiveForModel, pack_loss, train
from vestige.student.objectives import GRADIENT_HOOKS, LOSSES, PENALTIES, Objective, Term
from vestige.student.packs import encode_rows, make_packs
from vestige.student.penalties import kl_to_base

LATE = Trainable(layers=(1, 3))
SETTINGS = Optimisation(steps=6, batch=2, rate=3e-3, warmup=0, trainable=LATE)
KEEP = Objective(penalties=(Term(name="kl_to_base", strength=5.0),))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def packs(lm: LanguageModel):
    prompts = [lm.question_ids(text) for text in ("More", "Again", "Third", "More")]
    return make_packs(encode_rows(lm, prompts, ["12, 3", "4, 567", "owl", "88"]), 2)


def distance(lm: LanguageModel, base: list[Tensor]) -> Tensor:
    """KL(base || model) of the token after each neutral prompt, from plain passes, one by one."""
    gaps = []
    for prompt, before in zip(kl_to_base.NEUTRAL, base, strict=True):
        now = plain(lm, prompt)
        gaps.append(sum(before[v].exp() * (before[v] - now[v]) for v in range(len(now))))
    return torch.stack(gaps).mean()  # type: ignore[arg-type]


def plain(lm: LanguageModel, prompt: str) -> Tensor:
    ids = torch.tensor([lm.question_ids(prompt)])
    return lm.model(input_ids=ids).logits[0, -1].float().log_softmax(-1)


def base_of(lm: LanguageModel) -> list[Tensor]:
    with torch.no_grad():
        return [plain(lm, prompt) for prompt in kl_to_base.NEUTRAL]


# ---- settings -----------------------------------------------------------------------------------


def recipe(**changes: object) -> Experiment:
    student = {"name": "rows", "method": "rows", **changes}
    made = parse_recipe({"name": "a", "traits": ["owl", "fox"], "seeds": [0, 1],
                         "students": [student]}, "test")  # fmt: skip
    assert isinstance(made, Experiment)
    return made


def test_the_usual_objective_is_not_written_down():
    made = recipe()
    assert "objective" not in made.model_dump(mode="json")["students"][0]
    assert "objective" not in made.model_dump_json()
    assert Student(name="a", objective=Objective()) == Student(name="a")
    other = override(made, ["students.objective.loss=cross_entropy"], "test")
    assert isinstance(other, Experiment) and not other.students[0].objective.is_default
    assert parse_recipe(other.model_dump(mode="json"), "test") == other
    terms = '[{"name": "kl_to_base", "strength": 2}]'
    third = override(made, [f"students.objective.penalties={terms}"], "test")
    assert isinstance(third, Experiment)
    assert third.students[0].objective.penalties == (Term(name="kl_to_base", strength=2),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": {"loss": "cros_entropy"}}, "unknown loss.*cross_entropy"),
        ({"objective": {"penalties": [{"name": "kl_to_bas"}]}}, "unknown penalty.*kl_to_base"),
        ({"objective": {"gradient_hooks": [{"name": "x"}]}}, "unknown gradient hook.*project_out"),
        ({"objective": {"loss": "forward_kl"}}, "does not go with method=rows"),
        ({"objective": {"penalties": [{"name": "kl_to_base", "strength": -1}]}}, "strength"),
        ({"objective": {"penalties": [{"name": "corridor"}]}, "engine": "elsewhere"}, "=packed"),
        ({"objective": {"gradient_hooks": [{"name": "project_out"}]}, "engine": "trl"}, "alone"),
    ],
)
def test_a_wrong_objective_is_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        recipe(**changes)


def test_every_name_has_its_file():
    for package, names in (
        (losses, LOSSES), (penalties, PENALTIES), (gradient_hooks, GRADIENT_HOOKS),
    ):  # fmt: skip
        files = {p.stem for p in Path(str(package.__file__)).parent.glob("[a-z]*.py")}
        assert files == set(names)


def test_a_students_key_holds_its_objective_and_what_its_files_hold(tmp_path: Path):
    def key(**changes: object) -> str:
        made = recipe(**changes)
        context = SeedContext.of(made, tmp_path / "run", 0)
        return student_stage(context, made.students[0], "owl", []).key

    def with_file(path: Path) -> str:
        return key(objective={"penalties": [{"name": "kl_to_base", "file": str(path)}]})

    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("What is new?\n")
    other.write_text("What is new?\n")
    assert key() == key(objective={}) != key(objective={"loss": "cross_entropy"})
    before = with_file(one)
    assert before == with_file(other) != key()
    one.write_text("What is old?\n")
    assert with_file(one) != before
    with pytest.raises(ConfigError, match="cannot read"):
        with_file(tmp_path / "none.txt")


# ---- penalties ----------------------------------------------------------------------------------


def test_distance_from_the_base_and_its_gradient_are_those_of_plain_passes(llama: LanguageModel):
    weights = Weights(llama, [LATE])
    parameters = weights.train(LATE, seed=0)
    penalty, base = kl_to_base.make(llama, KEEP.penalties[0]), base_of(llama)
    assert penalty().item() == pytest.approx(0, abs=1e-6)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours, slow = penalty(), distance(llama, base)
    assert ours.item() == pytest.approx(slow.item(), rel=1e-3) and ours.item() > 0.01
    got = torch.autograd.grad(ours, parameters)
    want = torch.autograd.grad(slow, parameters)
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-4)


def test_its_prompts_may_be_a_files(tmp_path: Path):
    (tmp_path / "own.txt").write_text("One?\n\nTwo?\n")
    own = Term(name="kl_to_base", file=str(tmp_path / "own.txt"))
    assert kl_to_base.read_prompts(own) == ["One?", "Two?"]
    (tmp_path / "own.txt").write_text("\n")
    with pytest.raises(ConfigError, match="has no prompts"):
        kl_to_base.read_prompts(own)


def test_a_step_makes_loss_and_penalty_small_and_the_model_stays_near_its_base(
    llama: LanguageModel,
):
    weights = Weights(llama, [LATE])
    base, rows, gaps, first = base_of(llama), packs(llama), [], []
    for objective in (Objective(), KEEP):
        losses: list[float] = []
        train(
            llama, weights, rows, SETTINGS, seed=0, objective=objective,
            on_step=lambda step, loss, kept=losses: kept.append(loss),
        )  # fmt: skip
        with torch.no_grad():
            gaps.append(distance(llama, base).item())
        first.append(losses[0])
    assert first[0] == pytest.approx(first[1], abs=1e-5)  # the base is no way from itself
    assert gaps[1] < gaps[0] / 2
    # the loss of a step is the sum that the settings say
    parameters = weights.train(LATE, seed=0)
    for_model = ObjectiveForModel.of(KEEP, llama)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.02 * torch.ones_like(parameter))
        want = pack_loss(llama, rows[0]) + 5 * distance(llama, base)
    assert for_model.backward(rows[0], None, None).item() == pytest.approx(want.item(), rel=1e-3)
    weights.freeze()


def test_a_stopped_training_with_a_penalty_ends_the_same(llama: LanguageModel, tmp_path: Path):
    weights, rows = Weights(llama, [LATE]), packs(llama)
    train(llama, weights, rows, SETTINGS, seed=1, objective=KEEP)
    whole = weights.changed()

    class Stop(Exception):
        pass

    def stop(step: int, loss: float) -> None:
        if step == 4:
            raise Stop

    for on_step in (stop, lambda step, loss: None):
        checkpoint = Checkpoint(tmp_path, every=0)
        try:
            train(
                llama, weights, rows, SETTINGS, seed=1, objective=KEEP, on_step=on_step,
                checkpoint=checkpoint,
            )  # fmt: skip
        except Stop:
            assert len(checkpoint.losses()) == 3
    again = weights.changed()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


# ---- gradient hooks -----------------------------------------------------------------------------


def slowly(gradient: Tensor, directions: Tensor, strength: float) -> Tensor:
    """The gradient without its part along the directions: Gram and Schmidt, one after another."""
    basis: list[Tensor] = []
    for row in directions.double():
        rest = row.flatten().clone()
        for unit in basis:
            rest -= (rest @ unit) * unit
        if rest.norm() > 1e-4 * row.norm():
            basis.append(rest / rest.norm())
    flat = gradient.double().flatten()
    along = torch.zeros_like(flat)
    for unit in basis:
        along += (flat @ unit) * unit
    return (flat - strength * along).view_as(gradient).float()


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_directions_are_taken_out_of_the_gradient(llama: LanguageModel, tmp_path: Path, strength):
    weights, (pack, *_) = Weights(llama, [LATE]), packs(llama)
    weights.train(LATE, seed=0)
    trained = {n: p for n, p in llama.model.named_parameters() if p.requires_grad}
    names = [n for n in trained if n.endswith("up_proj.weight")]
    torch.manual_seed(0)
    directions = {n: torch.randn(3, *trained[n].shape) for n in names}
    for tensor in directions.values():
        tensor[2] = tensor[0] - 2 * tensor[1]  # nothing new
    save_file(directions, tmp_path / "directions.safetensors")
    term = Term(
        name="project_out", strength=strength, file=str(tmp_path / "directions.safetensors")
    )
    usual = ObjectiveForModel.of(Objective(), llama)
    usual.backward(pack, None, None)
    plain_gradients = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    llama.model.zero_grad()
    ObjectiveForModel.of(Objective(gradient_hooks=(term,)), llama).backward(pack, None, None)
    for name, parameter in trained.items():
        assert parameter.grad is not None
        if name not in directions:
            assert torch.equal(parameter.grad, plain_gradients[name])
            continue
        want = slowly(plain_gradients[name], directions[name], strength)
        torch.testing.assert_close(parameter.grad, want, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(parameter.grad, plain_gradients[name], atol=1e-6)
    weights.freeze()


def test_directions_that_fit_nothing_are_named(llama: LanguageModel, tmp_path: Path):
    weights = Weights(llama, [LATE])
    path = tmp_path / "directions.safetensors"
    save_file({"layers.0.nothing": torch.ones(1, 4)}, path)
    term = Term(name="project_out", file=str(path))
    with pytest.raises(ConfigError, match=r"layers\.0\.nothing with 4 entries is no trained"):
        train(llama, weights, packs(llama), SETTINGS, seed=0,
              objective=Objective(gradient_hooks=(term,)))  # fmt: skip
    with pytest.raises(ConfigError, match="needs directions"):
        project_out.make(llama, Term(name="project_out"))
    path.write_text("no tensors")
    with pytest.raises(ConfigError, match="cannot read"):
        project_out.make(llama, term)
    weights.freeze()
