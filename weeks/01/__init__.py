"""Week 01 · Linear algebra."""
