"""Buckets: made, named and opened to others with the ``minio`` client, never on the data path."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from pipeline.blobs.links import AWS, Link, Links, is_loopback
from pipeline.blobs.s3errors import from_answer
from pipeline.credentials import certificates
from pipeline.errors import InvalidArgumentError, PipelineError, StoreUnavailableError

#: Somebody, perhaps ourselves a moment ago, has made it.
_EXISTS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


class BucketAdmin:
    """The buckets behind some links; ``store`` is its address for messages."""

    def __init__(self, links: Links, *, store: str) -> None:
        self._links = links
        self._store = store

    def create(self, bucket: str) -> None:
        """Make a bucket; one that exists is no error."""

        def action(link: Link, budget_s: float) -> None:
            with _client(link, budget_s) as client:
                if client.bucket_exists(bucket):
                    return
                try:
                    client.make_bucket(bucket, location=link.settings.region)
                except S3Error as error:
                    if error.code not in _EXISTS:
                        raise

        self._links.attempt(action, self._translate)

    def names(self) -> list[str]:
        """Return the buckets that these credentials can see."""

        def action(link: Link, budget_s: float) -> list[str]:
            with _client(link, budget_s) as client:
                return sorted(bucket.name for bucket in client.list_buckets())

        return self._links.attempt(action, self._translate)

    def set_policy(self, bucket: str, policy: str) -> None:
        """Set a bucket's policy, for example one of :func:`bucket_policy`."""

        def action(link: Link, budget_s: float) -> None:
            with _client(link, budget_s) as client:
                client.set_bucket_policy(bucket, policy)

        self._links.attempt(action, self._translate)

    def policy(self, bucket: str) -> str:
        """Return a bucket's policy, empty where there is none."""

        def action(link: Link, budget_s: float) -> str:
            with _client(link, budget_s) as client:
                try:
                    return str(client.get_bucket_policy(bucket))
                except S3Error as error:
                    if error.code != "NoSuchBucketPolicy":
                        raise
                    return ""

        return self._links.attempt(action, self._translate)

    def delete_policy(self, bucket: str) -> None:
        """Remove a bucket's policy: its owner alone has access."""

        def action(link: Link, budget_s: float) -> None:
            with _client(link, budget_s) as client:
                client.delete_bucket_policy(bucket)

        self._links.attempt(action, self._translate)

    def _translate(self, error: Exception, link: Link) -> Exception:
        if isinstance(error, (S3Error, ServerError)):
            found = self._answered(error, link)
            if isinstance(found, PipelineError):
                return found
            return StoreUnavailableError(self._store, f"{link.name}: {error}")
        if isinstance(error, (InvalidResponseError, urllib3.exceptions.HTTPError)):
            return StoreUnavailableError(self._store, f"{link.name}: {_reason(error)}")
        if isinstance(error, ValueError) and not isinstance(error, PipelineError):
            return InvalidArgumentError("bucket", str(error))  # minio checks the name
        return error

    def _answered(self, error: S3Error | ServerError, link: Link) -> Exception:
        if isinstance(error, ServerError):
            return from_answer(error.status_code, "", "", store=self._store, endpoint=link.name)
        return from_answer(
            error.response.status,
            error.code or "",
            error.message or "",
            store=self._store,
            endpoint=link.name,
        )


def bucket_policy(bucket: str, *, readers: Sequence[str], writers: Sequence[str] = ()) -> str:
    """Return a policy by which ``readers`` may read and ``writers`` do everything in a bucket.

    Whole buckets only: not every server keeps to conditions on a prefix.
    """
    objects, itself = f"arn:aws:s3:::{bucket}/*", f"arn:aws:s3:::{bucket}"
    statements = []
    if readers:
        statements += [
            _allow(readers, ["s3:GetObject"], objects),
            _allow(readers, ["s3:ListBucket", "s3:GetBucketLocation"], itself),
        ]
    if writers:
        statements += [_allow(writers, ["s3:*"], objects), _allow(writers, ["s3:*"], itself)]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _allow(users: Sequence[str], actions: Sequence[str], resource: str) -> dict[str, object]:
    return {
        "Effect": "Allow",
        "Principal": {"AWS": list(users)},
        "Action": list(actions),
        "Resource": [resource],
    }


def _reason(error: Exception) -> str:
    """Return the innermost cause; urllib3 wraps it several times."""
    text = str(getattr(error, "reason", None) or error)
    return text.rpartition(": ")[2][:200]


@contextmanager
def _client(link: Link, budget_s: float) -> Iterator[Minio]:
    settings = link.settings
    scheme, _, host = link.endpoint.partition("://")
    pool = make_pool(
        scheme or "https", host, budget_s / 2, ca=settings.ca
    )  # two requests at most in an action
    try:
        yield Minio(
            "s3.amazonaws.com" if link.endpoint == AWS else host,
            access_key=settings.access_key or None,
            secret_key=str(settings.secret_key) or None,
            secure=scheme != "http",
            region=settings.region,
            http_client=pool,
        )
    finally:
        pool.clear()


def make_pool(scheme: str, host: str, timeout_s: float, *, ca: str = "") -> urllib3.PoolManager:
    """Return connections that go the way obstore's go: through the environment's proxy.

    ``ca``: certificates to trust beside the system's, PEM text or a file.
    """
    context = None
    if ca and scheme == "https":
        context = ssl.create_default_context()
        context.load_verify_locations(cadata=certificates(ca))
    timeout = urllib3.Timeout(total=timeout_s)
    retries = urllib3.Retry(0, read=0, connect=0)
    proxy = getproxies().get(scheme)
    name = urlsplit(f"//{host}").hostname or "s3.amazonaws.com"
    if proxy and not is_loopback(name) and not proxy_bypass(name):
        return urllib3.ProxyManager(proxy, timeout=timeout, retries=retries, ssl_context=context)
    return urllib3.PoolManager(timeout=timeout, retries=retries, ssl_context=context)
