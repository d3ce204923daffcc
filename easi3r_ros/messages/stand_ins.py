"""Stand-ins for ROS's message classes, which rosbags can write, and CDR of messages of either kind. Needs rosbags."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from easi3r_ros.libraries import needed

with needed("rosbags"):
    from rosbags.interfaces import Nodetype
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    from rosbags.typesys.store import Typestore

PACKAGE = "easi3r_ros"
_ZEROS = {"string": "", "bool": False, "float32": 0.0, "float64": 0.0}


@cache
def typestore() -> Typestore:
    """The standard messages of ROS 2 Jazzy and this package's own. Raises FileNotFoundError if those are missing."""
    store = get_typestore(Stores.ROS2_JAZZY)
    own = {}
    for path in sorted(message_folder().glob("*.msg")):
        own.update(get_types_from_msg(path.read_text(), f"{PACKAGE}/msg/{path.stem}"))
    store.register(own)
    return store


def message_folder() -> Path:
    """The folder of this package's .msg files: in a checkout, or where colcon or pip installed them."""
    here = Path(__file__).resolve()
    installed = [parent / "share" / PACKAGE / "msg" for parent in (*here.parents, Path(sys.prefix))]
    for folder in (here.parents[2] / "msg", *installed):
        if (folder / "WindowStatus.msg").is_file():
            return folder
    raise FileNotFoundError(f"the .msg files of {PACKAGE} are not installed: reinstall it, or work in a checkout")


@cache
def message_class(name: str) -> type:
    """The class of a message type such as sensor_msgs/msg/Image.

    As with ROS's classes, fields are keywords and start as zero, and any sequence or buffer will do for an array of
    numbers. Instances can be written by rosbags. Raises KeyError for an unknown type.
    """
    base = typestore().types[name]
    fields = dict(typestore().fielddefs[name][1])
    dtypes = {field: _array_dtype(kind) for field, kind in fields.items()}

    class StandIn(base):
        def __init__(self, **values: Any):
            super().__init__(**{field: _zero(kind) for field, kind in fields.items() if field not in values}, **values)

        def __setattr__(self, field: str, value: Any) -> None:
            dtype = dtypes.get(field)
            super().__setattr__(field, value if dtype is None else _array(value, dtype))

    StandIn.__name__ = StandIn.__qualname__ = name.rpartition("/")[2]
    return StandIn


def type_name(message_class: type) -> str:
    """The type, such as sensor_msgs/msg/Image, of one of ROS's own classes or of a stand-in."""
    return (
        getattr(message_class, "__msgtype__", "")
        or f"{message_class.__module__.split('.')[0]}/msg/{message_class.__name__}"
    )


def serialize(message: Any) -> memoryview:
    """CDR of a message of ROS's own class or of a stand-in."""
    name = type_name(type(message))
    return typestore().serialize_cdr(_as_stand_in(message, name), name)


def _as_stand_in(message: Any, name: str) -> Any:
    if hasattr(message, "__msgtype__"):
        return message
    values = {}
    for field, (node, detail) in typestore().fielddefs[name][1]:
        value = getattr(message, field)
        if node == Nodetype.NAME:
            value = _as_stand_in(value, detail)
        elif node != Nodetype.BASE and detail[0][0] == Nodetype.NAME:
            value = [_as_stand_in(item, detail[0][1]) for item in value]
        values[field] = value
    return message_class(name)(**values)


def _zero(kind: Any) -> Any:
    """What ROS puts into a field that nobody sets; kind: rosbags' description of the field."""
    node, detail = kind
    if node == Nodetype.NAME:
        return _default(detail)
    if node == Nodetype.BASE:
        return _ZEROS.get(detail[0], 0)
    (item_node, item_detail), size = detail
    if item_node == Nodetype.BASE:
        return [_ZEROS.get(item_detail[0], 0)] * size
    return [_default(item_detail) for _ in range(size)]


def _default(name: str) -> Any:
    message = message_class(name)()
    if name == "geometry_msgs/msg/Quaternion":
        message.w = 1.0  # the one default value in the standard messages used here; rosbags does not keep it
    return message


def _array_dtype(kind: Any) -> np.dtype | None:
    """Type of the elements of an array of numbers; None for everything else."""
    node, detail = kind
    if node not in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return None
    (item_node, item_detail), _ = detail
    if item_node != Nodetype.BASE or item_detail[0] == "string":
        return None
    return np.dtype({"byte": "uint8", "char": "uint8", "octet": "uint8"}.get(item_detail[0], item_detail[0]))


def _array(value: Any, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(value, dtype) if isinstance(value, (bytes, bytearray)) else np.asarray(value, dtype)
