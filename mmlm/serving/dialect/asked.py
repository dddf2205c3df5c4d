"""What requests ask for, checked: fields of the dialect, those without effect, and those that are not here yet."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, ClassVar, Self, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import FormData, UploadFile

from mmlm.serving.errors import ApiError, not_yet

A = TypeVar("A", bound="Asked")

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
LEAST = 1e-6  # temperature; one below it counts as 0
DEEPEST = 128  # levels of lists and objects in a body: what reads them calls itself for each

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


class Asked(BaseModel):
    """The body of a request. Fields beyond those that are declared are looked up in two tables.

    no_effect: fields of OpenAI's that change nothing here. not_yet: fields of OpenAI's that would, and the values with
    which they do not.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    no_effect: ClassVar[Collection[str]] = ()
    not_yet: ClassVar[Mapping[str, Sequence[Any]]] = {}

    model: str

    @model_validator(mode="before")
    @classmethod
    def _not_too_deep(cls, given: Any) -> Any:
        level, depth = [given], 0
        while level := [inner for one in level for inner in _within(one) if isinstance(inner, dict | list)]:
            depth += 1
            if depth > DEEPEST:
                raise ApiError(400, f"the body is nested in more than {DEEPEST} levels", code="invalid_body")
        return given

    @model_validator(mode="after")
    def _only_known(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name in self.not_yet:
                if value is not None and value not in self.not_yet[name]:
                    raise not_yet(name, name)
            elif name not in self.no_effect:
                known = [*type(self).model_fields, *self.no_effect, *self.not_yet]
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ApiError(400, f"unknown field {name[:80]!r}{hint}", name[:80], "unknown_field")
        return self


def _within(value: Any) -> Iterable[Any]:
    """The values that a value of JSON holds."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def wrong_field(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's errors, without the value that was given."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    field = place[0] if place else None
    if first["type"] == "missing" and field is not None:
        return ApiError(400, f"the field {field!r} is missing", field, "missing_field")
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is no JSON", code="invalid_json")
    if field is None:
        return ApiError(400, "the body is a JSON object, sent as Content-Type: application/json", code="invalid_body")
    return ApiError(400, f"{'.'.join(place)}: {first['msg']}", field, "invalid_value")


@asynccontextmanager
async def form_of(request: Request):  # noqa: ANN201
    """The form of a request as a mapping, its files open in this context. ApiError for what is no form."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "the body is a form, sent as multipart/form-data", code="invalid_body")
    async with request.form(max_files=32, max_fields=128, max_part_size=1 << 20) as form:
        yield form


def from_form(
    kind: type[A], form: FormData, known: Collection[str], lists: Collection[str] = ()
) -> tuple[A, dict[str, list[UploadFile]]]:
    """What a form asks for, and its files by field. known: fields that are files.

    Fields of `lists` may come several times, also as `name[]`.
    """
    values: dict[str, Any] = {}
    files: dict[str, list[UploadFile]] = {}
    for key, value in form.multi_items():
        name = key.removesuffix("[]")
        if isinstance(value, UploadFile):
            if name not in known:
                raise ApiError(400, f"{name[:80]!r}: no file is taken in this field", name[:80], "unknown_field")
            files.setdefault(name, []).append(value)
        elif name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise ApiError(400, f"the field {name[:80]!r} is given twice", name[:80], "invalid_value")
        else:
            values[key] = value
    try:
        return kind.model_validate(values), files
    except ValidationError as error:
        raise wrong_field(error.errors(include_url=False, include_input=False, include_context=False)) from None


async def one_file(files: dict[str, list[UploadFile]], name: str) -> bytes:
    """The one file of a field."""
    given = files.get(name, [])
    if not given:
        raise ApiError(400, f"the file {name!r} is missing", name, "missing_field")
    if len(given) > 1:
        raise ApiError(400, f"{name}: one file is taken, not {len(given)}", name, "invalid_value")
    return await given[0].read()
