"""The one exception that is meant for the person who typed the command."""

from __future__ import annotations


class BadInput(ValueError):
    """Something the user gave is wrong, or the machine it runs on; one line: what is wrong and what to do.

    Jobs print the line and exit with status 2. Every other exception is a defect and keeps its traceback.
    """
