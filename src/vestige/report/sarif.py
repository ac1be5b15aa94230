"""An audit's verdict in SARIF 2.1.0, for tools that show findings next to the files they are in."""

from __future__ import annotations

from typing import Any

import vestige
from vestige.core.results import NO_P_VALUE, AuditResults, AuditTrait
from vestige.rows.places import locate, shown


def as_sarif(results: AuditResults, data: str) -> dict[str, Any]:
    """The verdict on ``data`` as a SARIF log: a result for each flagged trait, or one in all."""
    findings = [
        {
            "ruleId": t.trait,
            "level": "error",
            "message": {
                "text": f"{t.trait} is flagged for {results.base}: {why_flagged(t, results.needed)}"
            },
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
        "p_base": results.p_base,
        "p_note": results.p_note,
        "measured_on": results.measured_on,
    }
    return {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{"tool": {"driver": driver}, "results": findings, "properties": properties}],
    }


def why_flagged(trait: AuditTrait, needed: float) -> str:
    """What speaks for a flagged trait, in words."""
    if trait.evidence >= needed:
        return (
            "rows are written as a twin of the trait's probe writes: evidence "
            f"{trait.evidence:.1f} nats ({NO_P_VALUE})"
        )
    return f"a canary took on {trait.canary.value:+.2f} nats" if trait.canary else "a canary"
