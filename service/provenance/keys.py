"""The key that signs results, and every public key that ever did.

    <data_dir>/signing_key.pem            PKCS #8, mode 0600, made at the first start
    <data_dir>/public_keys/<key id>.json  one JSON Web Key each, never changed or removed

A key's id is its RFC 7638 thumbprint (SHA-256, RFC 8037 for Ed25519), so it cannot be given to
another key. To rotate, replace the private key and restart: the old public key stays listed, and
what it signed stays verifiable. Files are only ever created whole, so that processes that start at
once over one folder agree on one key.
"""

import base64
import datetime as dt
import hashlib
import os
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from service.errors import SigningKeyError
from service.provenance.envelope import seal
from service.provenance.statement import library_versions, make_statement, recorded_labels

KEY_FILE: Final = "signing_key.pem"
PUBLIC_KEYS_FOLDER: Final = "public_keys"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of this service.

    Attributes:
        key_id: RFC 7638 thumbprint.
        key: The key.
        created_utc: When it was first seen here, ISO 8601; None for one read from a PEM file.
    """

    key_id: str
    key: Ed25519PublicKey
    created_utc: str | None

    def to_jwk(self) -> dict[str, Any]:
        """Return the key as a JSON Web Key (RFC 7517, RFC 8037)."""
        jwk = {**_essential_jwk(self.key), "kid": self.key_id, "alg": "EdDSA", "use": "sig"}
        return jwk | ({} if self.created_utc is None else {"created_utc": self.created_utc})


@dataclass(frozen=True, slots=True)
class Keyring:
    """The signing key in use and all public keys.

    Attributes:
        private: The key that signs.
        active_id: Its id.
        public: Every key, by id, the active one included.
    """

    private: Ed25519PrivateKey
    active_id: str
    public: Mapping[str, PublicKey]

    def sign(self, document: Mapping[str, Any], *, labels_sha256: str) -> dict[str, Any]:
        """Return the signed statement about a result.

        Args:
            document: The JSON answer, complete but for `provenance`.
            labels_sha256: Digest of its labels (`service.outputs.digests`).
        """
        statement = make_statement(
            document, labels_sha256=labels_sha256, libraries=library_versions()
        )
        return seal(statement, self.private, self.active_id)

    def amend(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return an amended result with a statement about its present state.

        Args:
            document: The result with `provenance` of its earlier state, whose labels it keeps.

        Raises:
            ValueError: It carries no statement of this service.
        """
        labels_sha256 = recorded_labels(document)
        if labels_sha256 is None:
            raise ValueError("the result carries no statement to amend")
        bare = {name: member for name, member in document.items() if name != "provenance"}
        return {**bare, "provenance": self.sign(bare, labels_sha256=labels_sha256)}

    def to_jwks(self) -> dict[str, Any]:
        """Return the public keys as a JSON Web Key Set, the active one first."""
        ordered = sorted(
            self.public.values(), key=lambda item: (item.key_id != self.active_id, item.key_id)
        )
        return {"keys": [{**item.to_jwk(), "active": item is ordered[0]} for item in ordered]}


def open_keyring(data_dir: Path, signing_key: Path | None = None) -> Keyring:
    """Load the signing key, made where there is none, and the public keys beside it. Blocking.

    Args:
        data_dir: Folder of the service's own data; made where missing.
        signing_key: A PEM file elsewhere, which must be there; default `data_dir/signing_key.pem`.

    Raises:
        SigningKeyError: The folder cannot be written, or a file is no Ed25519 key, or others may
            read the private key.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        path = signing_key or data_dir / KEY_FILE
        if signing_key is None and not path.exists():
            _create_private_key(path)
        private = _load_private_key(path)
        folder = data_dir / PUBLIC_KEYS_FOLDER
        folder.mkdir(exist_ok=True)
        active = private.public_key()
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        jwk = PublicKey(key_id_of(active), active, now).to_jwk()
        _create_once(folder / f"{jwk['kid']}.json", orjson.dumps(jwk), mode=0o644)
        public = read_public_keys(folder)
    except OSError as error:
        raise SigningKeyError(
            f"The signing key cannot be kept: {error.strerror} ({error.filename}). Set"
            " KARYON_DATA_DIR to a folder that this process may write."
        ) from error
    return Keyring(private, key_id_of(active), public)


def check_keyring(data_dir: Path, signing_key: Path | None = None) -> None:
    """Check what `open_keyring` would find, and make nothing.

    Raises:
        SigningKeyError: As there.
    """
    path = signing_key or data_dir / KEY_FILE
    folder = next(parent for parent in (data_dir, *data_dir.absolute().parents) if parent.exists())
    try:
        if signing_key is not None or path.exists():
            _load_private_key(path)
    except OSError as error:
        raise SigningKeyError(f"{path.name} cannot be read: {error.strerror}.") from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise SigningKeyError(
            f"{folder} is no folder that this process may write. Set KARYON_DATA_DIR to one."
        )


def key_id_of(key: Ed25519PublicKey) -> str:
    """Return the RFC 7638 thumbprint of a key."""
    digest = hashlib.sha256(orjson.dumps(_essential_jwk(key), option=orjson.OPT_SORT_KEYS))
    return _base64url(digest.digest())


def read_public_keys(path: Path) -> dict[str, PublicKey]:
    """Read public keys, by their ids, which are computed and not believed.

    Args:
        path: A folder of JSON Web Keys, a JSON Web Key Set as served, one JSON Web Key, or a PEM
            file of a public key.

    Raises:
        SigningKeyError: A file is none of these.
        OSError: It cannot be read.
    """
    if path.is_dir():
        found: dict[str, PublicKey] = {}
        for file in sorted(path.glob("*.json")):
            found |= read_public_keys(file)
        return found
    data = path.read_bytes()
    try:
        if data.lstrip().startswith(b"-----"):
            key = load_pem_public_key(data)
            if not isinstance(key, Ed25519PublicKey):
                raise SigningKeyError(f"{path.name} holds no Ed25519 key.")
            return {key_id_of(key): PublicKey(key_id_of(key), key, None)}
        document = orjson.loads(data)
        keys = [_from_jwk(jwk) for jwk in document.get("keys", [document])]
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path.name} holds no public key that is read here.") from error
    return {key.key_id: key for key in keys}


def _from_jwk(jwk: Mapping[str, Any]) -> PublicKey:
    if (jwk["kty"], jwk["crv"]) != ("OKP", "Ed25519"):
        raise ValueError("not an Ed25519 key")
    text = jwk["x"]
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    key = Ed25519PublicKey.from_public_bytes(raw)
    return PublicKey(key_id_of(key), key, jwk.get("created_utc"))


def _essential_jwk(key: Ed25519PublicKey) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(key.public_bytes_raw())}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _create_private_key(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    _create_once(path, pem, mode=0o600)


def _create_once(path: Path, data: bytes, *, mode: int) -> None:
    """Create a file whole, or leave the one that is there: the first of several wins."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the name is taken; a rename would replace another process's key.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink(missing_ok=True)


def _load_private_key(path: Path) -> Ed25519PrivateKey:
    # Windows has no such bits.
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o027:
        raise SigningKeyError(
            f"{path.name} may be read by others than its owner, or written by its group; `chmod 600"
            f" {path.name}`, or defaultMode 0400 of a mounted secret."
        )
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path.name} is no unencrypted PEM private key.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(
            f"{path.name} is no Ed25519 key; `openssl genpkey -algorithm ed25519` makes one."
        )
    return key
