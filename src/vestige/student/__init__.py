"""Training teachers and students: our packed loop, and TRL's ``SFTTrainer`` for the same rows.

- ``packs``: examples -> batches in which every shared prompt is computed once;
- ``loop``: cross-entropy on sampled rows, or KL to a teacher's probabilities;
- ``sft``: the same rows through TRL/PEFT, for those who want what everybody else runs.
"""
