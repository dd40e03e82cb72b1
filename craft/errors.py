"""The one exception that a user's mistake ends in."""


class InputError(ValueError):
    """A value from outside that cannot be used; its message is one line that names the value and
    what is allowed."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
