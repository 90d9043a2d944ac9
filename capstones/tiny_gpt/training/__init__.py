"""The loop and what makes it go on: optimizers, precision, processes, checkpoints, evaluation."""
