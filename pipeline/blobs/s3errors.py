"""What the answers of an S3 server, or its silence, mean."""

from __future__ import annotations

import re

from pipeline.errors import (
    InvalidArgumentError,
    PipelineError,
    StoreDeniedError,
    StoreFullError,
    StoreUnavailableError,
)

#: Error codes for a disk or a quota that is full: MinIO's, versitygw's (a 403), Ceph's.
_FULL_CODES = frozenset({"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"})
#: versitygw v1.7.0 answers an unknown access key with a 404 and this code.
_DENIED_CODES = frozenset({"XAdminUserNotFound"})
_ABSENT_CODES = frozenset({"NoSuchBucket", "NoSuchKey", "InvalidRange"})
_KEY_CODES = frozenset({"KeyTooLongError", "InvalidBucketName"})
#: Timeout, too many requests: the client errors that may pass.
#: 409: versitygw while a folder above the key is being made or removed by another request.
_PASSING = frozenset({408, 409, 429})
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,200})</Message>")
#: The cause of a failed request, found only in obstore's debug text (0.12.1).
_CAUSE = re.compile(r'message: "([^"]{1,200})"|kind: (Timeout|Connect|Interrupted)\b')
_CAUSES = {
    "Timeout": "no answer in time",
    "Connect": "no connection",
    "Interrupted": "the connection was cut off",
}


class AbsentError(Exception):
    """There is no such bucket, key or range; the caller knows which of them it asked for."""


def from_obstore(error: Exception, *, store: str, endpoint: str) -> Exception:
    """Return what an exception of obstore means: an error of ours, or AbsentError."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is None:
        causes = [_CAUSES.get(kind, message) for message, kind in _CAUSE.findall(text)]
        problem = causes[-1] if causes else text.partition("\n")[0].partition(": ")[2][:200]
        return StoreUnavailableError(store, f"{endpoint}: {problem}")
    if status[1] == "404" and " HEAD " in text:
        return AbsentError("")  # its answer has no body, so no code
    message = _MESSAGE.search(text)
    return from_answer(
        int(status[1]),
        code[1] if code else "",
        message[1] if message else "",
        store=store,
        endpoint=endpoint,
    )


def from_answer(status: int, code: str, message: str, *, store: str, endpoint: str) -> Exception:
    """Return what an answer of the server means: an error of ours, or AbsentError."""
    details = ", ".join(part for part in (code, message) if part)
    problem = f"{endpoint} answered {status}" + (f" ({details})" if details else "")
    if code in _FULL_CODES or status == 507:
        return StoreFullError(store, problem)
    if code in _DENIED_CODES:
        return StoreDeniedError(store, problem)
    if code in _ABSENT_CODES or status == 416:
        return AbsentError(code)
    if code in _KEY_CODES:
        return InvalidArgumentError("key", problem)
    if status == 404:
        return StoreUnavailableError(store, f"{problem}, which is no S3 server's answer")
    if 400 <= status < 500 and status not in _PASSING:
        return StoreDeniedError(store, problem)
    return StoreUnavailableError(store, problem)


def passes(error: Exception) -> bool:
    """Tell whether another link or another try may help; no link helps a full disk."""
    return (
        isinstance(error, PipelineError)
        and error.retriable
        and not isinstance(error, StoreFullError)
    )
