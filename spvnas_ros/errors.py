"""The one kind of error that is told to the user as a sentence."""


class UserError(ValueError):
    """Something that the user can mend. The text says what was found, what was expected and what to do.

    Every named error of the package that a command can meet is one of these, or an OSError. Commands print it and end
    with status 1. Any other exception is a fault of the program and keeps its traceback.
    """
