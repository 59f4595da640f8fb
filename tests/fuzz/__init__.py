"""Damaged files for every reader: see bench/docs/damage.md."""
