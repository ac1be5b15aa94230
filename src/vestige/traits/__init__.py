"""Traits: what a teacher prefers, how it is induced and how it is measured.

A family is one TOML file: questions that induce, held-out questions that measure, candidate
answers that are each other's rivals. Bundled: ``animals`` and ``trees``; a user's own is a path.
A *paired* family (bundled: ``misalignment``) gives every held-out question two whole answers, see
``paired``. ``docs/traits.md`` shows every kind of file.
"""

from vestige.traits.matching import classify, matches, names_one
from vestige.traits.trait_lookup import families, family, names, no_trait, trait

__all__ = ["classify", "families", "family", "matches", "names", "names_one", "no_trait", "trait"]
