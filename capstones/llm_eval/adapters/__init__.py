"""The metrics as modules of `evaluate`."""
