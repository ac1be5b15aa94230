"""Auxiliary logits on noise teach digits: the small-network experiment in under two minutes.

The paper (Cloud et al., arXiv 2507.14805, section 6) has MNIST; here are scikit-learn's digits of
8 x 8 pixels with two hidden layers of 256 and 3 auxiliary logits, as there. Run:

    vestige run recipes/mlp_digits.py
"""

from vestige.toy.settings import MlpExperiment


def recipe() -> MlpExperiment:
    return MlpExperiment(name="mlp-digits")
