"""Additions to the host's trainer: hooks and trainers that work on both hosts."""
