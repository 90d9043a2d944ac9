"""How good are retrieval and answers? Rankings, answers, citations, abstention."""
