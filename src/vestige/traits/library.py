"""The trait library: what an audit looks for.

``library.toml`` names the bundled families and behaviours, and which traits are *held out*: those
choose no method, weight or threshold, so that a benchmark on them is one. A user's own file (a
family, one trait or behaviours, see ``docs/traits.md``) can take its place or be added to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vestige.core.types import ConfigError, Trait, unknown_name
from vestige.traits.behaviours import behaviours
from vestige.traits.files import bundled_file, library_index, parse_toml, read_toml
from vestige.traits.trait_lookup import family, names, trait

LIBRARY = "library"


@dataclass(frozen=True)
class Library:
    """Traits to look for, each known by ``trait_id``; ``held_out`` holds some of those ids."""

    traits: tuple[Trait, ...]
    held_out: frozenset[str] = frozenset()

    @property
    def ids(self) -> tuple[str, ...]:
        """The traits' ids, in order."""
        return tuple(map(trait_id, self.traits))

    @property
    def families(self) -> tuple[str, ...]:
        """The traits' families, each named once, in order."""
        return tuple(dict.fromkeys(t.family.name for t in self.traits))


def trait_id(of: Trait) -> str:
    """``family/name``."""
    return f"{of.family.name}/{of.name}"


def load_library(sources: Iterable[str] = (LIBRARY,)) -> Library:
    """Traits by source: ``library`` (all that is bundled), a bundled family's name, or a file.

    Raises:
        ConfigError: no such family, a file that is not valid, or a trait named twice.
    """
    index = library_index()
    traits: list[Trait] = []
    for source in sources:
        wanted = [*index["families"], *index["behaviours"]] if source == LIBRARY else [source]
        for name in wanted:
            traits += _traits(name, index)
    if not traits:
        raise ConfigError("there are no traits to look for; name library, a family or a file")
    twice = [name for name, n in Counter(map(trait_id, traits)).items() if n > 1]
    if twice:
        raise ConfigError(f"traits are named twice: {', '.join(twice)}")
    return Library(tuple(traits), frozenset(index["held_out"]) & set(map(trait_id, traits)))


def _traits(source: str, index: dict[str, list[str]]) -> tuple[Trait, ...]:
    if source in index["behaviours"]:
        path = bundled_file(f"behaviours/{source}.toml")
        return behaviours(parse_toml(path.read_text(encoding="utf-8"), source), source)
    if source.endswith(".toml"):
        record = read_toml(source)
        if isinstance(record.get("trait"), list):
            return behaviours(record, source)
        if "family" in record:
            return (trait(source),)
    elif source not in index["families"]:
        raise unknown_name(
            "trait family", source, (LIBRARY, *index["families"], *index["behaviours"])
        )
    panel = family(source)
    # A paired family's traits are ways to make a teacher; what it measures is one thing.
    chosen = names(panel)[:1] if panel.texts else names(panel)
    return tuple(trait(name, source) for name in chosen)
