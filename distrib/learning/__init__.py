"""How it learns: rates, optimizers, averages, scores and the engine."""
