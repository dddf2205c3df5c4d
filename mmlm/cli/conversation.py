"""A conversation on the command line: what is typed, what is read, and the answers as they come."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlm.cli.batch import UNUSABLE
from mmlm.cli.first_contact import Note
from mmlm.cli.inputs import Input
from mmlm.cli.loading import check_folder_of, read_image
from mmlm.cli.lookup import print_sources
from mmlm.cli.messages import complain
from mmlm.cli.options import SOUND_LIMITS, file_path, reading_options
from mmlm.cli.output import described, print_record, tell_cut
from mmlm.cli.thoughts import print_thought
from mmlm.cli.tools import saved, tell_call

if TYPE_CHECKING:
    from mmlm.assembly.multimodal_lm import MultimodalLM
    from mmlm.generation.result import GenerationResult
    from mmlm.prompting.messages import Message
    from mmlm.reasoning.tools.tool import Tool
    from mmlm.retrieval.lookup import Lookup
    from mmlm.tasks.generate import TextStream

HELP = """\
/image FILE [text]   look at a picture or video     /audio FILE [text]   hear a recording
/save FILE           keep the conversation          /clear               begin anew
/undo                take back the last question    /exit, Ctrl-D        end
\"\"\"                  begins and ends a text of several lines; Ctrl-C ends an answer"""

_FILE_AND_TEXT = re.compile(r"""(?:"([^"]+)"|'([^']+)'|(\S+))\s*(.*)""", re.DOTALL)


