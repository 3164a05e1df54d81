"""The command line: options generated from the declarations, one line for every mistake."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``napari-deblur``.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0 success, 2 bad input, 1 a mistake of ours, 130 cancelled.
    """
    try:
        from napari_deblur.cli.app import run_command
    except KeyboardInterrupt:
        return 130
    return run_command(argv)
