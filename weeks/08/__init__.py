"""Week 08 · A framework from scratch."""
