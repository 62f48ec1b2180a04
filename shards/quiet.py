"""Keeps what transformers shows on the terminal, progress bars and warnings to its users, out of ours."""

from __future__ import annotations


def hush_transformers() -> None:
    """For the whole process; imports transformers, which takes seconds."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
