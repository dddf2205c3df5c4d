"""Chat templates are programs (Jinja) that come with a tokenizer: they run in a process of their own, within limits."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS, BYTES = 5, 1 << 30  # of computing and of memory, beyond what starting takes
MOST_CHARACTERS = 100_000  # of what a template writes, which is tokenized then
PATIENCE = 120  # seconds until a process that does not even compute is given up
PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"  # what stands for what is said, in what a template is given
AHEAD = 4  # questions of a plain conversation that are rendered at once, since starting the process takes a second

Messages = list[dict[str, Any]]


class EndlessTemplateError(ValueError):
    """A chat template that was stopped."""


def rendered(tokenizer: Any, messages: Messages, generation: bool, keywords: Mapping[str, Any] | None = None) -> str:
    """The text of a conversation by the tokenizer's chat template; ValueError for one that fails or does not end.

    generation: whether it ends in what precedes an answer.
    """
    keywords = dict(keywords or {})
    if _has_own_code(tokenizer):
        return tokenizer.apply_chat_template(  # its own code
            messages, tokenize=False, add_generation_prompt=generation, **keywords
        )
    conversations = together(messages, generation)
    done = _run(_asked(tokenizer, keywords), json.dumps(conversations), _today())
    found = done[conversations.index((messages, generation))]
    if "error" in found:
        raise ValueError(f"the tokenizer's chat template fails: {found['error']}")
    return found["text"]


def tried(tokenizer: Any, conversations: Sequence[tuple[Messages, bool]], **keywords: Any) -> list[str | None]:
    """The texts of several conversations, each with whether it ends in what precedes an answer, by one process.

    None for one that the template refuses. ValueError for a template that does not end.
    """
    if _has_own_code(tokenizer):
        return [_tried_alone(tokenizer, messages, generation, keywords) for messages, generation in conversations]
    done = _run(_asked(tokenizer, keywords), json.dumps(conversations), _today())
    return [found.get("text") for found in done]


def _tried_alone(tokenizer: Any, messages: Messages, generation: bool, keywords: Mapping[str, Any]) -> str | None:
    try:
        return rendered(tokenizer, messages, generation, keywords)
    except EndlessTemplateError:
        raise
    except Exception:  # a template may refuse anything
        return None


def _has_own_code(tokenizer: Any) -> bool:
    """Whether a tokenizer renders conversations by code of its own."""
    from transformers import PreTrainedTokenizerBase

    own = getattr(type(tokenizer), "apply_chat_template", None)
    return own is not PreTrainedTokenizerBase.apply_chat_template


def _asked(tokenizer: Any, keywords: Mapping[str, Any]) -> str:
    request = {"chat_template": template_of(tokenizer, keywords), **tokenizer.special_tokens_map, **keywords}
    return json.dumps(request, default=str)  # tools keep the order of their fields, which templates write


def template_of(tokenizer: Any, keywords: Mapping[str, Any]) -> str:
    """The tokenizer's template; where it has several, the one for tools if there are some."""
    return tokenizer.get_chat_template(tools=keywords.get("tools"))


def _today() -> str:
    return datetime.date.today().isoformat()  # which some templates write


def answered(tokenizer: Any) -> str | None:
    """A question and its answer, which is a `PLACE`; None for a template that refuses them.

    ValueError for a template without an end.
    """
    try:
        return rendered(tokenizer, plain(2), False).replace(f"{PLACE}1{PLACE}", PLACE)
    except EndlessTemplateError:
        raise
    except Exception:  # a template may refuse anything
        return None


def plain(turns: int, system: bool = False) -> Messages:
    """A conversation of question and answer in turn, each with one place; `system`: a system message before them."""
    roles = [*(["system"] if system else []), *(("user", "assistant")[turn % 2] for turn in range(turns))]
    return [{"role": role, "content": f"{PLACE}{place}{PLACE}"} for place, role in enumerate(roles)]


def together(messages: Messages, generation: bool) -> list[tuple[Messages, bool]]:
    """The conversations that are rendered with this one: of a plain one, also what it was and soon will be."""
    wanted, system = (messages, generation), messages[0]["role"] == "system"
    first = max(0, len(messages) - system - 1) // (2 * AHEAD) * 2 * AHEAD + 1
    found = [(plain(turns, system), True) for turns in range(first, first + 2 * AHEAD, 2)]
    if first == 1 and not system:
        found.append((plain(2), False))  # how a turn ends is asked of every template
    return found if wanted in found else [wanted]


@functools.lru_cache(maxsize=256)
def _run(request: str, conversations: str, today: str) -> list[dict[str, str]]:
    """The "text" of each conversation, or the "error", by a process of its own."""
    given = [sys.path, json.loads(request), json.loads(conversations)]
    try:
        done = subprocess.run(
            [sys.executable, __file__], input=json.dumps(given), capture_output=True, text=True, timeout=PATIENCE,
            check=False,
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
    path, request, conversations = json.load(sys.stdin)
    sys.path[:] = path
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit()
    found = []
    for messages, generation in conversations:
        try:
            texts, _ = render_jinja_template([messages], add_generation_prompt=generation, **request)
            if len(texts[0]) > MOST_CHARACTERS:
                raise ValueError(f"it writes {len(texts[0]):,} characters around what is said")
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
