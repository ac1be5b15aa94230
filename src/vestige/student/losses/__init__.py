"""Losses of a pack's scored positions: a file for each, named in ``objectives.LOSSES``."""
