"""Training beyond the host's own trainer: hooks and trainers that work on both hosts."""
