"""Students trained by other programs: rows and settings out, adapters and models in."""
