"""What a server takes on, and whom it answers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from decoders.values import check_kinds


@dataclass(frozen=True)
class Limits:
    """What one request may bring, checked before memory or time is spent on it.

    max_body_bytes: of its body, encoded media included. max_media: pictures and recordings. max_pixels: of all its
    pictures together. max_seconds: of all its recordings together. max_texts: to embed.
    timeout: seconds after which its text or picture is given up; what it brings to be written down has as long as that
    lasts besides. read_seconds: in which more of its body must arrive. max_held_bytes: of the bodies of all requests at
    once.
    """

    max_body_bytes: int = 50_000_000
    max_media: int = 64
    max_pixels: int = 64_000_000
    max_seconds: float = 3600.0
    max_texts: int = 2048
    timeout: float = 600.0
    read_seconds: float = 30.0
    max_held_bytes: int = 1_000_000_000

    def __post_init__(self) -> None:
        check_kinds(self)
        for name in (one.name for one in fields(self)):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class Settings:
    """Whom a server answers, and what it takes.

    api_key: what requests must carry, as `Authorization: Bearer …`; None for none, and then only requests to this
    machine's own name are answered. hosts: from whose addresses pictures are fetched, in small letters; none fetches
    nothing.
    """

    api_key: str | None = None
    hosts: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("the API key is empty")
