"""Week 06 · Evaluation and tuning."""
