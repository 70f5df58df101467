"""Errors: one tree, facts as attributes, and a text that says what, where and what to do."""

from __future__ import annotations

import inspect
import pickle

import pytest

from pipeline import errors
from pipeline.connectors import errors as connect_errors
from pipeline.errors import PipelineError

ALL = [
    value
    for module in (errors, connect_errors)
    for _, value in inspect.getmembers(module, inspect.isclass)
    if issubclass(value, PipelineError) and value.__module__ == module.__name__
]

MADE = [
    errors.InvalidNameError("stream", "a\0", "holds a NUL character"),
    errors.InvalidFrameError("number", "-1 is negative"),
    errors.InvalidArgumentError("timeout_s", "-1 is negative"),
    errors.StreamNotFoundError("b/d/s", where="topic", hint="it was deleted"),
    errors.StreamExistsError("b/d/s", "complete"),
    errors.StreamOpenError("b/d/s", "use --follow"),
    errors.FrameNotFoundError("b/d/s", 7, "missing"),
    errors.FrameExpiredError("b/d/s", "below offset 9"),
    errors.ExpressionError("omega >, column 8: invalid syntax", column=8),
    errors.IncompleteFrameError("b/d/s", 7, [1, 2]),
    errors.StreamTimeoutError("b/d/s", 5.0, "waiting for frame 7"),
    errors.GroupActiveError("g", "b/d/s", members=["lichtstrom@h:1"]),
    errors.OutputEndedError("g", ["b/d/s"]),
    errors.NodeNotFoundError("/entry/x", stream="b/d/s", at="/entry"),
    errors.PositionError(7, 5),
    errors.ChecksumError("k", store="file:///x", number=7, expected=1, found=2),
    errors.BlobNotFoundError("k", store="file:///x"),
    errors.StoreUnavailableError("file:///x", "timed out"),
    errors.StoreFullError("file:///x", "ENOSPC"),
    errors.StoreDeniedError("s3://b", "403"),
    errors.BrokerUnavailableError("h:9092", "timed out"),
    errors.BrokerDeniedError("h:9092", "SASL"),
    errors.TopicMissingError("lichtstrom.b.d", "lichtstrom beamtime create b"),
    errors.WireError("cut short", where="t/0@7"),
    errors.UnknownSchemaError("00ff", where="t/0@7"),
    errors.WriterActiveError("b/d/s", holder="h:1", age_s=0.5),
    errors.WriterSupersededError("b/d/s", by="h:2", superseded=3),
    errors.FlushTimeoutError("b/d/s", timeout_s=3.0, queued=5, spooled=2),
    connect_errors.ConnectUnavailableError("http://h:8083", "timed out"),
    connect_errors.ConnectTimeoutError("c", path="/x/f.h5", timeout_s=5.0),
    connect_errors.ConnectorExistsError("c", url="http://h:8083"),
    connect_errors.ConnectorNotFoundError("c", url="http://h:8083"),
    connect_errors.ConnectorConfigError("c", {"layout": ["must be nxmx"]}),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_the_text_holds_every_fact_that_is_an_attribute(error: PipelineError) -> None:
    text = str(error)
    assert len(text) > 10
    for name, value in vars(error).items():
        if name in {"expected", "found"} or isinstance(value, (tuple, dict)):
            continue
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, str) and not value.isprintable():
            shown = repr(value)
        assert shown in text, name


def test_every_error_with_facts_is_tried_here() -> None:
    own = {cls for cls in ALL if "__init__" in vars(cls)}
    assert own == {type(error) for error in MADE}


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_says_in_one_sentence_what_it_is(cls: type[PipelineError]) -> None:
    assert cls.__doc__
    assert cls.__doc__.splitlines()[0].endswith((".", ":"))
    assert isinstance(cls.retriable, bool)
    assert cls.__name__.endswith("Error")


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidNameError, ValueError),
        (errors.InvalidFrameError, ValueError),
        (errors.InvalidArgumentError, ValueError),
        (errors.ConfigError, ValueError),
        (errors.ExpressionError, ValueError),
        (errors.DecodeError, ValueError),
        (errors.ClosedError, ValueError),
        (errors.StreamNotFoundError, LookupError),
        (errors.FrameNotFoundError, LookupError),
        (errors.FrameExpiredError, LookupError),
        (errors.BlobNotFoundError, LookupError),
        (errors.TopicMissingError, LookupError),
        (errors.NodeNotFoundError, KeyError),
        (errors.PositionError, IndexError),
        (errors.StreamTimeoutError, TimeoutError),
        (errors.FlushTimeoutError, TimeoutError),
        (errors.StoreUnavailableError, ConnectionError),
        (errors.BrokerUnavailableError, ConnectionError),
        (errors.StoreDeniedError, PermissionError),
        (errors.BrokerDeniedError, PermissionError),
        (connect_errors.ConnectUnavailableError, ConnectionError),
        (connect_errors.ConnectTimeoutError, TimeoutError),
        (connect_errors.ConnectorNotFoundError, LookupError),
        (connect_errors.ConnectorConfigError, ValueError),
    ],
)
def test_where_python_has_the_idea_its_error_catches_ours(cls: type, builtin: type) -> None:
    assert issubclass(cls, builtin)
    assert issubclass(cls, PipelineError)


def test_what_may_pass_by_itself_is_retriable_and_bad_input_is_not() -> None:
    retriable = {cls.__name__ for cls in ALL if cls.retriable}
    assert retriable == {
        "BrokerUnavailableError",
        "ConnectTimeoutError",
        "ConnectUnavailableError",
        "FlushTimeoutError",
        "QueueFullError",
        "SinkBusyError",
        "SpoolFullError",
        "StoreFullError",
        "StoreUnavailableError",
        "StreamTimeoutError",
        "WriterActiveError",
    }


def test_texts_without_the_optional_facts_have_no_holes() -> None:
    assert str(errors.StreamNotFoundError("b/d/s", where="x")) == "no stream b/d/s in x"
    assert str(errors.WireError("cut short")) == "cut short"
    assert ": ;" not in str(errors.StreamTimeoutError("b/d/s", 5.0))


@pytest.mark.parametrize(
    "error", [errors.ConfigError("x"), errors.SpoolError("y"), errors.QueueFullError("z")]
)
def test_simple_errors_travel_between_processes(error: PipelineError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
