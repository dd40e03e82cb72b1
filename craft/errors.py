"""How a run ends that does not end by itself: by a user's mistake, or by a signal."""


class InputError(ValueError):
    """A value from outside that cannot be used; its message is one line that names the value and
    what is allowed."""


class Interrupted(BaseException):
    """A signal asked the run to stop; its checkpoint is written, the same command goes on from it.

    Like KeyboardInterrupt no Exception, so that it ends a sweep and not only one of its jobs."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