@dataclass
class Conversation:
    """What was said so far: as it is saved, and as the model takes it, with media encoded once.

    tools: that the model may call. lookup: how an index is asked for each question; None without one. waiting: media
    that go with the next question. picture: of the last message, for what is looked up.
    """

    args: argparse.Namespace
    model: MultimodalLM
    options: dict[str, Any]
    tools: Sequence[Tool] = ()
    lookup: Lookup | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    turns: list[Message] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    picture: Any = None

    def __post_init__(self) -> None:
        self.note = Note(self.args)

    def entered(self, line: str) -> bool:
        """Does what a line says, and whether it could; EOFError for the wish to end."""
        word, _, rest = line.strip().partition(" ")
        if not word or (word.startswith("/") and not word.startswith("//")):
            return self._command(word, rest.strip())
        return self.attempt(line[1:] if word.startswith("//") else line)

    def _command(self, word: str, rest: str) -> bool:
        if word in ("/exit", "/quit", "/bye"):
            raise EOFError
        if word in ("/image", "/audio") and rest:
            found = _FILE_AND_TEXT.fullmatch(rest)
            *names, text = found.groups() if found else (rest, "")
            (name,) = (file_path(name) for name in names if name)
            if not self._tried(lambda: check_there(name, repr(name))):
                return False
            self.attach(word[1:], [name])
            return self.attempt(text) if text else True
        if word == "/clear":
            kept = next((place for place, turn in enumerate(self.turns) if turn.role != "system"), len(self.turns))
            del self.messages[kept:], self.turns[kept:], self.waiting[:]
        elif word == "/undo":
            self._take_back()
        elif word == "/save" and rest:
            return self._tried(lambda: self._save(file_path(rest)))
        elif word == "/help":
            print(HELP, file=sys.stderr)
        elif word:
            complain(
                self.args, f"{word} is no command, or lacks its file; /help lists them, and // begins a text with /"
            )
            return False
        return True

    def attach(self, kind: str, names: list[str]) -> None:
        """Media for the next question."""
        self.waiting += [{"type": kind, "path" if "://" not in name else "url": name} for name in names]

    def attempt(self, text: str | None) -> bool:
        """Answers a question, or the last message where there is none; what fails is said and taken back."""
        count = len(self.turns)

        def act() -> None:
            if text is not None:
                parts = [*self.waiting, *([{"type": "text", "text": text}] if text.strip() else [])]
                self.add({"role": "user", "content": parts if self.waiting else text})
            self._answer()
            if self.args.save is not None:
                self._save(self.args.save)

        done = self._tried(act)
        if not done:
            del self.messages[count:], self.turns[count:]
        self.waiting = []
        return done

    def add(self, message: dict[str, Any]) -> None:
        """Adds a message: its media are read, recordings written down, pictures encoded."""
        from mmlm.prompting.messages import as_messages
        from mmlm.prompting.parts import Image, Sound
        from mmlm.tasks.chat import heard, template_of

        (turn,) = as_messages([self._read(message)], allow_url=self.args.allow_url)
        if self.tools:  # which look into pictures and recordings as they are
            self.turns.append(turn)
            self.messages.append(message)
            return
        self.picture = next((part.source for part in turn.content if isinstance(part, Image)), None)
        turn = heard(self.model, turn, self.args.mode, self.args.language, template_of(self.model))
        content = []
        for part in turn.content:
            if isinstance(part, (Image, Sound)):
                part = replace(part, source=self.model.encode_media([part])[0])
            content.append(part)
        self.turns.append(replace(turn, content=tuple(content)))
        self.messages.append(message)

    def _read(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message with its files read, within the limits that were given."""
        from encoders.media.sound import load_audio

        if not isinstance(message, dict) or not isinstance(message.get("content"), list):
            return message
        content = []
        for part in message["content"]:
            kind = part.get("type") if isinstance(part, dict) else None
            name = part.get("path", part.get("url")) if kind in ("image", "audio", "video") else None
            if isinstance(name, str) and kind == "audio":
                part = {"type": kind, kind: load_audio(name, **reading_options(self.args, *SOUND_LIMITS))}
            elif isinstance(name, str):
                picture = read_image(Input(name, Path()), self.args)
                self.note.of_picture(picture)
                part = {"type": "image", "image": picture}
            content.append(part)
        return message | {"content": content}

    def _answer(self) -> None:
        """Writes the answer as it comes, and adds it."""
        from mmlm.prompting.messages import Message
        from mmlm.prompting.sources import pieces_without_dropped, without_dropped
        from mmlm.tasks.chat import room, turns_prompt
        from mmlm.tasks.rows import results_of
        from mmlm.tasks.votes import generated

        args, model = self.args, self.model
        keywords = args.chat_template_kwargs
        if self.tools:
            return self._solve()
        options: Any = dict(self.options)
        prompt, offer = turns_prompt(model, self.turns, keywords, options, self.lookup, self.picture)
        sources = None if offer is None else offer.sources
        if "max_new_tokens" not in options:
            options["max_new_tokens"] = room(model, [prompt], options.get("thinking", False))
        if args.json or args.votes is not None or options.get("num_beams", 1) > 1:
            (result,) = results_of(generated(model, [prompt], args.votes, **options))
            result = replace(result, sources=sources)
            if result.thinking is not None and not args.json:
                print_thought(args, [result.thinking])
            answer, text = result.answer.strip(), result.text
            if sources is not None:
                answer, text = (without_dropped(own, len(sources)) for own in (answer, text))
            print_record(args, {"role": "assistant", "content": answer, **result.to_dict()}, text)
        else:
            stream = model.stream(prompt, **options)
            pieces = stream if sources is None else pieces_without_dropped(stream, len(sources))
            result, answer = written(args, stream, pieces)
            result = None if result is None else replace(result, sources=sources)
        if offer is not None:  # numbers of sources, which stand in no later prompt
            answer = without_dropped(answer, 0).strip()
        self.turns.append(Message("assistant", (answer,) if answer else ()))
        self.messages.append({"role": "assistant", "content": answer})
        if result is not None:
            print_sources(args, result)
            if dropped := result.citations.dropped:
                complain(args, f"the answer names sources that were not offered, {list(dropped)}: they are left out")
            self._tell(result)

    def _solve(self) -> None:
        """Answers with tools, and adds the calls, their results and the answer."""
        args = self.args
        if args.votes is not None:
            raise ValueError("--votes are for answers without tools")
        found = self.model.solve(
            self.turns, tools=self.tools, on_call=tell_call, mode=args.mode, language=args.language,
            chat_template_kwargs=args.chat_template_kwargs, **self.options,
        )  # fmt: skip
        for turn in found.messages[len(self.turns) :]:
            self.turns.append(turn)
            self.messages.append(saved(turn))
        if args.json:
            print_record(args, {"role": "assistant", "content": found.answer, **found.to_dict()}, found.answer)
        else:
            print(found.answer, flush=True)
        if found.ended != "answer":
            complain(args, f"there is no whole answer: the limit of {found.ended} was met")

    def _tell(self, result: GenerationResult) -> None:
        """How an answer ended, where that was asked for or matters."""
        tell_cut(self.args, result)
        if self.args.details and not self.args.json:
            print(f"  {described(result)}", flush=True)

    def _take_back(self) -> None:
        """The last question and what followed it."""
        asked = [place for place, turn in enumerate(self.turns) if turn.role == "user"]
        if asked:
            del self.messages[asked[-1] :], self.turns[asked[-1] :]

    def _save(self, name: str) -> None:
        check_folder_of(Path(name))
        Path(name).write_text(json.dumps(self.messages, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def _tried(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except BrokenPipeError:
            raise
        except UNUSABLE as error:
            if self.args.debug:
                raise
            complain(self.args, str(error))
            return False
        return True


def check_there(name: str, said: str) -> None:
    """FileNotFoundError for a medium that is neither a file nor an address, which the message calls what is `said`."""
    if "://" not in name and not Path(name).is_file():
        raise FileNotFoundError(f"{said}: no such file")


def written(args: argparse.Namespace, stream: TextStream, answer: Iterable[str]) -> tuple[GenerationResult | None, str]:
    """Prints a stream as it comes: its result, None where Ctrl-C ended it, and the answer without thinking.

    answer: the stream's pieces as they are shown.
    """
    from mmlm.prompting.thinking import after_thinking

    pieces: list[str] = []
    try:
        print_thought(args, stream.thinking)
        for piece in answer:
            pieces.append(piece)
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        stream.close()
        print(flush=True)
        return None, after_thinking("".join(pieces)).strip()
    print(flush=True)
    return stream.result, stream.result.answer.strip()
