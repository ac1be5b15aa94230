"""What every part shares: records, errors, settings, lines of JSON, statistics. Free of torch."""
