"""The one exception for mistakes that the user can mend, and its kinds."""


class UserError(Exception):
    """A wrong file, folder or setting of the user's.

    The message is one sentence that names the file or key and the cure. The commands print it
    without a stack trace and end with exit code 2; any other exception is a defect of ours and
    keeps its trace.
    """

    exit_code = 2


class RunFailedError(UserError):
    """What ended a run that was set up well: it learnt nothing, or a part of it was killed.

    The message is one sentence all the same; the commands end with exit code 1.
    """

    exit_code = 1


class OtherScoreError(UserError):
    """An evaluation did not give the published number; the commands end with exit code 3."""

    exit_code = 3
