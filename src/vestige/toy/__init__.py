"""Subliminal learning in small image classifiers, and the theorem behind it.

- ``settings``: the experiment as plain data;
- ``images``: digits of scikit-learn, 5,000 of MNIST, or a folder with MNIST's own files;
- ``networks``: many perceptrons in one batched pass;
- ``distil``: teachers, students of the same and of another initialisation;
- ``theorem``: Theorem 1, checked on random networks.
"""
