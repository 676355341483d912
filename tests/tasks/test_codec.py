"""Values to JSON and back: what is refused at the door, and why."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given, strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    field_validator,
)

from concave import ConfigurationError
from concave.tasks.codec import CodecError, JsonCodec


class Color(Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: float
    y: float | None = None


class Email(BaseModel):
    user_id: int = Field(alias="userId")
    to: str
    tags: list[str] = []


class Measured(BaseModel):
    value: float
    other: float | None = None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_plain_json_comes_back_as_it_was(value: Any) -> None:
    codec = JsonCodec[Any](Any, "input")
    assert codec.decode(codec.encode_to_be_read(value)[1]) == value


@pytest.mark.parametrize(
    "value,plain",
    [
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"),
        (date(2026, 1, 1), "2026-01-01"),
        (timedelta(seconds=90), "PT1M30S"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        (Color.RED, "red"),
        (b"bytes", "bytes"),
        ((1, 2), [1, 2]),
        (Point(1.5), {"x": 1.5, "y": None}),
        (Email(userId=1, to="a"), {"userId": 1, "to": "a", "tags": []}),
        ({1: "x"}, {"1": "x"}),
        ("NaN and Infinity, said in words", "NaN and Infinity, said in words"),
    ],
)
def test_untyped_values_become_what_pydantic_makes_of_them(value: Any, plain: Any) -> None:
    codec = JsonCodec[Any](Any, "input")
    assert codec.decode(codec.encode_to_be_read({"value": value})[1]) == {"value": plain}


def cycle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep(levels: int = 100_000) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels - 1):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "make",
    [
        lambda: math.nan,
        lambda: math.inf,
        lambda: {"x": [-math.inf]},
        lambda: Point(math.nan),
        lambda: {"point": Point(0, math.inf)},
        lambda: [Measured(value=1, other=math.nan)],
        object,
        cycle,
        deep,
        lambda: b"\xff",
        lambda: "\udcff",
        lambda: {"\udcff": 1},
    ],
)
def test_what_json_cannot_hold_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(CodecError, match="JSON can't hold it"):
        JsonCodec[Any](Any, "input").encode(make())


@pytest.mark.parametrize("type_", [Any, list[Any]])
@pytest.mark.parametrize("beside", [[], ["[{" * 200], [[]] * 300])
def test_what_is_nested_too_deeply_to_be_read_is_not_written(type_: Any, beside: list[Any]) -> None:
    codec = JsonCodec[Any](type_, "input")
    for encode in (codec.encode, codec.encode_to_be_read):
        for levels in (2, 200, 201):  # an empty list at the bottom is none
            assert codec.decode(encode(deep(levels) + beside)[1]) == deep(levels) + beside
        for levels in (202, 254):
            with pytest.raises(CodecError, match="recursion limit"):
                encode(deep(levels) + beside)


class Boundless(BaseModel):
    bound: Annotated[int, PlainSerializer(lambda _: math.inf)]


class Ratio(BaseModel):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float:
        return math.inf


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    value: int | None = None


@pytest.mark.parametrize(
    "type_,value",
    [
        (float, math.nan),
        (list[float], [1.0, math.inf]),
        (Measured, Measured(value=math.nan)),
        (Measured, {"value": 1, "other": math.nan}),
        (Point, Point(1, -math.inf)),
        (dict[str, float | None], {"a": None, "b": math.nan}),
        (tuple[float, Any], (1.0, [math.inf])),
        (tuple[float, ...], (1.0, math.inf)),
        (dict[str, Any], {"inner": Measured(value=math.nan)}),
        (Annotated[int, PlainSerializer(lambda _: math.inf)], 1),
        (dict[str, Any], {"inner": Boundless(bound=1)}),
        (Any, {"inner": Ratio(), "nothing": None}),
        (Ratio, Ratio()),
        (Loose, Loose.model_validate({"extra": [math.inf]})),
    ],
)
def test_a_number_that_is_not_finite_is_refused_in_types_too_and_not_made_null(
    type_: Any, value: Any
) -> None:
    with pytest.raises(CodecError, match="not finite"):
        JsonCodec[Any](type_, "input").encode(value)


def test_null_itself_is_a_value() -> None:
    codec = JsonCodec[Any](dict[str, float | None], "input")
    assert codec.encode({"a": None, "b": 1.5})[1] == b'{"a":null,"b":1.5}'


def test_a_model_that_writes_them_as_text_may() -> None:
    class Lenient(BaseModel):
        model_config = ConfigDict(ser_json_inf_nan="strings")
        value: float
        other: None = None

    codec = JsonCodec[Lenient](Lenient, "input")
    _, data = codec.encode_to_be_read(Lenient(value=math.inf))
    assert codec.decode(data).value == math.inf


def test_models_take_dicts_and_instances_by_alias() -> None:
    codec = JsonCodec[Email](Email, "input")
    for value in ({"userId": "7", "to": "a"}, Email(userId=7, to="a")):
        checked, data = codec.encode_to_be_read(value)
        assert checked == Email(userId=7, to="a")
        assert data == b'{"userId":7,"to":"a","tags":[]}'
        assert codec.decode(data) == checked


@pytest.mark.parametrize(
    "value,told",
    [
        ({"user_id": 7, "to": "a"}, "userId: Field required"),
        ({"userId": "x"}, "userId: Input should be a valid integer.*; to: Field required"),
        (Measured(value=1), "Input should be a valid dictionary or instance of Email"),
        (Email.model_construct(user_id="x", to="a", tags=[]), "JSON can't hold it"),
        (None, "value: Input should be"),
    ],
)
def test_what_is_not_of_the_type_is_told_by_field(value: Any, told: str) -> None:
    with pytest.raises(CodecError, match=told):
        JsonCodec[Email](Email, "input").encode(value)


def test_what_is_told_does_not_quote_the_value() -> None:
    with pytest.raises(CodecError) as caught:
        JsonCodec[Email](Email, "input").encode({"userId": "my-secret", "to": "a"})
    assert "my-secret" not in str(caught.value)


def test_json_that_could_not_be_read_back_is_refused_where_it_is_written() -> None:
    class OneWay(BaseModel):
        user_id: int = Field(validation_alias="userId")

    class Pretty(BaseModel):
        at: Annotated[datetime, PlainSerializer(lambda at: f"at {at:%H}", return_type=str)]

    for type_, value in ((OneWay, {"userId": 1}), (Pretty, {"at": datetime(2026, 1, 1, tzinfo=UTC)})):
        codec = JsonCodec[Any](type_, "input")
        codec.encode(value)  # fit for a result, which no type reads
        with pytest.raises(CodecError, match="can't be read back"):
            codec.encode_to_be_read(value)


def test_a_secret_does_not_become_stars() -> None:
    class Login(BaseModel):
        password: SecretStr | None = None
        note: str = ""

    codec = JsonCodec[Login](Login, "input")
    with pytest.raises(CodecError, match="a secret is written as stars"):
        codec.encode_to_be_read({"password": "hunter2"})
    assert codec.encode_to_be_read({"note": "**********"})[0].note == "**********"


@dataclasses.dataclass
class Login:
    password: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    password: Any


@dataclasses.dataclass
class Masked(Login):
    login: Login = dataclasses.field(default_factory=lambda: Login(SecretStr("hunter2")))


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    kept: Any = None


@pytest.mark.parametrize("type_", [Any, dict, dict[str, Any], Mapping[str, object]])
def test_stars_are_no_secret_where_none_is(type_: Any) -> None:
    codec = JsonCodec[Any](type_, "input")
    mask = {"note": "**********", "at": datetime(2026, 1, 1, tzinfo=UTC)}
    assert codec.encode_to_be_read(mask) == (mask, b'{"note":"**********","at":"2026-01-01T00:00:00Z"}')
    for plain in (Color.RED, Point(1, 2), Measured(value=1), UUID(int=1), Decimal(1)):
        beside = {**mask, "beside": plain}
        assert codec.encode_to_be_read(beside)[0] == beside
    hidden: list[Any] = [
        {SecretStr("hunter2"): 1},
        Masked(Color.RED),
        Open.model_validate({"a": SecretStr("a")}),
    ]
    for secret in (SecretStr("hunter2"), SecretBytes(b"hunter2"), Secret[int](2)):
        hidden += [
            secret,
            [secret],
            deque([secret]),
            {"a": (Login(secret),)},
            Slotted(secret),
            Open(kept=secret),
        ]
    for value in hidden:
        with pytest.raises(CodecError, match="a secret is written as stars"):
            codec.encode_to_be_read({"login": value})


@pytest.mark.parametrize("type_", [dict, dict[str, Any]])
def test_an_object_of_anything_is_held_to_what_can_be_read(type_: Any) -> None:
    codec = JsonCodec[Any](type_, "input")
    bad: Any
    for bad in ([], "text", {"a": float("nan")}, {"a": object()}, {"a": deep(201)}):
        with pytest.raises(CodecError):
            codec.encode_to_be_read(bad)
    assert codec.decode(codec.encode_to_be_read({"a": deep(150)})[1]) == {"a": deep(150)}


def test_a_validator_may_raise_anything() -> None:
    class Broken(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def looks_up(cls, value: int) -> int:
            return {1: 1}[value]

    codec = JsonCodec[Broken](Broken, "input")
    assert codec.encode({"a": 1})[1] == b'{"a":1}'
    with pytest.raises(CodecError, match="KeyError: 2"):
        codec.encode({"a": 2})
    with pytest.raises(CodecError, match="KeyError: 2"):
        codec.decode(b'{"a": 2}')


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"userId": "x", "to": ""}', b"NaN"])
def test_bytes_that_are_not_of_the_type(data: bytes) -> None:
    with pytest.raises(CodecError):
        JsonCodec[Email](Email, "input").decode(data)


@pytest.mark.parametrize("type_", [Point, list[int], int | None, Annotated[str, Field(max_length=3)], None])
def test_any_type_that_pydantic_knows(type_: Any) -> None:
    for value in ({"x": 1}, [1], None, "abc"):
        try:
            checked, data = JsonCodec[Any](type_, "input").encode_to_be_read(value)
        except CodecError:
            continue
        assert JsonCodec[Any](type_, "input").decode(data) == checked


@pytest.mark.parametrize("type_", [object(), Callable[[], Any].__class__, int.__add__])
def test_a_type_that_pydantic_does_not_know(type_: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"task .t.: input: .* is not a type that Pydantic can check"
    ):
        JsonCodec[Any](type_, "task 't': input")


class Recursive(BaseModel):
    inner: "Missing"  # type: ignore[name-defined]  # pyright: ignore[reportUndefinedVariable]  # noqa: F821


def test_a_model_that_is_not_fully_defined_is_told_when_it_is_used() -> None:
    with pytest.raises(CodecError, match="not fully defined"):
        JsonCodec[Any](Recursive, "input").encode({"inner": 1})
