"""Penalties that are added to a loss: a file for each, named in ``objectives.PENALTIES``."""
