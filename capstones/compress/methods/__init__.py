"""What is done to one matrix of weights: rounded, pruned, or both."""
