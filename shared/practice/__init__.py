"""Exercises made from the log itself: `study practice`."""
