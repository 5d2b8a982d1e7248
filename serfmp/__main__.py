"""The program: `python -m serfmp`, and what an installation calls `serfmp`.

Rules: Python's collector of cycles rests until all is loaded (`serfmp.cli.main` wakes it): nothing of that is ever
garbage. A command that is done ends the process at once, for what the interpreter would tidy up goes with it.
"""

import gc

gc.disable()

import os  # noqa: E402  what is imported from here on is meant above
import sys  # noqa: E402

from serfmp.cli.main import main  # noqa: E402


def program() -> int:
    """Run the command line of this process; returns to the interpreter only where that is to find an error."""
    code = main()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        return code
    os._exit(code)


if __name__ == "__main__":
    sys.exit(program())
