"""What a request for a chat asks for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mmlm.generation.options import GenerationOptions
from mmlm.serving.dialect.asked import Asked, Seed, Share, Temperature
from mmlm.serving.dialect.reasoning import Effort
from mmlm.serving.dialect.response_format import ResponseFormat
from mmlm.serving.errors import ApiError
from mmlm.tasks.chat import Mode

Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    Field(max_length=4),
]


class StreamOptions(BaseModel):
    """What a stream holds besides the answer."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False  # against guessing texts by the sizes of packets: there is none


class ChatRequest(Asked):
    """The body of a request. mode, language and chat_template_kwargs are those of `mmlm.tasks.chat.chat`."""

    no_effect = (
        "user", "store", "metadata", "service_tier", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier",
    )  # fmt: skip
    not_yet = {
        "functions": [[]], "function_call": ["none", "auto"], "frequency_penalty": [0],
        "presence_penalty": [0], "logit_bias": [{}], "modalities": [["text"]], "audio": [], "prediction": [],
        "moderation": [], "verbosity": [], "web_search_options": [],
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
    mode: Mode = "transcript"
    language: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """ApiError for fields that contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options are for streams: send stream=true", "stream_options", "invalid_value")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs come with logprobs=true", "top_logprobs", "invalid_value")
        if self.temperature is not None and self.temperature < 1e-6 and (self.n or 1) > 1:
            message = "n answers at temperature 0 would all be the same: raise the temperature"
            raise ApiError(400, message, "n", "invalid_value")
        if self.response_format is not None and self.response_format.type != "text" and self.tools:
            message = (
                "response_format holds the whole answer to JSON, where no call of a tool could stand: leave one out"
            )
            raise ApiError(400, message, "response_format", "invalid_value")

    @property
    def limit(self) -> int | None:
        """The most tokens of thought and answer together."""
        return self.max_completion_tokens or self.max_tokens

    def options(self, most: int) -> GenerationOptions:
        """How to decode: the most likely tokens, unless temperature, top_p or n asks for samples."""
        sampled = (self.n or 1) > 1 or self.temperature is not None or self.top_p is not None
        if self.temperature is not None and self.temperature < 1e-6:
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
