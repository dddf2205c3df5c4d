"""What a request for a chat asks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mmlm.generation.options import GenerationOptions
from mmlm.serving.dialect.asked import LEAST, Asked, Seed, Share, Temperature
from mmlm.serving.dialect.reasoning import Effort, is_asked_for
from mmlm.serving.dialect.response_format import ResponseFormat
from mmlm.serving.errors import ApiError, not_yet
from mmlm.tasks.chat import Mode

Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    Field(max_length=4),
]

MODALITIES = ({"text"}, {"text", "audio"}, {"text", "image"}, {"image"})


class StreamOptions(BaseModel):
    """What a stream holds besides the answer."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False  # against guessing texts by the sizes of packets: there is none


class AudioAsked(BaseModel):
    """The form of the sound in an answer. voice: any name, for a model has one."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"]
    voice: str | None = None


class ChatRequest(Asked):
    """The body of a request. mode, language and chat_template_kwargs are those of `mmlm.tasks.chat.chat`.

    steps: of the diffusion decoder, where media are written. max_seconds: the longest sound.
    """

    no_effect = (
        "user", "store", "metadata", "service_tier", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier",
    )  # fmt: skip
    not_yet = {
        "functions": [[]], "function_call": ["none", "auto"], "frequency_penalty": [0],
        "presence_penalty": [0], "logit_bias": [{}], "prediction": [], "moderation": [], "verbosity": [],
        "web_search_options": [],
    }  # fmt: skip

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stops | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1, le=10**7)] | None = None
    modalities: list[str] | None = None
    audio: AudioAsked | None = None
    steps: Annotated[int, Field(ge=0, le=1000)] | None = None
    max_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] | None = None
    mode: Mode = "transcript"
    language: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """ApiError for fields that contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options are for streams: send stream=true", "stream_options", "invalid_value")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs come with logprobs=true", "top_logprobs", "invalid_value")
        if self.temperature is not None and self.temperature < LEAST and (self.n or 1) > 1:
            message = "n answers at temperature 0 would all be the same: raise the temperature"
            raise ApiError(400, message, "n", "invalid_value")
        if self.response_format is not None and self.response_format.type != "text" and self.tools:
            message = (
                "response_format holds the whole answer to JSON, where no call of a tool could stand: leave one out"
            )
            raise ApiError(400, message, "response_format", "invalid_value")
        self._check_media()

    @property
    def medium(self) -> Literal["image", "audio"] | None:
        """What the answer may hold beside text."""
        asked = set(self.modalities or ())
        return "audio" if "audio" in asked else "image" if "image" in asked else None

    def _check_media(self) -> None:
        if self.modalities is not None and set(self.modalities) not in MODALITIES:
            raise not_yet(
                f"modalities={[name[:20] for name in self.modalities[:4]]} (answers are text, text and audio, text and "
                "image, or image)", "modalities",
            )  # fmt: skip
        self._check_audio()
        medium, form = self.medium, self.response_format
        if self.steps is not None and medium is None:
            raise ApiError(
                400, "steps are for pictures and sounds: ask for them by modalities", "steps", "invalid_value"
            )
        if medium is None:
            return
        if form is not None and form.type != "text":
            message = "response_format is for answers of text alone: leave it out, or modalities"
            raise ApiError(400, message, "response_format", "invalid_value")
        if medium == "audio":
            return
        given = [name for name in ("tools", "stop", "logprobs") if getattr(self, name)]
        if is_asked_for(self.reasoning_effort, self.thinking_token_budget):
            given.append("reasoning_effort" if self.thinking_token_budget is None else "thinking_token_budget")
        if given:
            message = f"{given[0]}: this is for answers without pictures: leave it out, or modalities"
            raise ApiError(400, message, given[0], "invalid_value")

    def _check_audio(self) -> None:
        """ApiError for fields of sound without sound, for sound without them, and for what they may not be."""
        if self.medium != "audio":
            for name in ("audio", "max_seconds"):
                if getattr(self, name) is not None:
                    message = f'{name} is for answers with sound: send modalities=["text", "audio"]'
                    raise ApiError(400, message, name, "invalid_value")
            return
        if self.audio is None:
            message = 'sound needs its format: send audio={"format": "wav"}'
            raise ApiError(400, message, "audio", "missing_field")
        if self.stream and self.audio.format != "pcm16":
            message = "audio.format: sound is streamed as pcm16 alone"
            raise ApiError(400, message, "audio", "invalid_value")

    @property
    def limit(self) -> int | None:
        """The most tokens of thought and answer together."""
        return self.max_completion_tokens or self.max_tokens

    def options(self, most: int) -> GenerationOptions:
        """How to decode: the most likely tokens, unless temperature, top_p or n asks for samples, or pictures may be
        written, whose most likely codes make an average of all pictures.
        """
        sampled = (self.n or 1) > 1 or self.temperature is not None or self.top_p is not None or self.medium == "image"
        if self.temperature is not None and self.temperature < LEAST:
            sampled = False
        asked: dict[str, Any] = dict(
            max_new_tokens=self.limit or most,
            do_sample=sampled,
            temperature=1.0 if self.temperature is None or not sampled else self.temperature,
            top_p=self.top_p if sampled else None,
            num_return_sequences=self.n or 1,
            stop=() if self.stop is None else self.stop,
            top_log_probs=self.top_logprobs or 0,
            seed=self.seed,
        )
        if self.response_format is None:
            return GenerationOptions(**asked)
        try:
            return GenerationOptions(**asked, json_schema=self.response_format.schema_of_answer)
        except ValueError as error:  # all else was checked as it came
            raise ApiError(400, f"response_format: {error}", "response_format", "invalid_value") from None
