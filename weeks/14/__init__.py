"""Week 14 · GPT, BERT, T5."""
