"""A whole model, layer by layer: recipes, the journal of what is done, the run."""
