"""Week 13 · Attention."""
