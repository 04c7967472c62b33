"""`python -m fmbseg` and the console script: the command line, or who has it ready."""

import os
import signal
import sys


def main() -> None:
    """Do the command of this process's arguments, here or in a fork of `pipeline/ready.py`."""
    if "FMBSEG_READY" in os.environ:
        from fmbseg.pipeline.ready import handed_over

        code = handed_over(sys.argv[1:])
        if code is not None and code < 0:
            if -code != signal.SIGKILL:
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        if code is not None:
            sys.exit(code)
    from fmbseg.cli import main as command

    command()


if __name__ == "__main__":
    main()
