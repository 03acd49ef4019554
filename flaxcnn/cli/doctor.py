"""`flaxcnn doctor`."""

from __future__ import annotations

import dataclasses

import typer

from flaxcnn.cli.options import JSON
from flaxcnn.cli.output import command, emit_json, say


@command
def doctor(
    numerics: bool = typer.Option(
        False, "--numerics", help="Also check what this back end computes, against float64."
    ),
    as_json: bool = JSON,
) -> None:
    """Check versions, devices, the sums of this jax, folders and data. Exit 1 if anything is bad.

    --numerics compares products, convolutions, statistics, orders and exchanges between devices on
    whatever jax computes on with the right answers, in seconds. Every run records the verdict.

    \b
    Examples:
      flaxcnn doctor
      flaxcnn doctor --numerics
    """
    from flaxcnn.doctor import checks, suite

    findings = suite() if numerics else []  # before the checks, which tell the verdict
    found = checks()
    ok = all(check.verdict != "bad" for check in found)
    ok = ok and all(one.verdict != "failed" for one in findings)
    if as_json:
        document = {"checks": [dataclasses.asdict(check) for check in found], "ok": ok}
        if numerics:
            document["numerics"] = [dataclasses.asdict(one) for one in findings]
        emit_json(document)
    else:
        for check in found:
            say(f"{check.verdict:8} {check.name:22} {check.detail}")
        for one in findings:
            say(f"{one.verdict:8} {one.name:30} {one.line()}")
    if not ok:
        raise typer.Exit(1)
