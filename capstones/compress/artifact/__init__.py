"""The folder a compressed model is kept in: packed bits, a manifest, and back."""
