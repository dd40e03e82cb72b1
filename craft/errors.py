"""The one exception that a user's mistake ends in."""


class InputError(ValueError):
    """A value from outside that cannot be used; its message is one line that names the value and what is allowed."""
