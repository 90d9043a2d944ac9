"""Documents, chunks, vectors and words in one folder, whole after any crash."""
