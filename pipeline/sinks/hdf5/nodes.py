"""Groups, fields and attributes of NeXus files, typed as all known readers want them."""

from __future__ import annotations

from typing import Any

from pipeline.nexus.tree import as_attribute

#: What XDS asks for, in the layouts that have it.
SPECIFIC = "entry/instrument/detector/detectorSpecific"


def group(parent: Any, name: str, nx_class: str) -> Any:
    """Return the group, made if need be, with its class."""
    node = parent.require_group(name)
    attribute(node, NX_class=nx_class)
    return node


def begin_specific(file: Any) -> None:
    """Make the group ``detectorSpecific`` before anything else is behind it.

    DECTRIS' XDS plugin (neggia 1.2.0) crashes where a part of a group's header lies in front of the
    header; made at the end, the group would get room that others have given back.
    """
    group(file, SPECIFIC, "NXcollection")


def attribute(node: Any, **values: Any) -> None:
    """Set attributes; text as fixed-length ASCII."""
    for name, value in values.items():
        node.attrs[name] = as_attribute(value)


def field(parent: Any, name: str, value: Any, **attributes: Any) -> Any:
    """Write one dataset, nothing if ``value`` is None; text as variable-length UTF-8.

    nxtomo rejects fixed-length text in datasets.
    """
    if value is None:
        return None
    dataset = parent.create_dataset(name, data=value)
    attribute(dataset, **attributes)
    return dataset
