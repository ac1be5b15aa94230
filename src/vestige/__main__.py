"""``python -m vestige``."""

from vestige.cli.main import main

main()
