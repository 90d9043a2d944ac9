"""From tasks and a model to samples and numbers, through a journal that survives any crash."""
