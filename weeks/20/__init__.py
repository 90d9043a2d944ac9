"""Week 20 · Fine-tuning."""
