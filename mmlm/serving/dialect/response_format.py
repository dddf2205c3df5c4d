"""Answers in JSON, in OpenAI's dialect."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class NamedSchema(BaseModel):
    """A schema as clients name it; an answer is always held to it, so that `strict` changes nothing."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    name: str
    json_schema: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The field `response_format` of a chat."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema comes with the type json_schema, and only then")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The schema that the answer is held to; None for text."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.json_schema
