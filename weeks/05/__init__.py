"""Week 05 · Trees, margins, clusters."""
