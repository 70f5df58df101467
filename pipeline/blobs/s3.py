"""``s3://`` and ``s3://bucket/prefix``: objects on any S3 server, through obstore."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Client

from pipeline.blobs.keys import (
    batches,
    check_bucket,
    check_folder,
    check_key,
    check_prefix,
    check_range,
    flat,
    is_hidden,
    missing_bucket,
)
from pipeline.blobs.links import Link, Links
from pipeline.blobs.s3errors import AbsentError, from_obstore
from pipeline.config import StoreSettings
from pipeline.errors import BlobNotFoundError, StoreUnavailableError
from pipeline.frame import Buffer
from pipeline.protocols import BlobInfo, Durability

if TYPE_CHECKING:
    from pipeline.blobs.admin import BucketAdmin

T = TypeVar("T")

#: Objects of one page of a listing and keys of one delete request; both are S3's limit.
_PAGE = 1000
#: What is sent as a whole, and the parts of what is not: 512 MB from a mapped file took 1.2 s in
#: parts of 16 MiB and 2.3 s at once (versitygw on the same 2 cores, 2026-11-23).
_ONE_REQUEST_NBYTES = 64 << 20
_CHUNK_NBYTES = 16 << 20
_CHUNKS_AT_ONCE = 4
#: S3 takes 10,000 parts; ours may be cut where one buffer ends.
_MAX_CHUNKS = 9000
#: A server that joins the parts more slowly than this counts as one that does not answer.
_SLOWEST_NBYTES_PER_S = 50e6


class S3Store:
    """A :class:`pipeline.protocols.BlobStore` on an S3 server.

    ``disk`` promises what the server promises for every object; S3 has no way to ask for more.
    The views that :meth:`get` returns are read-only.
    """

    def __init__(self, settings: StoreSettings) -> None:
        parts = urlsplit(settings.url)
        self._bucket = parts.netloc
        self._prefix = unquote(parts.path).strip("/")
        self._url = f"s3://{'/'.join(part for part in (self._bucket, self._prefix) if part)}"
        if settings.endpoints:
            self._url += f" ({', '.join(settings.endpoints)})"
        self._settings = settings
        self._links = Links(settings, store=self._url)

    @property
    def url(self) -> str:
        """The address, with the endpoints."""
        return self._url

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as what it was opened with, keys included; see :func:`pipeline.blobs.reopen`."""
        from pipeline.blobs import reopen  # it imports this module

        return reopen, (self._settings,)

    def put(self, key: str, parts: Sequence[Buffer], *, durability: Durability) -> None:
        """Write one object made of ``parts`` back to back, in one request unless it is large.

        More than 64 MiB are sent in parts, some at a time: neither the client nor the server has
        to hold all, and S3's limit of 5 GiB in one request does not count.  Such a call may take
        a second longer for each 50 MB.
        """
        bucket, path = self._place(check_key(key))
        views = flat(parts) or [memoryview(b"")]
        nbytes = sum(view.nbytes for view in views)
        try:
            if nbytes > _ONE_REQUEST_NBYTES:
                self._put_large(bucket, path, views, nbytes)
            else:
                # Not multipart: one request in place of three, and no leftovers of a crash.
                self._run(bucket, lambda c: obstore.put(c, path, views, use_multipart=False))
        except AbsentError as error:
            raise StoreUnavailableError(self._url, missing_bucket(bucket)) from error

    def _put_large(self, bucket: str, path: str, views: Sequence[memoryview], nbytes: int) -> None:
        # Read-only views in the caller's memory: a mapped file is read as it is sent. Parts that
        # were sent before a failure are removed by obstore, those before our death by the server.
        chunk_nbytes = max(_CHUNK_NBYTES, -(-nbytes // _MAX_CHUNKS))
        self._run(
            bucket,
            lambda c: obstore.put(
                c,
                path,
                _chunks(views, chunk_nbytes),
                use_multipart=True,
                chunk_size=chunk_nbytes,
                max_concurrency=_CHUNKS_AT_ONCE,
            ),
            work_s=nbytes / _SLOWEST_NBYTES_PER_S,
        )

    def get(self, key: str, offset: int, length: int) -> memoryview:
        """Return exactly ``length`` bytes from ``offset``."""
        check_range(offset, length)
        bucket, path = self._place(check_key(key))
        if not length:  # S3 has no empty ranges
            if self.size(key) < offset:
                raise self._absent(key, offset)
            return memoryview(b"")
        try:
            data = memoryview(
                self._run(bucket, lambda c: obstore.get_range(c, path, start=offset, length=length))
            )
        except AbsentError as error:
            raise self._absent(key, offset + length) from error
        if len(data) != length:
            raise self._absent(key, offset + length)
        return data

    def size(self, key: str) -> int:
        """Return the object's length in bytes."""
        bucket, path = self._place(check_key(key))
        try:
            return self._run(bucket, lambda c: _head(c, path))
        except AbsentError as error:
            raise self._absent(key, 0) from error

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield all objects whose key begins with ``prefix``; each page is one request."""
        bucket, start = self._place(check_prefix(prefix))
        # obstore lists whole folders; the rest of the prefix is compared here.
        folder = start.rpartition("/")[0]
        above = len(start) - len(prefix.partition("/")[2] if not self._bucket else prefix)
        after: str | None = None
        while True:
            page = self._page(bucket, folder, after)
            for found in page:
                path = found["path"]
                if path.startswith(start) and not any(map(is_hidden, path.split("/"))):
                    key = path[above:] if self._bucket else f"{bucket}/{path}"
                    modified_ns = int(found["last_modified"].timestamp() * 1e6) * 1000
                    yield BlobInfo(key=key, nbytes=found["size"], modified_ns=modified_ns)
            if len(page) < _PAGE:
                return
            after = page[-1]["path"]

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the next path parts below ``prefix``; below nothing, the buckets."""
        if not check_folder(prefix) and not self._bucket:
            return self._admin().names()
        bucket, path = self._place(prefix)
        folder = path.rstrip("/")
        try:
            found = self._run(bucket, lambda c: obstore.list_with_delimiter(c, folder or None))
        except AbsentError:
            return []
        names = (common.rstrip("/").rpartition("/")[2] for common in found["common_prefixes"])
        return sorted(name for name in names if not is_hidden(name))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, many in one request; keys that do not exist are no error."""
        for batch in batches(keys, _PAGE):
            self._delete(batch)

    def create_bucket(self, bucket: str) -> None:
        """Make the bucket (in a store inside one bucket: that one); one that exists is no error."""
        check_bucket(bucket)
        self._admin().create(self._bucket or bucket)

    def close(self) -> None:
        """Release the connections and refuse further calls."""
        self._links.close()

    def _place(self, key: str) -> tuple[str, str]:
        """Return the bucket on the server and the path in it."""
        if not self._bucket:
            bucket, _, path = key.partition("/")
            return bucket, path
        return self._bucket, f"{self._prefix}/{key}" if self._prefix else key

    def _run(self, bucket: str, action: Callable[[Client], T], *, work_s: float = 0.0) -> T:
        return self._links.attempt(
            lambda link, budget_s: action(link.client(bucket, budget_s)),
            self._translate,
            work_s=work_s,
        )

    def _translate(self, error: Exception, link: Link) -> Exception:
        if isinstance(error, (BaseError, FileNotFoundError)):
            return from_obstore(error, store=self._url, endpoint=link.name)
        return error

    def _page(self, bucket: str, folder: str, after: str | None) -> Sequence[obstore.ObjectMeta]:
        def action(client: Client) -> Sequence[obstore.ObjectMeta]:
            pages = obstore.list(client, folder or None, offset=after, chunk_size=_PAGE)
            return next(iter(pages), [])

        try:
            return self._run(bucket, action)
        except AbsentError:
            return []

    def _delete(self, keys: Sequence[str]) -> None:
        places = [self._place(key) for key in keys]
        paths = [path for _, path in places]
        try:
            self._run(places[0][0], lambda c: obstore.delete(c, paths))
        except AbsentError:  # the bucket is gone, and everything with it
            return

    def _absent(self, key: str, end: int) -> BlobNotFoundError:
        return BlobNotFoundError(key, store=f"{self._url} with {end} bytes" if end else self._url)

    def _admin(self) -> BucketAdmin:
        from pipeline.blobs.admin import BucketAdmin  # slow to import, needed once

        return BucketAdmin(self._links, store=self._url)


def _chunks(views: Sequence[memoryview], nbytes: int) -> Iterator[memoryview]:
    for view in views:
        for first in range(0, view.nbytes, nbytes):
            yield view[first : first + nbytes]


def _head(client: Client, path: str) -> int:
    try:
        return obstore.head(client, path)["size"]
    except FileNotFoundError:
        # The answer to HEAD cannot say why: versitygw sends 404 for a wrong access key, too.
        # The answer to GET can, and raises accordingly.
        obstore.get_range(client, path, start=0, length=1)
        return obstore.head(client, path)["size"]  # written in between
