"""Week 15 · Tokenisers and corpora."""
