"""Week 19 · Inference."""
