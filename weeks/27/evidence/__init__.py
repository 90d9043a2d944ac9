"""The experiments that prove the ideas of the week."""
