"""What a run leaves: numbers, samples, a page."""
