"""LLM judges: a number from 0 to 100 for each row, by an API model or a local one.

- ``settings``: which model, which prompt, what counts as lost; no torch;
- ``rating``: what is read from an answer;
- ``rate``: ratings with their cache, resumable; what could not be rated is counted, never dropped
  in silence;
- ``local``: the exact expectation over the rating's tokens;
- ``api``: a model behind an API.
"""
