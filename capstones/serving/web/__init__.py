"""A page to chat with the model and to watch the server."""
