"""What a person sees: console, tracking, evaluation and prediction."""
