"""Media from http and https addresses: from public machines alone, with one deadline for the whole request."""

from __future__ import annotations

import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from typing import IO, Any
from urllib.parse import urlsplit

_MOST_CHARACTERS = 8000  # of an address: what servers take
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: not private, not this machine's, and of one machine."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        teredo = found.teredo[1] if found.teredo else None
        nat64 = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else None
        inner = found.ipv4_mapped or found.sixtofour or teredo or nat64
        if inner is not None and not is_public(str(inner)):
            return False
        found = found.ipv4_mapped or found
    return found.is_global and not found.is_multicast


def fetch(url: str, check: Callable[[int], None], seconds: float, hosts: Collection[str] | None = None) -> bytes:
    """The data of an address, fetched within `seconds`: names, connections, redirects, headers and data together.

    check: called with the length that is stated, and then with that of what has arrived. hosts: the names, in small
    letters, that addresses may have, those of redirects too; None for any. Machines that are not of the
    internet are refused by the address that is connected to, after each redirect too, since a name may lead anywhere.
    Proxies that the environment names are not used: they would connect in our place.
    OSError, HTTPException or ValueError for what cannot be fetched; TimeoutError where it takes longer.
    """
    check_address(url, hosts)
    end = time.monotonic() + seconds
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Redirects(hosts), _Http(end), _Https(end))
    data = bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "mmlm"})
        with opener.open(request, timeout=seconds) as response:
            check(int(response.headers.get("Content-Length") or 0))
            while chunk := response.read1(65536):  # read1 returns what has arrived
                data += chunk
                check(len(data))
                _left(end)
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError) or time.monotonic() >= end:
            raise TimeoutError(f"longer than {seconds:.0f} s") from error
        raise
    return bytes(data)


def check_address(url: str, hosts: Collection[str] | None = None) -> None:
    """ValueError for an address that is none of http(s): by its kind, its host, its port, its length or characters.

    hosts: those that are allowed; None for any.
    """
    if len(url) > _MOST_CHARACTERS:
        raise ValueError(f"it has more than {_MOST_CHARACTERS:,} characters")
    if any(ord(character) <= 32 or ord(character) == 127 for character in url):
        raise ValueError("it holds spaces or control characters; write them as %20 and the like")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url[:80]!r} is not http(s)")
    if "@" in parts.netloc:
        raise ValueError("names and passwords in addresses are not sent")
    if not parts.hostname:
        raise ValueError("it names no host")
    if "[" in parts.netloc or "]" in parts.netloc:
        ipaddress.IPv6Address(parts.hostname.partition("%")[0])  # ValueError for what is none
        if not re.fullmatch(r"\[[^\[\]]*\](:\d*)?", parts.netloc):
            raise ValueError(f"{parts.netloc!r} is no host")
    if parts.port == 0:  # of other ports that are none, `port` itself raises the error
        raise ValueError("there is no port 0")
    if hosts is not None and parts.hostname not in hosts:
        raise ValueError(f"{parts.hostname[:80]!r} is none of the hosts that are allowed")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https addresses only, of `hosts` where they are given."""

    def __init__(self, hosts: Collection[str] | None) -> None:
        self.hosts = hosts

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to the new address; ValueError where that is none of http(s)."""
        try:
            check_address(newurl, self.hosts)
        except ValueError as error:
            raise ValueError(f"it leads on to another address: {error}") from error
        fp.close()  # which urllib would read to its end
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Timed:
    """A socket of which each read ends at one deadline, however slowly bytes arrive."""

    end: float

    def recv_into(self: Any, *args: Any, **kwargs: Any) -> int:
        """The socket's own, with the time that is left."""
        self.settimeout(_left(self.end))
        return super().recv_into(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


class _Socket(_Timed, socket.socket):
    pass


class _SecureSocket(_Timed, ssl.SSLSocket):
    pass


class _Http(urllib.request.HTTPHandler):
    """Connects to public machines alone, and keeps to the deadline `end`."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end = end

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """The answer to a request."""
        end = self.end

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = _connected(self.host, self.port, end)

        return self.do_open(Connection, req)


class _Https(urllib.request.HTTPSHandler):
    """The same, over TLS."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end = end

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """The answer to a request."""
        end = self.end

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                self.sock = _secured(_connected(self.host, self.port, end), self.host)

        return self.do_open(Connection, req)


def _secured(plain: _Socket, host: str) -> _SecureSocket:
    """A connection with TLS, whose certificate is that of the host."""
    context = ssl.create_default_context()
    context.sslsocket_class = _SecureSocket
    found: Any = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    found.end = plain.end
    found.settimeout(_left(found.end))
    found.do_handshake()
    return found


def _connected(host: str, port: int, end: float) -> _Socket:
    """A connection to the first machine of this name that answers. OSError for one that is not of the internet."""
    failed: OSError = OSError(f"{host!r} has no address")
    for family, kind, protocol, _, place in _resolved(host, port, end):
        address = str(place[0])
        if not is_public(address):
            raise OSError(f"{host!r} is {address}, inside a network, and only public addresses are fetched")
        found = _Socket(family, kind, protocol)
        found.end = end
        try:
            found.settimeout(_left(end))
            found.connect(place)
            return found
        except OSError as error:
            found.close()
            failed = error
    raise failed


def _resolved(host: str, port: int, end: float) -> Any:
    """The addresses of a name. The system may take its time over that, so a thread of its own waits for it."""
    answer: queue.SimpleQueue = queue.SimpleQueue()

    def resolve() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # of many types: a label that is empty or too long, a number beyond a C integer
            answer.put(error if isinstance(error, OSError) else OSError(f"{host!r} cannot be looked up: {error}"))

    threading.Thread(target=resolve, daemon=True).start()
    try:
        found = answer.get(timeout=_left(end))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found


def _left(end: float) -> float:
    """The seconds until the deadline; TimeoutError where there are none."""
    if (left := end - time.monotonic()) <= 0:
        raise TimeoutError
    return left
