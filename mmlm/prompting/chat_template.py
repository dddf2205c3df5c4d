"""Chat templates are programs (Jinja) that come with a tokenizer: they run in a process of their own, within limits."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS, BYTES = 5, 1 << 30  # of computing and of memory, beyond what starting takes
MOST_CHARACTERS = 100_000  # of what a template writes, which is tokenized then
PATIENCE = 120  # seconds until a process that does not even compute is given up
PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"  # where the text of a message goes
ASKED = [{"role": "user", "content": PLACE}]
ANSWERED = [{"role": "user", "content": "a"}, {"role": "assistant", "content": PLACE}]


def asked(tokenizer: Any) -> str:
    """One user message, `PLACE`, and what precedes its answer; ValueError for a template that fails or does not end."""
    return _text(tokenizer, ASKED, True)


def answered(tokenizer: Any) -> str | None:
    """A question and its answer, `PLACE`; None for a template that refuses them. ValueError for one without an end."""
    try:
        return _text(tokenizer, ANSWERED, False)
    except EndlessTemplateError:
        raise
    except Exception:  # a template may refuse anything
        return None


class EndlessTemplateError(ValueError):
    """A chat template that was stopped."""


def _text(tokenizer: Any, messages: list[dict[str, str]], generation: bool) -> str:
    from transformers import PreTrainedTokenizerBase

    if getattr(type(tokenizer), "apply_chat_template", None) is not PreTrainedTokenizerBase.apply_chat_template:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)  # its own code
    request = {"chat_template": tokenizer.get_chat_template(), **tokenizer.special_tokens_map}
    today = datetime.date.today().isoformat()  # which some templates write
    found = _rendered(json.dumps(request, sort_keys=True, default=str), today)[0 if generation else 1]
    if "error" in found:
        raise ValueError(f"the tokenizer's chat template fails: {found['error']}")
    return found["text"]


@functools.lru_cache(maxsize=64)
def _rendered(request: str, today: str) -> list[dict[str, str]]:
    """Both conversations by one process, since starting it takes a second: the "text" of each, or the "error"."""
    try:
        done = subprocess.run(
            [sys.executable, __file__], input=json.dumps([sys.path, json.loads(request)]), capture_output=True,
            text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EndlessTemplateError(f"the tokenizer's chat template was stopped after {PATIENCE} s") from None
    if done.returncode:
        raise EndlessTemplateError(
            f"the tokenizer's chat template was stopped: it computes for more than {SECONDS} s, or needs more than "
            f"{BYTES / 1e9:.1f} GB (exit code {done.returncode})"
        )
    return json.loads(done.stdout)


def _child() -> None:
    """Renders what standard input asks for, by transformers' own function."""
    path, request = json.load(sys.stdin)
    sys.path[:] = path
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit()
    found = []
    for messages, generation in ((ASKED, True), (ANSWERED, False)):
        try:
            texts, _ = render_jinja_template([messages], add_generation_prompt=generation, **request)
            if len(texts[0]) > MOST_CHARACTERS:
                raise ValueError(f"it writes {len(texts[0]):,} characters around one message")
            found.append({"text": texts[0]})
        except MemoryError:
            sys.exit(1)
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"[:500]})
    json.dump(found, sys.stdout)


def _limit() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # where there are none, `PATIENCE` is the limit
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + SECONDS
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    _child()
