"""`flaxcnn doctor`."""

from __future__ import annotations

import dataclasses

import typer

from flaxcnn.cli.options import JSON
from flaxcnn.cli.output import command, emit_json, say


@command
def doctor(as_json: bool = JSON) -> None:
    """Check versions, devices, the sums of this jax, folders and data. Exit 1 if anything is bad.

    \b
    Example:
      flaxcnn doctor
    """
    from flaxcnn.doctor import checks

    found = checks()
    if as_json:
        emit_json({"checks": [dataclasses.asdict(check) for check in found],
                   "ok": all(check.verdict != "bad" for check in found)})  # fmt: skip
    else:
        for check in found:
            say(f"{check.verdict:8} {check.name:22} {check.detail}")
    if any(check.verdict == "bad" for check in found):
        raise typer.Exit(1)
