"""From a recipe and flags to settings, and back.

A recipe is a flat YAML file whose keys are the flags' names. It becomes flags itself, so one parser checks both and the
command line wins. Everything here is done before torch is imported: a typo is answered in a fraction of a second.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro
import yaml

from distrib.settings import Settings, SettingsError, nearest
from distrib.zoo import names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Train an image classifier; flags win over the recipe, the recipe over the defaults."""

    config: Path | None = None
    """Recipe: a flat YAML file whose keys are the flags below."""
    print_settings: bool = False
    """Print the resolved recipe, which can be fed back in with --config, and leave."""
    settings: Settings = dataclasses.field(default_factory=Settings)


class _Recipe(yaml.BaseLoader):
    """Every scalar stays text: ``off`` or ``1e-4`` mean what the flag of that name would take them for."""


def _mapping(loader: _Recipe, node: yaml.MappingNode) -> dict[str, Any]:
    pairs = [(loader.construct_object(k), loader.construct_object(v, deep=True)) for k, v in node.value]
    keys = [key for key, _ in pairs]
    if not all(isinstance(key, str) for key in keys):
        raise SettingsError("every key is the name of a setting")
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise SettingsError(f"these keys stand there more than once: {', '.join(twice)}")
    return dict(pairs)


def _scalar(_: _Recipe, node: yaml.ScalarNode) -> str | None:
    nothing = node.style is None and node.value in ("", "null", "~")  # in quotes they are text
    return None if nothing else str(node.value)


_Recipe.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG, _scalar)
_Recipe.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(arguments: list[str], prog: str = "train.py") -> Settings:
    """Return the settings that ``arguments`` (without the program's name) ask for.

    Ends the process with code 2 and one message if they are impossible, from the first rank alone; with code 0 after
    ``--help`` or ``--print-settings``.
    """
    try:
        recipe = _recipe_of(arguments)
        request = _parse_flags(arguments, prog, recipe)
        names.check(request.settings.model.model)
    except SettingsError as error:
        refuse(str(error))
    if request.print_settings:
        if first_rank():
            print(dump(request.settings), end="")
        raise SystemExit(0)
    return request.settings


def refuse(message: str) -> None:
    """End with exit code 2 and ``message`` on standard error, printed by the first rank alone."""
    if first_rank():
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def dump(settings: Settings) -> str:
    """The settings as a recipe that :func:`parse` takes back."""
    return yaml.safe_dump(settings.flat(), sort_keys=False, default_flow_style=None, width=1000)


def load(path: Path) -> Settings:
    """The settings that the recipe at ``path`` describes.

    Raises:
        SettingsError: the file cannot be read, or says what cannot be.
    """
    captured = StringIO()
    flags = _flags(path)
    try:
        with redirect_stderr(captured), redirect_stdout(captured), _without_typeguard():
            request = tyro.cli(Request, args=flags, config=(tyro.conf.OmitArgPrefixes,), prog=str(path))
    except SystemExit:
        raise SettingsError(f"in {path}:\n{captured.getvalue().rstrip()}") from None
    return request.settings


@contextmanager
def _without_typeguard() -> Iterator[None]:
    """Keep tyro from importing typeguard, which would be a third of the time that ``--help`` takes.

    tyro asks it whether the default of a setting such as ``int | None`` is of that type. Ours are: mypy saw them, or
    the parser itself made them.
    """
    name = "typeguard"
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    vars(stand_in).update(check_type=lambda value, _: value, TypeCheckError=TypeError)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


def _recipe_of(arguments: list[str]) -> Settings:
    """The settings of the last ``--config`` among the arguments, or the defaults."""
    path = None
    for position, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag == "--config":
            path = value or (arguments[position + 1] if position + 1 < len(arguments) else None)
    return load(Path(path)) if path and path != "None" else Settings()


def _parse_flags(arguments: list[str], prog: str, recipe: Settings) -> Request:
    out, err = (sys.stdout, sys.stderr) if first_rank() else (StringIO(), StringIO())
    with redirect_stdout(out), redirect_stderr(err), _without_typeguard():
        return tyro.cli(
            Request,
            args=arguments,
            default=Request(settings=recipe),
            config=(tyro.conf.OmitArgPrefixes,),
            prog=prog,
        )


def _flags(path: Path) -> list[str]:
    """The recipe at ``path`` as command-line flags."""
    return flags_of(path, read_yaml(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file of ``key: value`` lines says; every scalar is text, or None for nothing.

    Raises:
        SettingsError: it cannot be read, or is something else.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Recipe)  # noqa: S506 - a BaseLoader makes text only
    except OSError as error:
        raise SettingsError(f"cannot read the recipe {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the recipe {path} is not UTF-8 text") from None
    except SettingsError as error:
        raise SettingsError(f"in the recipe {path}: {error}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise SettingsError(f"the recipe {path} is not YAML: {error}") from None
    if content in (None, ""):
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"the recipe {path} is not a list of `key: value` lines")
    return content


def flags_of(path: Path, settings: dict[str, Any]) -> list[str]:
    """Settings as command-line flags; ``path`` is where they stand.

    Raises:
        SettingsError: there is no such setting, or it does not take such a value.
    """
    return [flag for key, value in settings.items() for flag in _flag(path, str(key), value)]


def _flag(path: Path, key: str, value: Any) -> list[str]:
    name = key.replace("-", "_")
    known = Settings().flat()
    if name not in known:
        raise SettingsError(f"in the recipe {path}: unknown key '{key}'{nearest(name, list(known))}")
    if isinstance(value, dict):
        raise SettingsError(f"in the recipe {path}: '{key}' holds keys of its own, but a recipe is flat")
    flag = f"--{name.replace('_', '-')}"
    items = value if isinstance(value, list) else [value]
    if not all(item is None or _can_be_typed(item) for item in items):
        raise SettingsError(f"in the recipe {path}: '{key}' holds what no command line takes, such as a list in a list")
    several = isinstance(value, list) and isinstance(known[name], list)
    if isinstance(value, list) and not (several and not any(str(item).startswith("-") for item in items)):
        raise SettingsError(f"in the recipe {path}: '{key}' does not take {', '.join(map(str, value))}")
    if isinstance(value, list):
        return [flag, *map(str, value)]
    if isinstance(known[name], bool) and str(value).lower() in ("true", "false"):
        return [flag if str(value).lower() == "true" else f"--no-{flag[2:]}"]
    if isinstance(known[name], bool):
        raise SettingsError(f"in the recipe {path}: '{key}' is true or false, not '{value}'")
    return [f"{flag}={value}"]


def _can_be_typed(value: Any) -> bool:
    """Whether a value of a recipe is text that could be an argument of a command: without NUL or half characters."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def first_rank() -> bool:
    """Whether this process may speak: rank 0, or the only one. A launcher's own rank goes before Slurm's."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
