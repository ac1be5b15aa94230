"""Programs that train students elsewhere: a file for each writes its rows and settings."""
