"""The ``vestige`` command: a file for each group of commands, thin and free of torch."""
