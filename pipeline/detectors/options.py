"""How an adapter or a simulator describes its settings to a command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: What turns the text of a setting into its value.
OptionType = type[str] | type[int] | type[float] | type[bool] | Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One keyword argument of an adapter's constructor, as an option of its command.

    Parameters
    ----------
    name:
        The keyword, for example ``poll_s``.
    default:
        Its default; ``required`` options have none.
    help:
        One sentence for ``--help``, without unit and default, which are added.
    unit:
        Shown as the placeholder of the value, for example ``SECONDS``; empty for the type's name.
    choices:
        The values that are possible; empty for any.
    """

    name: str
    type: OptionType = str
    default: Any = None
    help: str
    unit: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The option as written on the command line: ``--poll`` for ``poll_s``."""
        return "--" + self.name.removesuffix("_s").replace("_", "-")
