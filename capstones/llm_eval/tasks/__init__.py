"""Tasks: files that say what is asked and how it is judged."""
