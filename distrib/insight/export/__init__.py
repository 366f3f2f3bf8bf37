"""A run's network for other programs and other people."""
