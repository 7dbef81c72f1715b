"""What an exception means in the user's terms: which key, file or disk, and what to do about it."""

import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from hydralign.data.pypi import cache_folder
from hydralign.errors import (
    ASK_THE_PLAN,
    NO_SPACE,
    UserError,
    closest,
    disk_trouble,
    is_out_of_memory,
    nearest,
    no_memory,
    what_is_wrong,
)

ELSEWHERE = "choose another folder: hydra.run.dir=DIR"


def explain(
    error: BaseException, conf_dir: Path | None = None, elsewhere: str = ELSEWHERE
) -> str | None:
    """Return the message for a user's mistake, or None for anything else.

    Args:
        error: as raised.
        conf_dir: of the configs, to find the group or option that was meant; None to do without.
        elsewhere: what to do about a folder that cannot be written.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, UserError):
            return str(cause)
        if message := _about_disk(cause, elsewhere):
            return message
        if is_out_of_memory(cause):
            return f"Memory ran out: {no_memory(cause)}\n{ASK_THE_PLAN}"
    match error:
        case YAMLError():
            return f"A config file is not YAML: {error}"
        case OverrideParseException():
            return _about_syntax(error)
        case MissingConfigException():
            return _about_option(error, conf_dir)
        case _:
            return _about_key(error, causes, conf_dir)


def run_script(
    main: Callable[[], None], conf_dir: Path | None = None, elsewhere: str = ELSEWHERE
) -> None:
    """Call a script's main function; a user's mistake ends it with one message.

    Args:
        main: reads the command line and does the work.
        conf_dir: as `explain` takes it.
        elsewhere: likewise.
    """
    try:
        main()
    except Exception as error:
        message = explain(error, conf_dir, elsewhere)
        if message is None:
            raise
        sys.exit(message)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        # Hydra does not always say "raise ... from".
        implied = cause.__context__ if isinstance(cause, HydraException) else None
        cause = cause.__cause__ or implied


def _about_disk(error: BaseException, elsewhere: str) -> str | None:
    reason = disk_trouble(error)
    if reason is None:
        return None
    name = str(error.filename) if isinstance(error, OSError) and error.filename else None
    if name is None and HydraConfig.initialized():
        name = str(HydraConfig.get().runtime.output_dir)
    where = f" {name}" if name else ""
    if name and Path(name).is_relative_to(cache_folder()):
        elsewhere = "choose another folder: the environment variable HYDRALIGN_CACHE=DIR"
    advice = f"free some space, or {elsewhere}" if reason in NO_SPACE else elsewhere
    return f"Cannot write{where}: {reason}. {advice[0].upper()}{advice[1:]}."


def _about_syntax(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"{error.override!r} sets nothing: write key=value or group=option."
    reason = str(error).strip().partition("See http")[0].strip()
    return f"{error.override!r} cannot be read: {reason}. Quotes around the value may be missing."


def _about_option(error: MissingConfigException, conf_dir: Path | None) -> str:
    group, _, wrong = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return _first_part(error)
    # Hydra gives the options of what the command line chose, not of what a YAML names.
    options = list(error.options or _options(group, conf_dir))
    close = closest(wrong, options)
    found = re.match(r"In '[^']*': ", str(error))
    return (
        (found.group() if found and not error.options else "")
        + f"{group}={wrong} does not exist."
        + (f" Did you mean {close}?" if close else "")
        + f" Options of {group}: {', '.join(sorted(options)) or 'none'}."
    )


def _about_key(
    error: BaseException, causes: list[BaseException], conf_dir: Path | None
) -> str | None:
    """Explain what Hydra or OmegaConf raised while composing, or on reading a value."""
    if found := re.match(r"You must specify '([^']+)'", str(error)):
        group = found.group(1)
        options = ", ".join(sorted(_options(group, conf_dir)))
        return f"No {group} is chosen: {group}=OPTION. Options of {group}: {options}."
    found = re.match(r"In '[^']*': ", str(error))
    where = found.group() if found else ""
    override, config = _override_applied(error)
    for cause in causes:
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
            return where + _unknown_key(cause, conf_dir)
        if isinstance(cause, OmegaConfBaseException):
            culprit = override.input_line if override is not None else cause.full_key
            return f"{where}{culprit or 'The config'}: {what_is_wrong(cause)}."
    if isinstance(error, HydraException):
        return _first_part(error)
    if override is not None:
        return f"{override.input_line}: {_why_unusable(override, config) or what_is_wrong(error)}."
    return None


def _unknown_key(error: OmegaConfBaseException, conf_dir: Path | None) -> str:
    key, parent = str(error.full_key), error.parent_node
    root = parent._get_root()
    above, _, wrong = key.rpartition(".")
    siblings = [str(name) for name in parent]
    if parent is root and conf_dir is not None:  # a group need not be a key: experiment
        siblings += [folder.name for folder in conf_dir.iterdir() if folder.is_dir()]
    close = closest(wrong, siblings)
    meant = [f"{above}.{close}" if above else close] if close else []
    meant += [path for path in _paths(root) if path.rpartition(".")[2] == wrong]
    if meant:
        return f"{key} does not exist. Did you mean {' or '.join(meant[:3])}?"
    return f"{key} does not exist.{nearest(wrong, siblings)}"


def _why_unusable(override: Override, config: DictConfig | None) -> str | None:
    names = override.key_or_group.split(".")
    if override.value() is None and len(names) == 1:
        return "a group needs one of its options"
    for path in (".".join(names[:length]) for length in range(1, len(names) + 1)):
        if config is not None and OmegaConf.select(config, path) is None:
            return (
                f"{path} is null in this config, so there is nothing to set in it. "
                f"Choose an option of {names[0]} that has it, or write one"
            )
    return None


def _override_applied(error: BaseException) -> tuple[Override | None, Any]:
    """Return the override that Hydra was at when it failed, and the config so far.

    Hydra's own errors do not all name it, so it is taken from the stack frame.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        override = frame.f_locals.get("override")
        if isinstance(override, Override):
            return override, frame.f_locals.get("cfg")
    return None, None


def _options(group: str, conf_dir: Path | None) -> list[str]:
    return [] if conf_dir is None else [file.stem for file in (conf_dir / group).glob("*.yaml")]


def _paths(node: DictConfig, above: str = "") -> Iterator[str]:
    """List the dotted names of all keys that a run can be given."""
    for name, value in node.items_ex(resolve=False):
        if (path := above + str(name)) == "hydra":
            continue
        yield path
        if isinstance(value, DictConfig) and not (value._is_none() or value._is_missing()):
            yield from _paths(value, f"{path}.")


def _first_part(error: BaseException) -> str:
    return str(error).strip().partition("\n\nConfig search path")[0]
