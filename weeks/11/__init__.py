"""Week 11 · Recurrent networks."""
