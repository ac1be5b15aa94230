"""How well audits predict what students really took on."""

from vestige.bench.cases import METHODS, bench_audit

__all__ = ["METHODS", "bench_audit"]
