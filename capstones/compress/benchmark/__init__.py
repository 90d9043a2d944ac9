"""One table of methods: quality, bytes, memory and speed, each measured."""
