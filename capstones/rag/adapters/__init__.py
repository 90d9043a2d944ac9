"""Our pieces in the shapes that other programs know."""
