"""The one exception that reaches a user as a single line."""


class UserError(Exception):
    """Something the user can mend: the message names the file or key, and the fix.

    `train.py` and `dof` print it as one line and exit with code 2; every other exception is a defect of ours and
    keeps its traceback.
    """
