"""Groups, fields and attributes of NeXus files, typed as all known readers want them."""

from __future__ import annotations

from typing import Any

import numpy as np


def group(parent: Any, name: str, nx_class: str) -> Any:
    """Return the group, made if need be, with its class."""
    node = parent.require_group(name)
    attribute(node, NX_class=nx_class)
    return node


def attribute(node: Any, **values: Any) -> None:
    """Set attributes; text as fixed-length ASCII.

    The Durin plugin cannot convert variable-length UTF-8.
    """
    for name, value in values.items():
        if isinstance(value, str):
            node.attrs[name] = _fixed(value)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], str):
            node.attrs[name] = np.array([_fixed(item) for item in value])
        else:
            node.attrs[name] = value


def field(parent: Any, name: str, value: Any, **attributes: Any) -> Any:
    """Write one dataset, nothing if ``value`` is None; text as variable-length UTF-8.

    nxtomo rejects fixed-length text in datasets.
    """
    if value is None:
        return None
    dataset = parent.create_dataset(name, data=value)
    attribute(dataset, **attributes)
    return dataset


def _fixed(text: str) -> np.bytes_:
    return np.bytes_(text.encode("ascii", "backslashreplace"))
