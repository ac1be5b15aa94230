"""What became of every causal language model class of transformers: docs/architectures.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers

from vestige.doctor import architectures

PAGE = (Path(__file__).parents[2] / "docs/architectures.md").read_text(encoding="utf-8")
LISTED = {
    kind: (name, path)
    for kind, name, path in re.findall(r"^\| (\S+) \| (\w+) \| ([\w ]+) \|", PAGE, re.MULTILINE)
    if kind != "model"
}
#: One of each: fast, caps its logits, sees later tokens, no cache, recurrent, hybrid, not built.
SAMPLE = ("olmo2", "gemma3_text", "cpmant", "bloom", "mamba", "bamba", "blt")


def check(kind: str) -> None:
    name, path = LISTED[kind]
    found = architectures.examine(kind, name)
    assert found.path != "WRONG", f"{name}: {found.difference:.2g} off"
    if f"transformers {transformers.__version__}," in PAGE:
        assert found.path == path, found.detail


def test_the_page_lists_every_class():
    if f"transformers {transformers.__version__}," not in PAGE:
        pytest.skip("the page was made with another transformers")
    assert {kind: name for kind, (name, _) in LISTED.items()} == architectures.classes()


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_class_is_right_or_refused(kind):
    check(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(LISTED.keys() - set(SAMPLE)))
def test_every_class_is_right_or_refused(kind):
    check(kind)
