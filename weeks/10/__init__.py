"""Week 10 · Convolutional networks."""
