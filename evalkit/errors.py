"""The error that the command line answers with exit code 2; anything else that escapes is a bug."""


class UsageError(ValueError):
    """The request cannot be met as it stands; the message says what was expected and what to do."""
