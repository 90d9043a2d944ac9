"""From a prompt to text: the cached decode step, sampling, streaming."""
