"""The server under load, beside what a user would otherwise take."""
