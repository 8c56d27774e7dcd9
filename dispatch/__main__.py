"""`dispatch`, and `python -m dispatch`."""

import signal
import sys

# What is imported takes a while, in which a Ctrl-C is no error that has to be traced.
_IS_TRACED = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _IS_TRACED:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from dispatch import cli  # noqa: E402 - see above


def main() -> int:
    if _IS_TRACED:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
