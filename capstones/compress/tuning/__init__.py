"""Which layers can bear fewer bits, and a choice of bits under a budget."""
