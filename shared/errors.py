"""The error that a user may cause."""

__all__ = ["UserError"]


class UserError(Exception):
    """A mistake of the user's, told in one line, without a traceback."""
