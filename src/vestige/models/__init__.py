"""Models: where their weights come from, how a chat is rendered, how they are sampled and scored.

Importing this package loads nothing heavy; each backend imports its own libraries when it is used.
"""
