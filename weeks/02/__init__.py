"""Week 02 · Calculus."""
