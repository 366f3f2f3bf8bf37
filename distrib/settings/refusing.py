"""How settings are refused."""

import difflib


class SettingsError(ValueError):
    """The user asked for something that cannot be. Ends the command with exit code 2 and this message alone."""


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def require(condition: object, message: str) -> None:
    """Raise ``SettingsError(message)`` unless ``condition`` is true."""
    if not condition:
        raise SettingsError(message)
