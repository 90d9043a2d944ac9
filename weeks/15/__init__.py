"""Week 15 · Tokenizers and corpora."""
