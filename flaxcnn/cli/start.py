"""Where the `flaxcnn` command begins: signals are heard before anything large is imported."""

from __future__ import annotations

import signal

from flaxcnn.signals import Handlers, leave


def main() -> None:
    """Entry point of the console script.

    Until training begins and after it has ended, a signal ends the process at once, with its exit
    code; but Ctrl-C, once commands are there, lets them tidy up.
    """
    usual = signal.getsignal(signal.SIGINT)
    Handlers(leave).install()
    from flaxcnn.cli.main import main as command

    signal.signal(signal.SIGINT, usual)
    command()
