"""The error that a user may cause."""

__all__ = ["UserError"]


class UserError(Exception):
    """A mistake of the user's, told in one line, without a traceback.

    Attributes
    ----------
    status
        What a program that ends by it exits with.
    """

    status = 2
