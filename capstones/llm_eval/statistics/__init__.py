"""How sure a number is, whether two differ, and what else could explain it."""
