"""Users of an S3 server: made and removed through its own admin interface.

S3 itself has none.  :class:`UserAdmin` is all that the rest of lichtstrom knows of it; another
server than versitygw needs another class with these methods.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Protocol
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import urllib3
from minio import time as minio_time
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3

from pipeline.blobs.admin import make_pool
from pipeline.blobs.links import Link, Links
from pipeline.blobs.s3errors import AbsentError, from_answer
from pipeline.credentials import Secret
from pipeline.errors import PipelineError, StoreDeniedError, StoreUnavailableError


class UserAdmin(Protocol):
    """Users with keys, who may nothing but what the policies of buckets say."""

    def put(self, access_key: str, secret_key: Secret) -> None:
        """Make a user, or give one another secret."""

    def remove(self, access_key: str) -> None:
        """Remove a user, at once for every request; one that does not exist is no error."""

    def names(self) -> list[str]:
        """Return the access keys of all users."""

    def keeps_to_buckets(self, bucket: str) -> bool:
        """Whether who may write to this bucket cannot get out of it."""


class VersityUsers:
    """The users of versitygw with an IAM of its own (``--iam-dir`` and others).

    Raises StoreDeniedError where these credentials are not the administrator's, or the server has
    one account only.
    """

    def __init__(self, links: Links, *, store: str) -> None:
        self._links = links
        self._store = store

    def put(self, access_key: str, secret_key: Secret) -> None:
        """Make a user, or give one another secret."""
        if access_key in self.names():
            body = _xml("MutableProps", Secret=secret_key)
            self._call(f"/update-user?access={quote(access_key, safe='')}", body)
        else:
            # "user": neither makes buckets nor sees those of others.
            self._call(
                "/create-user", _xml("Account", Access=access_key, Secret=secret_key, Role="user")
            )

    def remove(self, access_key: str) -> None:
        """Remove a user, at once for every request; one that does not exist is no error."""
        self._call(f"/delete-user?access={quote(access_key, safe='')}", b"")

    def names(self) -> list[str]:
        """Return the access keys of all users."""
        answer = self._call("/list-users", b"")
        try:
            # The answer holds every secret: nothing of it is kept, or told in an error.
            found = ElementTree.fromstring(answer)  # noqa: S314 -- from our server, by TLS
        except ElementTree.ParseError:
            raise StoreUnavailableError(self._store, "its list of users is no XML") from None
        return sorted(a.findtext("Access") or "" for a in found.iter("Accounts"))

    def keeps_to_buckets(self, bucket: str) -> bool:
        """Whether upload ids and keys cannot lead out of a bucket.

        versitygw 1.7.0 as it comes fails. What is asked for does not exist, so nothing is harmed.
        """
        batch = b"<Delete><Object><Key>../.lichtstrom-probe</Key></Object></Delete>"
        if b"<Deleted>" in self._call(f"/{bucket}?delete=", batch, "POST"):
            return False
        opened = self._call(f"/{bucket}/.upload-id-probe?uploads=", b"", "POST")
        upload = ElementTree.fromstring(opened).findtext("{*}UploadId") or ""  # noqa: S314 -- ours
        try:
            self._call(f"/{bucket}/.upload-id-probe?uploadId=..", b"", "GET")
        except (AbsentError, PipelineError):
            return True
        finally:
            self._call(f"/{bucket}/.upload-id-probe?uploadId={upload}", b"", "DELETE")
        return False

    def _call(self, path: str, body: bytes, method: str = "PATCH") -> bytes:
        def action(link: Link, budget_s: float) -> bytes:
            return self._send(link, method, path, body, budget_s)

        return self._links.attempt(action, self._translate)

    def _send(self, link: Link, method: str, path: str, body: bytes, budget_s: float) -> bytes:
        settings = link.settings
        url = urlsplit(link.endpoint + path)
        now = minio_time.utcnow()
        digest = hashlib.sha256(body).hexdigest()
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        headers: dict[str, str | list[str] | tuple[str]] = {
            "Host": url.netloc,
            "Content-MD5": base64.b64encode(md5).decode(),
            "X-Amz-Content-Sha256": digest,
            "X-Amz-Date": minio_time.to_amz_date(now),
        }
        signed = sign_v4_s3(
            method=method,
            url=url,
            region=settings.region,
            headers=headers,
            credentials=Credentials(settings.access_key, str(settings.secret_key)),
            content_sha256=digest,
            date=now,
        )
        pool = make_pool(url.scheme, url.netloc, budget_s, ca=settings.ca)
        try:
            answer = pool.request(method, url.geturl(), body=body, headers=signed)  # type: ignore[arg-type] # one value each
        finally:
            pool.clear()
        if answer.status >= 300:
            raise self._refused(answer, link)
        return bytes(answer.data)

    def _refused(self, answer: urllib3.BaseHTTPResponse, link: Link) -> Exception:
        code, message = "", ""
        try:
            found = ElementTree.fromstring(answer.data)  # noqa: S314 -- as above
            code, message = found.findtext("Code") or "", found.findtext("Message") or ""
        except ElementTree.ParseError:
            pass
        error = from_answer(answer.status, code, message, store=self._store, endpoint=link.name)
        if isinstance(error, AbsentError) or "NotSupported" in code or answer.status in (404, 405):
            return StoreDeniedError(
                self._store,
                f"{link.name} keeps no users ({answer.status} {code}): versitygw needs --iam-dir",
            )
        return error

    def _translate(self, error: Exception, link: Link) -> Exception:
        if isinstance(error, urllib3.exceptions.HTTPError):
            reason = str(getattr(error, "reason", None) or error).rpartition(": ")[2][:200]
            return StoreUnavailableError(self._store, f"{link.name}: {reason}")
        return error


def _xml(kind: str, **values: str) -> bytes:
    root = ElementTree.Element(kind)
    for name, text in values.items():
        ElementTree.SubElement(root, name).text = str(text)
    return ElementTree.tostring(root)
