"""Checks against known answers: this installation, any model, every architecture.

- ``installation``: packages, statistics, filters, the bundled model;
- ``model``: one model, from its files to its training rows;
- ``architectures``: every causal language model class of the installed transformers, tiny.
"""
