"""An audit's verdict in SARIF 2.1.0, for tools that show findings next to the files they are in."""

from __future__ import annotations

from typing import Any

import vestige
from vestige.core.audit_results import AuditResults, AuditTrait
from vestige.rows.places import locate, shown


def as_sarif(results: AuditResults, data: str) -> dict[str, Any]:
    """The verdict on ``data`` as a SARIF log: a result for each flagged trait, or one in all."""
    findings = [
        {
            "ruleId": t.trait,
            "level": "error",
            "message": {"text": f"{t.trait} is flagged for {results.base}: {why_flagged(t)}"},
        }
        for t in results.traits
        if t.flagged
    ]
    other = {
        "ruleId": f"audit/{results.outcome}",
        "level": "warning" if results.outcome == "inconclusive" else "none",
        "message": {"text": results.verdict},
    }
    file = {"physicalLocation": {"artifactLocation": {"uri": shown(locate(data))}}}
    findings = [finding | {"locations": [file]} for finding in findings or [other]]
    driver = {
        "name": "vestige audit",
        "version": vestige.__version__,
        "rules": [{"id": rule} for rule in dict.fromkeys(f["ruleId"] for f in findings)],
    }
    properties = {
        "first_look": results.first_look_verdict,
        "p_base": results.p_base,
        "p_note": results.p_note,
        "measured_on": results.measured_on,
    }
    return {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{"tool": {"driver": driver}, "results": findings, "properties": properties}],
    }


def why_flagged(trait: AuditTrait) -> str:
    """What speaks for a flagged trait, in words."""
    if trait.canary is None:
        return "a copy trained on the rows took it on"
    return (
        f"a copy trained on the rows leans towards it by {trait.canary.shift:+.2f} nats more than "
        f"one on reference rows, {trait.canary.standardised:.1f} standard deviations of what "
        "harmless students differ by"
    )
