"""Week 17 · Parallelism."""
