"""Week 22 · Latent variables and flows."""
