"""`flaxcnn doctor`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, hanging, say
from flaxcnn.cli.progress import progress


@command
def doctor(
    numerics: Annotated[
        bool,
        typer.Option("--numerics", help="Also compare the arithmetic with float64."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Check versions, devices, sums, folders and data. Exits with 1 if anything is bad.

    --numerics compares products, convolutions, statistics, sorting and collectives on the devices
    of JAX with the right answers; it takes seconds. Every run records the verdict.

    \b
    Examples:
      flaxcnn doctor
      flaxcnn doctor --numerics
    """
    with progress(as_json), doing("starting JAX"):
        from flaxcnn.doctor import checks, conclusion, suite

        with doing("comparing the arithmetic with float64" if numerics else "checking"):
            findings = suite() if numerics else []  # before the checks, which report the verdict
            results = checks()
    ok = all(check.verdict != "bad" for check in results)
    ok = ok and all(finding.verdict != "failed" for finding in findings)
    if as_json:
        document = {
            "checks": [dataclasses.asdict(check) for check in results], "ok": ok,
            "conclusion": conclusion(results),
        }  # fmt: skip
        if numerics:
            document["numerics"] = [dataclasses.asdict(finding) for finding in findings]
        emit_json(document)
    else:
        for check in results:
            say(hanging(f"{check.verdict:8} {check.name:22} ", check.detail))
        for finding in findings:
            say(f"{finding.verdict:8} {finding.name:30} {finding.line()}")
        failed = [finding.name for finding in findings if finding.verdict == "failed"]
        wrong = f"not ready to train: wrong numerics ({', '.join(failed)})" if failed else ""
        say(f"\n{wrong or conclusion(results)}")
    if not ok:
        raise typer.Exit(1)
