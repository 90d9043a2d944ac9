"""The harness beside those that a user would otherwise take."""
