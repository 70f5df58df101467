"""The ways to one S3 storage: which endpoint an operation takes, for how long, how often."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from obstore.store import S3Store as Client

from pipeline.blobs.s3errors import passes
from pipeline.config import StoreSettings
from pipeline.credentials import certificates
from pipeline.errors import ClosedError, ConfigError, StoreUnavailableError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

T = TypeVar("T")

#: How often all links are tried, and how long to wait before the next round.  A server that
#: restarts takes seconds: waiting for it is the caller's business, who can spool meanwhile.
_ROUND_WAITS_S = (0.0, 0.05, 0.2)
#: How long a link that failed is tried last.
SET_ASIDE_S = 5.0
_SHORTEST_S = 0.05
AWS = ""  # no endpoint: Amazon's own, found from the region


class Link:
    """One endpoint and the clients on it, one for each bucket (obstore binds them)."""

    def __init__(self, endpoint: str, settings: StoreSettings) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.aside_until_s = 0.0
        self._clients: dict[tuple[str, float], Client] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The address for messages."""
        return self.endpoint or f"s3.{self.settings.region}.amazonaws.com"

    def client(self, bucket: str, budget_s: float) -> Client:
        """Return the client of a bucket whose requests end within ``budget_s``."""
        with self._lock:
            known = self._clients.get((bucket, budget_s))
            if known is None:
                known = self._clients[bucket, budget_s] = self._connect(bucket, budget_s)
            return known

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            self._clients.clear()

    def _connect(self, bucket: str, budget_s: float) -> Client:
        settings = self.settings

        # As a provider, because obstore fills what is not given from AWS_* variables, and a
        # session token from there makes every signature wrong.
        def credentials() -> S3Credential:
            return {
                "access_key_id": settings.access_key,
                "secret_access_key": str(settings.secret_key),
                "token": None,
                "expires_at": None,
            }

        budget = timedelta(seconds=budget_s)
        options: ClientConfig = {
            "allow_http": True,
            "timeout": budget,
            "connect_timeout": budget / 3,
        }
        if settings.ca:
            options["root_certificate"] = certificates(settings.ca)
        host = urlsplit(self.endpoint).hostname or ""
        if is_loopback(host):
            # Whatever proxy the environment names cannot reach a server on this machine.
            options |= {"proxy_url": self.endpoint, "proxy_excludes": host}
        place: S3Config = {}
        if self.endpoint:
            place = {"endpoint": self.endpoint, "aws_endpoint_url_s3": self.endpoint}
        return Client(
            bucket,
            config=place,
            region=settings.region,
            # A third of the CPU of signing the payload too (design, section 10); the checksum of
            # each frame, made by its publisher and checked by its reader, covers the whole way.
            unsigned_payload=True,
            skip_signature=not settings.access_key,
            virtual_hosted_style_request=False,
            client_options=options,
            # Links.attempt tries again, on another link if there is one.
            retry_config={"max_retries": 0, "retry_timeout": budget},
            credential_provider=credentials,
        )


class Links:
    """Spreads operations over the links and keeps them within ``timeout_s`` in all."""

    def __init__(self, settings: StoreSettings, *, store: str) -> None:
        self._store = store
        self._timeout_s = max(settings.timeout_s, _SHORTEST_S)
        endpoints = [check_endpoint(e) for e in settings.endpoints if e] or [AWS]
        self._links = [Link(endpoint, settings) for endpoint in endpoints]
        self._turn = itertools.count()
        self._closed = False

    def attempt(
        self,
        action: Callable[[Link, float], T],
        translate: Callable[[Exception, Link], Exception],
        *,
        work_s: float = 0.0,
    ) -> T:
        """Return what ``action`` returns on the first link where it succeeds.

        ``action`` gets a link and the seconds it may take.  What it raises goes through
        ``translate``; an error that may pass sets the link aside and the next one is tried.
        ``work_s``: what a server that works needs at most, beyond answering at all.
        """
        allowed_s = self._timeout_s
        while allowed_s < self._timeout_s + work_s:
            allowed_s *= 2  # steps, for the reason that _budget has
        end_s = time.monotonic() + allowed_s
        last: Exception = StoreUnavailableError(self._store, "no time to ask it")
        for link, alone in self._tries(end_s):
            budget_s = self._budget(allowed_s, end_s - time.monotonic(), alone=alone)
            if budget_s is None:
                break
            if link.aside_until_s:  # its trial: the others pass it by until that has succeeded
                link.aside_until_s = time.monotonic() + SET_ASIDE_S
            try:
                result = action(link, budget_s)
            except Exception as error:  # translate returns bugs of ours as they are
                last = translate(error, link)
                if last is error:
                    raise
                if not passes(last):
                    raise last from error
                last.__cause__ = error
                link.aside_until_s = time.monotonic() + SET_ASIDE_S
            else:
                link.aside_until_s = 0.0
                return result
        raise last

    def close(self) -> None:
        """Let go of all connections and refuse further operations."""
        self._closed = True
        for link in self._links:
            link.close()

    def _tries(self, end_s: float) -> Iterator[tuple[Link, bool]]:
        """Yield links to try, and whether no other is left in this round."""
        if self._closed:
            raise ClosedError(f"object store {self._store} is closed")
        for wait_s in _ROUND_WAITS_S:
            time.sleep(max(0.0, min(wait_s, end_s - time.monotonic())))
            order = self._order()
            for place, link in enumerate(order, start=1):
                yield link, place == len(order)

    def _order(self) -> list[Link]:
        """Return the links round robin, those that failed lately last."""
        first = next(self._turn) % len(self._links)
        turned = self._links[first:] + self._links[:first]
        now_s = time.monotonic()
        return sorted(turned, key=lambda link: link.aside_until_s > now_s)

    def _budget(self, allowed_s: float, left_s: float, *, alone: bool) -> float | None:
        """Return how long one try may take: all that is allowed, a half of it, a quarter ...

        Steps, because obstore binds the limit to a client and its connections; half of what is
        left, while there is another link that may answer.
        """
        limit_s = left_s * 1.05 if alone else left_s * 0.55
        budget_s = allowed_s
        while budget_s > limit_s:
            budget_s /= 2
            if budget_s < self._timeout_s / 64:
                return None
        return budget_s


def check_endpoint(endpoint: str) -> str:
    """Return the endpoint as ``http[s]://host[:port]``; keys inside it would end up in messages."""
    parts = urlsplit(endpoint)
    if "@" in parts.netloc:
        raise ConfigError("store.endpoints must not hold a user: use access_key and secret_key")
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
        raise ConfigError(f"store.endpoints: {endpoint!r} must be http://host:port or https://host")
    return endpoint.rstrip("/")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine."""
    return host in {"localhost", "::1"} or host.startswith("127.")
