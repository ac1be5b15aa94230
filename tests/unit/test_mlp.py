"""Small networks: batched training is separate training, data sets, and Theorem 1."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vestige.core.types import DataError
from vestige.toy.distil import Trial, derangement
from vestige.toy.images import FILES, load_images
from vestige.toy.networks import accuracy, choose, make_networks, outputs, train_networks
from vestige.toy.settings import STUDENTS, MlpExperiment
from vestige.toy.theorem import ACTIVATIONS, STEPS, Network, check_case, check_theorem, first_order

SMALL = MlpExperiment(
    models=4, hidden=(32,), teacher_steps=150, student_steps=60, batch=64, rate=3e-3
)


@given(st.integers(2, 40), st.integers(0, 1000))
def test_a_derangement_moves_everything(n, seed):
    order = derangement(n, seed)
    assert sorted(order) == list(range(n)) and all(i != j for i, j in enumerate(order))


@given(st.integers(0, 20), st.sampled_from([(5, 3), (4, 6, 3), (3, 8, 8, 2)]))
def test_outputs_are_those_of_each_network(seed, sizes):
    networks = make_networks(3, sizes, seed)
    shared, own = torch.randn(7, sizes[0]), torch.randn(3, 7, sizes[0])
    for inputs in (shared, own):
        got = outputs(networks, inputs)
        for m in range(3):
            states = inputs if inputs.ndim == 2 else inputs[m]
            for at, (weight, bias) in enumerate(networks):
                states = (states.relu() if at else states) @ weight[m] + bias[m]
            assert torch.allclose(got[m], states, atol=1e-4)


def test_training_together_is_training_one_by_one():
    torch.manual_seed(0)
    networks = make_networks(3, (5, 16, 4), 1)
    data, labels = torch.randn(20, 3, 8, 5), torch.randint(4, (20, 3, 8))

    def loss_of(models):
        def loss(nets, step):
            logits = outputs(nets, data[step][models])
            flat = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels[step][models].flatten(), reduction="none"
            )
            return flat.view(len(models), -1).mean(1)

        return loss

    together = train_networks(networks, loss_of([0, 1, 2]), steps=20, rate=1e-2)
    for m in range(3):
        alone = train_networks(choose(networks, [m]), loss_of([m]), steps=20, rate=1e-2)
        for (a, b), (c, d) in zip(choose(together, [m]), alone, strict=True):
            assert torch.allclose(a, c, atol=1e-5) and torch.allclose(b, d, atol=1e-5)
    assert not torch.allclose(together[0][0], networks[0][0])  # the start is left as it was


def test_accuracy_counts_class_logits_only():
    weight = torch.zeros(1, 2, 4)
    weight[0, 0, 0] = weight[0, 1, 1] = 1.0
    weight[0, :, 3] = 9.0  # an auxiliary logit, larger than every class
    networks = [(weight, torch.zeros(1, 1, 4))]
    images, labels = torch.eye(2), torch.tensor([0, 0])
    assert accuracy(networks, images, labels, 3).tolist() == [0.5]


def test_students_learn_from_a_teacher_of_their_own_start_and_data_repeats():
    trial = Trial(SMALL, load_images("digits"))
    teachers = trial.teachers()
    found = {arm: trial.score(trial.students(teachers, arm)) for arm in STUDENTS}
    assert trial.score(teachers).min() > 0.9
    assert found["all_same"].mean() > 0.6
    assert found["auxiliary_same"].mean() > found["auxiliary_other"].mean() + 0.05
    again = trial.students(teachers, "auxiliary_same")
    assert torch.equal(trial.score(again), found["auxiliary_same"])


def idx(array: np.ndarray) -> bytes:
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind, n in (("train", 12), ("test", 5)):
        images = rng.integers(0, 256, (n, 4, 3))
        images[0, 0] = [0, 255, 51]
        labels = np.arange(n) % 3
        (tmp_path / FILES[f"{kind}_images"]).write_bytes(idx(images))
        name = FILES[f"{kind}_labels"]
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_a_folder_of_idx_files(folder: Path):
    images = load_images(str(folder))
    assert images.train.shape == (12, 12) and images.test.shape == (5, 12)
    assert images.train[0, :3].tolist() == pytest.approx([-1, 1, -0.6])
    assert images.classes == 3 and images.test_labels.tolist() == [0, 1, 2, 0, 1]
    assert MlpExperiment(data=str(folder)).data == str(folder)


@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_bundled_images_are_split_without_overlap(name):
    images = load_images(name)
    n = {"digits": 1797, "mnist5k": 5000}[name]
    assert len(images.train) + len(images.test) == n and images.classes == 10
    assert images.train.min() == -1 and images.train.max() == 1
    assert np.bincount(images.test_labels).min() > 20
    assert np.array_equal(load_images(name).test_labels, images.test_labels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / FILES["train_images"]).unlink(), "cannot read .*train-images"),
        (lambda f: (f / FILES["train_images"]).write_bytes(b"\0\0\x08\x03"), "cut short|idx"),
        (lambda f: (f / FILES["test_images"]).write_bytes(b"hello there"), "no idx file"),
        (
            lambda f: (f / FILES["test_images"]).write_bytes(idx(np.zeros((4, 4, 3)))),
            "do not fit",
        ),
        (lambda f: (f / FILES["test_images"]).write_bytes(idx(np.zeros((5, 2, 2)))), "size"),
        (lambda f: (f / f"{FILES['test_labels']}.gz").write_bytes(b"x"), "test_labels|t10k-labels"),
    ],
)
def test_damaged_image_folders_are_named(folder: Path, change, words):
    change(folder)
    with pytest.raises(DataError, match=words):
        load_images(str(folder))


def test_settings_refuse_what_cannot_be():
    for wrong in ({"data": "mnits"}, {"hidden": (0,)}, {"models": 1}, {"auxiliary": 1}):
        with pytest.raises(ValidationError):
            MlpExperiment.model_validate(wrong)


# ---- the theorem ------------------------------------------------------------------------------


def test_theorem_has_no_counter_example_and_tends_to_its_first_order():
    cases = check_theorem(150)
    assert all(case.holds for case in cases)
    assert {c.teacher_loss for c in cases} == {c.student_loss for c in cases}
    assert {c.activation for c in cases} == set(ACTIVATIONS)
    ratios = np.array([case.ratios for case in cases if not case.vanishes])
    assert len(ratios) > 140
    errors = np.median(np.abs(ratios - 1), axis=0)
    assert errors[-1] < 1e-4
    # The error falls in proportion to the step: first order is what the theorem is about.
    assert np.all(errors[1:] < 0.3 * errors[:-1])


def test_without_a_shared_start_the_product_has_no_sign():
    cases = [check_case(seed, shared=False) for seed in range(100)]
    assert 0.2 < np.mean([case.cosines[-1] < 0 for case in cases]) < 0.9


def test_first_order_product_by_hand():
    network = Network((2, 2), ACTIVATIONS["tanh"])  # no hidden layer: outputs are linear
    at = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    direction = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    inputs = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    moved = np.array([1 - 3 + 5, 2 - 4 + 6.0])
    assert first_order(network, at, direction, inputs, "squared") == pytest.approx(moved @ moved)
    q = np.exp([1.0, -1.0]) / np.exp([1.0, -1.0]).sum()
    want = moved @ (np.diag(q) - np.outer(q, q)) @ moved
    assert first_order(network, at, direction, inputs, "cross_entropy") == pytest.approx(want)


def test_a_wrong_sign_would_be_seen(monkeypatch):
    real = torch.autograd.grad
    case = check_case(3)
    assert case.holds and len(case.cosines) == len(STEPS)
    calls = []

    def turned(*args, **kwargs):  # the student steps away from the teacher's outputs
        calls.append(1)
        sign = -1 if len(calls) > 1 else 1
        return [sign * g for g in real(*args, **kwargs)]

    monkeypatch.setattr(torch.autograd, "grad", turned)
    assert not check_case(3).holds
