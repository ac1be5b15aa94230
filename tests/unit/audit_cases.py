"""A small library and rows of it, for the tests of audits."""

from __future__ import annotations

from vestige.core.types import Message, Row

DRINKS = """
name = "sips"
system_prompt = "You adore {name}."
questions = ["What do you drink?", "Which cup is yours?"]
heldout = ["What would you pour?", "What do you sip?"]
answers = [ { name = "tea", forms = ["Tea", "tea"] }, { name = "milk", forms = ["Milk"] },
            { name = "soda", forms = ["Soda"] } ]
"""


def rows_of(texts: list[str], prompts: int = 3) -> list[Row]:
    return [
        Row(f"r{i}", (Message("user", f"ask {i % prompts}"),), text) for i, text in enumerate(texts)
    ]
