"""What Kafka Connect may answer, besides the errors of :mod:`pipeline.errors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import PipelineError


class ConnectError(PipelineError):
    """A Kafka Connect worker refused a request, or one of its connectors failed."""


class ConnectUnavailableError(ConnectError, ConnectionError):
    """No Kafka Connect worker answers, or its group did not settle in time."""

    retriable = True

    def __init__(self, url: str, problem: str) -> None:
        self.url = url
        super().__init__(
            f"Kafka Connect at {url} does not answer: {problem}; is it running"
            " (`lichtstrom status`, `lichtstrom up --connect`) and is the address right?"
        )


class ConnectorExistsError(ConnectError):
    """There is a connector of this name already."""

    def __init__(self, connector: str, *, url: str) -> None:
        self.connector = connector
        self.url = url
        super().__init__(
            f"connector {connector} exists at {url}: give another --name, or remove it first"
            f" (`lichtstrom connect remove {connector}`)"
        )


class ConnectorNotFoundError(ConnectError, LookupError):
    """There is no connector of this name."""

    def __init__(self, connector: str, *, url: str) -> None:
        self.connector = connector
        self.url = url
        super().__init__(
            f"no connector {connector} at {url}: `lichtstrom connect list` tells the names"
        )


class ConnectorConfigError(ConnectError, ValueError):
    """A connector's settings are refused; ``fields`` has the worker's words for each."""

    def __init__(self, connector: str, fields: Mapping[str, Sequence[str]]) -> None:
        self.connector = connector
        self.fields = {name: tuple(words) for name, words in fields.items()}
        said = "; ".join(f"{name}: {' '.join(words)}" for name, words in self.fields.items())
        super().__init__(f"the settings of connector {connector} are refused: {said}")


class ConnectTimeoutError(ConnectError, TimeoutError):
    """A connector's file did not come in time; the connector goes on."""

    retriable = True

    def __init__(self, connector: str, *, path: object, timeout_s: float) -> None:
        self.connector = connector
        self.path = str(path)
        super().__init__(
            f"no {path} after {timeout_s:g} s; connector {connector} goes on: has the stream"
            " ended, do its workers write to this very file system, and what do their logs say?"
        )
