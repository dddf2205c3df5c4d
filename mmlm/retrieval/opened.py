"""An index that is open: its file, the encoders that it is used with, and its vectors in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from decoders.values import check_kind
from encoders.clip import ClipImageEncoder
from mmlm.retrieval.chunks import Chunking
from mmlm.retrieval.embedders import ClipTexts, TextEmbedder
from mmlm.retrieval.store import Space, Store
from mmlm.retrieval.vectors import Rows, Vectors

if TYPE_CHECKING:
    from encoders.transcription.transcriber import Transcriber
    from mmlm.model.network import MultimodalNetwork

WORDS = "words alone"  # in place of a fingerprint where texts have no vectors


class OpenIndex:
    """What `Index` is made of; arguments and errors are described there."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: MultimodalNetwork | None = None,
        *,
        clip: ClipImageEncoder | None = None,
        texts: TextEmbedder | Literal["clip"] | None = "clip",
        transcriber: Transcriber | None = None,
        chunking: Chunking | None = None,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"an index is given by the path of its file, not {path!r:.60}")
        check_kind("chunking", chunking, Chunking | None)
        eyes = clip if clip is not None or model is None else model.encoders.get("image")
        self.clip = eyes if isinstance(eyes, ClipImageEncoder) else None
        if texts == "clip":
            texts = None if self.clip is None else ClipTexts(self.clip)
        if not (texts is None or (callable(texts) and hasattr(texts, "fingerprint"))):
            raise TypeError(f"texts is a TextEmbedder, such as Named(function, name), not {texts!r:.60}")
        self.texts: TextEmbedder | None = texts
        self.model, self.transcriber, self.chunking = model, transcriber, chunking or Chunking()
        self.fingerprints: dict[Space, str | None] = {
            "image": None if self.clip is None else self.clip.fingerprint(),
            "text": None if self.texts is None else self.texts.fingerprint(),
        }
        self.store = Store(Path(path).expanduser())
        self._vectors: dict[Space, Vectors] = {}
        self._seen = self.store.changes_elsewhere()
        try:
            for space, own in self.fingerprints.items():
                if own is not None:
                    self._compare(space, own)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.store.database.close()

    def __len__(self) -> int:
        """How many pieces can be found."""
        return self.store.value("SELECT count(*) FROM pieces")

    def __repr__(self) -> str:
        return f"Index({str(self.store.path)!r}, {len(self):,} pieces)"

    def vectors(self, space: Space) -> Vectors:
        """The vectors in memory, with whatever other processes have written since they were read."""
        with self.store.lock:
            if (seen := self.store.changes_elsewhere()) != self._seen:
                self._vectors, self._seen = {}, seen
            if space not in self._vectors:
                ids, rows = self.store.vectors(space)
                self._vectors[space] = Vectors(rows.shape[1])
                self._vectors[space].add(ids.tolist(), rows)
            return self._vectors[space]

    def document_with(self, modality: str, digest: str, caption: str) -> int | None:
        """The document of this content; None where there is none."""
        query = "SELECT id FROM documents WHERE modality = ? AND digest = ? AND caption = ?"
        return self.store.value(query, (modality, digest, caption))

    def listener(self) -> Transcriber | None:
        """The Whisper that writes down what recordings say; None without one."""
        if self.transcriber is None and self.model is not None and "audio" in self.model.encoders:
            self.transcriber = self.model.transcriber
        return self.transcriber

    def claim(self, space: Space) -> None:
        """Within `writing`: the vectors of a space are of this encoder, from the first on. ValueError for another."""
        own = self.fingerprints[space] or WORDS
        if not self._compare(space, own):
            self.store.run("INSERT INTO about VALUES (?, ?)", (space, own))

    def took(self, added: Mapping[Space, tuple[list[int], Rows]], removed: list[int]) -> None:
        """What was written, for the vectors in memory."""
        with self.store.lock:
            for space, (ids, rows) in added.items():
                if space in self._vectors:
                    if not len(self._vectors[space]):
                        self._vectors[space] = Vectors(rows.shape[1])
                    self._vectors[space].add(ids, rows)
            for vectors in self._vectors.values():
                vectors.remove(removed)

    def _compare(self, space: Space, own: str) -> bool:
        """Whether a space has an encoder; ValueError where it is another one."""
        kept = self.store.value("SELECT value FROM about WHERE key = ?", (space,))
        if kept is None or kept == own:
            return kept is not None
        what = "pictures" if space == "image" else "texts"
        raise ValueError(
            f"the {what} of {self.store.path} were put in with another encoder ({kept}; this one is {own}): open it "
            "with that one, or make a new index"
        )
