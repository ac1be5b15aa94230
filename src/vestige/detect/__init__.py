"""After training: what a finished student took on, against harmless students of the same base."""
