"""The five programs as one chain: commands that a user would type, and a page of what came out."""
