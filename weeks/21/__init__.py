"""Week 21 · Alignment."""
