"""How a run lives: its processes, folder, journal and checkpoints."""
