"""What a chat completion may ask for: OpenAI's fields, and evenhand's own beside them.

Knows the fields and which of them change nothing here. It does not know models or replies.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from evenhand.schemas.errors import UnsupportedSchema
from evenhand.schemas.generation import SEED_LIMIT, Sampling, StopString
from evenhand.schemas.requests import SAMPLES_LIMIT

MOST_TOKENS = 32_768  # a larger max_tokens is the same promise: at most as many as there is room
TOP_LOGPROBS = 20

# Any JSON object, down to lists and objects of plain values in it: a grammar has to end somewhere.
_PLAIN: list[dict[str, Any]] = [{"type": t} for t in ("string", "number", "boolean", "null")]
_VALUE: dict[str, Any] = {
    "anyOf": [
        *_PLAIN,
        {"type": "array", "items": {"anyOf": _PLAIN}},
        {"type": "object", "additionalProperties": {"anyOf": _PLAIN}},
    ]
}
ANY_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": _VALUE}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Part):
    """A piece of a message's text. Only text is taken: neither images nor sound."""

    type: Literal["text"]
    text: str


class RefusalPart(_Part):
    """A piece of an assistant's message in which it declined. To the judge it is text as any."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[TextPart | RefusalPart, Discriminator("type")]
# Told apart first, so that an error is about the form that was sent.
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Tag("parts")],
    Discriminator(lambda given: "parts" if isinstance(given, list) else "text"),
]


def _nothing(value: object) -> None:
    if value:
        raise ValueError("only text is taken here")


Nothing = Annotated[None, BeforeValidator(_nothing)]


class ChatMessage(BaseModel):
    """One message. `developer` is OpenAI's newer word for `system`; tools are not known here.

    Clients send back what they were sent, so fields of an answer may stand here and count nothing;
    but for those in which something is said that is no text.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    refusal: str | None = None
    tool_calls: Nothing = None
    function_call: Nothing = None
    audio: Nothing = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.refusal is None:
            raise ValueError("the message has no text; only text is taken here")
        return self

    @property
    def text(self) -> str:
        """The whole text; a message that only declines has it in `refusal`."""
        said = self.content
        if isinstance(said, list):
            said = "".join(p.text if isinstance(p, TextPart) else p.refusal for p in said)
        return said or self.refusal or ""


class JsonSchema(_Part):
    """A named schema. It is always enforced, whatever `strict` says."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(_Part):
    """Free text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type == "json_schema") is (self.json_schema is None):
            raise ValueError("`json_schema` goes with the type json_schema, and only with it")
        return self

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The schema that the answer has to match; None for free text."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return ANY_OBJECT if self.type == "json_object" else None


class StreamOptions(_Part):
    """`include_obfuscation` is OpenAI's padding against eavesdroppers: there is none here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


# Fields that may be sent and change no text here, since they are about OpenAI's own service.
_UNHEEDED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "parallel_tool_calls",
)  # fmt: skip
# Fields that would change the answer: taken where they ask for nothing, else refused.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
}


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`. Sampling fields left out take the service's defaults.

    `top_k`, `min_p` and `repeat_penalty` are llama.cpp's, `reason` asks a judge for a reason.
    `user`, `metadata`, `store` and other fields about OpenAI's own service are taken and change
    nothing; penalties, biases and tools only where they ask for nothing. Others are refused.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=SAMPLES_LIMIT)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reason: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_the_rest(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if value is not None and name not in _UNHEEDED and value not in _NEUTRAL.get(name, ()):
                kept[name] = value
        return kept

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs", True):
            raise ValueError("it goes with `logprobs: true`")
        return value

    def wanted_schema(self) -> dict[str, Any] | None:
        """The schema that the answer has to match; None for free text.

        Raises `UnsupportedSchema` for one that does not describe an object.
        """
        found = self.response_format.wanted if self.response_format is not None else None
        if found is not None and _root(found).get("type") != "object":
            raise UnsupportedSchema(
                "the schema in response_format does not describe an object",
                hint='Begin it with "type": "object", as OpenAI asks for; put a list or a text '
                "into a property.",
            )
        return found

    def sampling(self) -> Sampling:
        """The sampling settings. Any seed is taken: those beyond 32 bits are folded into them."""
        asked = self.max_completion_tokens or self.max_tokens
        given = {
            "max_tokens": None if asked is None else min(asked, MOST_TOKENS),
            "seed": None if self.seed is None else self.seed % SEED_LIMIT,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
            **self.model_dump(include={"temperature", "top_p", "top_k", "min_p", "repeat_penalty"}),
        }
        return Sampling.model_validate({k: v for k, v in given.items() if v is not None})


def _root(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the definition that it is nothing but a reference to."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    found = schema.get("$defs", {}).get(name, schema) if "$ref" in schema else schema
    return found if isinstance(found, dict) else {}
