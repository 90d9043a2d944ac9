"""Models to compress: what they are, and how text becomes their tokens."""
