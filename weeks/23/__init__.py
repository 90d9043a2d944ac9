"""Week 23 · Diffusion."""
