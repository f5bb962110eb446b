"""The program: `runner`, and `python -m runner`."""

import gc
import sys

from runner.cli import main


def program() -> int:
    """Run the command line; answers the exit code."""
    # Imports make objects that live to the end: looking for garbage among them costs 10 ms at start and 35 ms at exit.
    gc.set_threshold(50_000)
    code = main()
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(program())
