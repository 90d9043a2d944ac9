"""From a request to its answer: choosing tokens, text as it comes, numbers about it."""
