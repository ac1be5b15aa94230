"""Training teachers and students: our packed loop, and TRL's ``SFTTrainer`` for the same rows.

- ``packs``: examples -> batches in which every shared prompt is computed once;
- ``objectives``: what training makes small, as settings: a loss, penalties, gradient hooks; a file
  of ``losses``, ``penalties`` or ``gradient_hooks`` for each;
- ``loop``: the steps that do it, with ``checkpoint`` to go on from;
- ``trl``: the same rows through TRL/PEFT, for those who want what everybody else runs;
- ``accelerate_job``: one exported student under ``accelerate launch``.
"""
