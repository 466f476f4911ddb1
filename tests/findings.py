"""One finding of the doctor, by the name of its check."""

from __future__ import annotations

from ops.checks.findings import Finding, Level
from ops.doctor import examine
from shared.settings import Settings


async def finding(settings: Settings, check: str) -> Finding:
    """What the doctor finds under the name *check*; whatever is no ok has a reason and a remedy."""
    report = await examine(settings)
    for each in report.findings:
        assert (each.level is Level.OK) == (not each.why) == (not each.remedy)
    [found] = [each for each in report.findings if each.check == check]
    return found
