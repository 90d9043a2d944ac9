"""Models by name, and what the server asks of one."""
