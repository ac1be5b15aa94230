"""Changes of a gradient before its norm is clipped: a file for each, named in
``objectives.GRADIENT_HOOKS``."""
