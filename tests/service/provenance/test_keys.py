import contextlib
import os
import stat
import threading
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from service.errors import SigningKeyError
from service.provenance.keys import Keyring, key_id_of, open_keyring, read_public_keys


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = open_keyring(tmp_path / "data")
    file = tmp_path / "data" / "signing_key.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = open_keyring(tmp_path / "data")
    assert again.active_id == first.active_id
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "signing_key.pem", "public_keys",
    }  # fmt: skip


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    rings: list[Keyring] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        rings.append(open_keyring(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rings) == 8
    assert len({ring.active_id for ring in rings}) == 1


def test_a_rotated_key_stays_listed(tmp_path: Path) -> None:
    old = open_keyring(tmp_path)
    (tmp_path / "signing_key.pem").unlink()
    new = open_keyring(tmp_path)
    assert new.active_id != old.active_id
    assert set(new.public) == {old.active_id, new.active_id}
    keys = new.to_jwks()["keys"]
    assert [key["active"] for key in keys] == [True, False]
    assert keys[0]["kid"] == new.active_id


def test_the_id_is_the_rfc_8037_thumbprint() -> None:
    # RFC 8037, appendix A.3.
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    key = Ed25519PublicKey.from_public_bytes(raw)
    assert key_id_of(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_public_keys_are_read_as_served_and_as_pem(tmp_path: Path) -> None:
    ring = open_keyring(tmp_path / "data")
    served = tmp_path / "keys.json"
    served.write_bytes(orjson.dumps(ring.to_jwks()))
    pem = tmp_path / "key.pem"
    pem.write_bytes(
        ring.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for path in (served, pem, tmp_path / "data" / "public_keys"):
        assert set(read_public_keys(path)) == {ring.active_id}
    # An id is computed: a key under another's id is not found by it.
    forged = ring.to_jwks()
    forged["keys"][0]["x"] = forged["keys"][0]["x"][::-1]
    served.write_bytes(orjson.dumps(forged))
    with contextlib.suppress(SigningKeyError):  # or it is no point of the curve at all
        assert ring.active_id not in read_public_keys(served)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"keys": [{}]}', b"[]", b"-----BEGIN X-----"])
def test_other_files_are_no_public_keys(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "keys").write_bytes(data)
    with pytest.raises(SigningKeyError):
        read_public_keys(tmp_path / "keys")


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    open_keyring(tmp_path)
    (tmp_path / "signing_key.pem").chmod(0o644)
    with pytest.raises(SigningKeyError, match="chmod 600"):
        open_keyring(tmp_path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    key = generate_private_key(SECP256R1())
    other.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    other.chmod(0o600)
    with pytest.raises(SigningKeyError, match="Ed25519"):
        open_keyring(tmp_path / "data", other)
    other.write_text("nothing")
    with pytest.raises(SigningKeyError, match="no unencrypted PEM"):
        open_keyring(tmp_path / "data", other)


def test_a_key_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match=r"nowhere\.pem"):
        open_keyring(tmp_path / "data", tmp_path / "nowhere.pem")


def test_a_key_from_elsewhere_signs(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    file = tmp_path / "mine.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o400)
    ring = open_keyring(tmp_path / "data", file)
    assert ring.active_id == key_id_of(key.public_key())
    assert not (tmp_path / "data" / "signing_key.pem").exists()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SigningKeyError, match="KARYON_DATA_DIR"):
        open_keyring(tmp_path / "file" / "data")
