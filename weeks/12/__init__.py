"""Week 12 · Classic language processing."""
