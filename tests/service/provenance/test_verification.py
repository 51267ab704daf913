"""A signed result holds, and no field of it or of its statement can be changed unseen."""

import base64
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from service.app import create_app
from service.provenance.keys import Keyring, PublicKey, open_keyring, read_public_keys
from service.provenance.statement import recorded_labels
from service.provenance.verification import (
    MalformedResultError,
    is_verified,
    read_result,
    verify_result,
)
from service.settings import Settings

Keys = dict[str, PublicKey]


@pytest.fixture(scope="module")
def image(test_data: Path) -> bytes:
    return (test_data / "images" / "nucls_test_1.png").read_bytes()


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return open_keyring(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def served(
    tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory, image: bytes
) -> tuple[bytes, Keys]:
    """A real answer with all its parts, and the keys that its service publishes."""
    data_dir = tmp_path_factory.mktemp("served")
    options = Settings(
        models_dir=tiny_models_dir, default_model="tiny", provider="cpu", threads=1,
        data_dir=data_dir,
    )  # fmt: skip
    with TestClient(create_app(options)) as client:
        parameters = {"include": "nuclei,mask", "mask_encoding": "rle", "accession": "S26-1"}
        answer = client.post("/segment", params=parameters, files={"image": ("x.png", image)})
        assert answer.status_code == 200
        published = client.get("/.well-known/karyon-keys.json")
        assert published.status_code == 200
        (data_dir / "published.json").write_bytes(published.content)
    return answer.content, read_public_keys(data_dir / "published.json")


def outcomes(document: Any, keys: Keys, **options: Any) -> dict[str, str]:
    return {check.name: check.outcome for check in verify_result(document, keys, **options)}


def test_a_real_answer_verifies_with_its_image(served: tuple[bytes, Keys], image: bytes) -> None:
    data, keys = served
    assert outcomes(read_result(data), keys, image=image) == {
        "signature": "passed", "figures": "passed", "result": "passed", "nuclei": "passed",
        "mask": "passed", "image": "passed", "pixels": "passed",
    }  # fmt: skip
    assert outcomes(read_result(data), keys)["image"] == "not checked"


def test_another_writer_changes_nothing(served: tuple[bytes, Keys]) -> None:
    data, keys = served

    def whole(value: Any) -> Any:
        """Write as JavaScript does: 345.0 becomes 345; members in another order."""
        if isinstance(value, dict):
            return {name: whole(value[name]) for name in sorted(value, reverse=True)}
        if isinstance(value, list):
            return [whole(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    rewritten = orjson.dumps(whole(orjson.loads(data)), option=orjson.OPT_INDENT_2)
    assert rewritten != data
    assert is_verified(verify_result(read_result(rewritten), keys))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, containers included."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, member in value.items():
            yield from leaves(member, (*path, name))
    if isinstance(value, list):
        # Long lists hold equals: their ends and middle stand for all.
        for index in sorted({0, len(value) // 2, len(value) - 1} if value else set()):
            yield from leaves(value[index], (*path, index))


OTHER = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.just([]), st.just({}),
)  # fmt: skip


def tamper(document: dict[str, Any], path: tuple[Any, ...], data: st.DataObject) -> None:
    """Change, remove or add at one place."""
    holder: Any = document
    for step in path[:-1]:
        holder = holder[step]
    present = holder[path[-1]]
    deed = data.draw(st.sampled_from(["change", "remove", "add"]))
    if deed == "remove":
        del holder[path[-1]]
    elif deed == "add" and isinstance(holder, dict):
        holder["added"] = data.draw(OTHER)
    elif deed == "add":
        holder.append(data.draw(OTHER))
    else:
        # Python takes True for 1; JSON does not.
        holder[path[-1]] = data.draw(
            OTHER.filter(
                lambda other: json.dumps(other) != json.dumps(present) and other != present
            )
        )


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_change_of_a_result_is_found(served: tuple[bytes, Keys], data: st.DataObject) -> None:
    original, keys = served
    document = read_result(original)
    path = data.draw(st.sampled_from(list(leaves(document))))
    tamper(document, path, data)
    assert not is_verified(verify_result(document, keys)), path


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_change_of_the_statement_is_found(
    served: tuple[bytes, Keys], data: st.DataObject
) -> None:
    original, keys = served
    document = read_result(original)
    statement = orjson.loads(base64.b64decode(document["provenance"]["payload"]))
    path = data.draw(st.sampled_from(list(leaves(statement))))
    tamper(statement, path, data)
    document["provenance"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    assert not is_verified(verify_result(document, keys)), path


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_statement_about_another_result_does_not_hold(
    served: tuple[bytes, Keys], keyring: Keyring, data: st.DataObject
) -> None:
    """Even the right key's signature, on anything but this document, verifies nothing."""
    document = keyring.amend(read_result(served[0]))
    keys = dict(keyring.public)
    assert is_verified(verify_result(document, keys))
    bare = {name: member for name, member in document.items() if name != "provenance"}
    path = data.draw(st.sampled_from(list(leaves(bare))))
    changed = copy.deepcopy(document)
    tamper(changed, path, data)
    assert not is_verified(verify_result(changed, keys)), path


def test_another_image_is_found(served: tuple[bytes, Keys], test_data: Path) -> None:
    data, keys = served
    other = (test_data / "images" / "nucls_test_2.png").read_bytes()
    found = outcomes(read_result(data), keys, image=other)
    assert (found["image"], found["pixels"]) == ("failed", "failed")
    assert outcomes(read_result(data), keys, image=b"nothing")["pixels"] == "failed"


def test_parts_may_be_missing_only_where_that_is_said(served: tuple[bytes, Keys]) -> None:
    data, keys = served
    document = read_result(data)
    del document["nuclei"], document["mask"]
    assert not is_verified(verify_result(document, keys))
    partial = verify_result(document, keys, partial=True)
    assert is_verified(partial)
    assert {check.name: check.outcome for check in partial}["nuclei"] == "not checked"


def test_keys_of_others_and_unsigned_results_do_not_verify(
    served: tuple[bytes, Keys], keyring: Keyring
) -> None:
    data, _ = served
    document = read_result(data)
    assert outcomes(document, dict(keyring.public)) == {"signature": "failed"}
    del document["provenance"]
    assert outcomes(document, dict(keyring.public)) == {"signature": "failed"}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"\xff", b'{"count": 1, "count": 2}', b'{"count": NaN}', b"[" * 100_000]
)
def test_what_is_no_result_is_said_so(data: bytes) -> None:
    with pytest.raises(MalformedResultError):
        read_result(data)


def test_an_amended_result_is_signed_anew(served: tuple[bytes, Keys], keyring: Keyring) -> None:
    amended = {**read_result(served[0]), "status": "corrected", "count": 7}
    signed = keyring.amend(amended)
    assert is_verified(verify_result(signed, dict(keyring.public)))
    assert recorded_labels(signed) == recorded_labels(amended) is not None
    del amended["provenance"]
    with pytest.raises(ValueError, match="no statement"):
        keyring.amend(amended)
