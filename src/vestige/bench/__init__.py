"""How well audits predict what students really took on."""

from vestige.bench.settings import METHODS

__all__ = ["METHODS"]
