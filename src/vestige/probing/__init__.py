"""A base model and what the trait library does to it: the panel of all traits, probes, directions.

Shared by what is asked before training (``audit``) and after it."""
