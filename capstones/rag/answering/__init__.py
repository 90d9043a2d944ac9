"""From chunks to an answer whose every sentence is checked against them."""
