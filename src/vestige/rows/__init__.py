"""Rows of data: where their files lie, how records become rows, how rows are written."""
