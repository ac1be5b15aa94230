"""Teachers: giving a model a trait, and what it writes said again in other words."""
