"""What a client is told when something is wrong, in OpenAI's shape.

>>> refused("temperature must be at most 2", param="temperature").body()["error"]["type"]
'invalid_request_error'
"""

from typing import Any

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is an error.

    Parameters
    ----------
    status
        HTTP's.
    code, param
        What it is for a program, and which argument it is about.
    wait
        Seconds after which it is worth to come again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        wait: int | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.param, self.wait = status, code, param, wait

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it."""
        return {} if self.wait is None else {"Retry-After": str(self.wait)}

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = KINDS.get(self.status) or (
            "invalid_request_error" if self.status < 500 else "server_error"
        )
        message = " ".join(str(self).split())
        error = {"message": message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def refused(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """The client's mistake."""
    return ApiError(400, message, param=param, code=code)
