"""Measuring a trait in a model.

- ``exact``: the probability of every candidate answer, no sampling;
- ``answers``: what a drawn answer names, and shares of answers (no torch);
- ``sampled``: answers drawn at T=1 and matched by word, as in the paper;
- ``scores``: from log-probabilities to log-odds, shifts and ranks (numpy only).
"""
