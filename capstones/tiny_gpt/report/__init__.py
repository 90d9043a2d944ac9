"""What became of a run: its page, what a folder holds and whether it is intact, what was copied."""
