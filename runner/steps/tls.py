"""TLS for `verify`: what is trusted, what is presented, and in plain words why a connection cannot be secured."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from runner.errors import StepFailed

if TYPE_CHECKING:
    import socket

_CLIENT_HINT: Final = "present one: tls: {cert: client.pem, key: client-key.pem}"
_CA_HINT: Final = "name the file with the authority's certificate: tls: {ca: ca.pem}; insecure: true trusts anybody"

# OpenSSL's words for what the other side said or did: (what it means, what to do). `{place}` is host:port.
_PLAIN: Final = ("{place} does not speak TLS", "write http:// instead of https://, or name the port that speaks TLS")
_REFUSED_CERTIFICATE: Final = ("{place} does not accept the client certificate ({words})", "is it of the right CA?")
_SAID: Final[Mapping[str, tuple[str, str]]] = {
    "WRONG_VERSION_NUMBER": _PLAIN,
    "HTTP_REQUEST": _PLAIN,
    "PACKET_LENGTH_TOO_LONG": _PLAIN,
    "RECORD_LAYER_FAILURE": _PLAIN,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": ("{place} wants a client certificate", _CLIENT_HINT),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "{place} refuses the TLS handshake; it may want a client certificate",
        _CLIENT_HINT,
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSED_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _REFUSED_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _REFUSED_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSED_CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _REFUSED_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": _REFUSED_CERTIFICATE,
    "TLSV1_ALERT_ACCESS_DENIED": _REFUSED_CERTIFICATE,
    "TLSV1_ALERT_DECRYPT_ERROR": _REFUSED_CERTIFICATE,
    "TLSV1_UNRECOGNIZED_NAME": (
        "{place} serves no such name",
        "write the name that it serves: tls: {{server_name: …}}",
    ),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("{place} and this machine share no version of TLS", "TLS 1.2 is the oldest here"),
    "UNSUPPORTED_PROTOCOL": ("{place} and this machine share no version of TLS", "TLS 1.2 is the oldest here"),
}
# OpenSSL's verify codes.
_NOT_YET, _EXPIRED, _SELF_SIGNED = 9, 10, 18
_UNKNOWN_ISSUER: Final = frozenset({2, 19, 20, 21})
_OTHER_NAME: Final = frozenset({62, 64})


class Security(msgspec.Struct, frozen=True):
    """How to secure a connection. Paths are absolute; empty ones stand for what the system trusts, and no client
    certificate. `server_name` is the name to ask for and to find in the certificate, when it is not the URL's.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""
    insecure: bool = False

    def context(self, *, any_name: bool = False) -> ssl.SSLContext:
        """What Python's `ssl` needs. Reading what the system trusts takes 10 ms: make it once. Raises `StepFailed`."""
        try:
            made = ssl.create_default_context(cafile=self.ca or None)
        except OSError as error:
            raise _unreadable("ca", self.ca, error) from None
        made.check_hostname = not (any_name or self.insecure)
        if self.insecure:
            made.verify_mode = ssl.CERT_NONE
        if self.cert:
            try:
                made.load_cert_chain(self.cert, self.key or None, str)  # no password: never ask for one
            except OSError as error:
                raise self._not_presentable(error) from None
        return made

    def _not_presentable(self, error: OSError) -> StepFailed:
        """Why the client certificate cannot be used, and whether that is its own fault or the key's."""
        key = ("key", self.key) if self.key else ("cert", self.cert)
        try:
            if "ENCRYPTED" in Path(key[1]).read_text(errors="replace"):
                words = "it is protected by a password"
                hint = "decrypt it in a `run` step before: openssl pkey -in key.pem -out plain.pem"
                return StepFailed(f"`tls.{key[0]}`: {key[1]} cannot be used: {words}", hint=hint, reason="tls")
        except OSError as missing:
            return _unreadable(*key, missing)
        return _unreadable("cert", self.cert, error)

    def name_for(self, host: str) -> str:
        return self.server_name or host


def shake_hands(end: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    """The secured connection, its handshake still to be done: whoever does it can then cut it off."""
    return context.wrap_socket(end, server_hostname=name, do_handshake_on_connect=False)


def refusal(error: ssl.SSLError, place: str, name: str, names: Callable[[], tuple[str, ...]]) -> StepFailed | None:
    """The failure that asking again cannot cure, or None. `names` finds out what the certificate is for."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message, hint = _distrust(error, place, name, names)
        return StepFailed(message, hint=hint, reason="tls")
    if said := _SAID.get(error.reason or ""):
        message, hint = said
        words = (error.reason or "").rpartition("ALERT_")[2].replace("_", " ").lower()
        return StepFailed(message.format(place=place, words=words), hint=hint, reason="tls")
    return None


def names_in(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a certificate (as `getpeercert` answers it) is for."""
    alternative = tuple(name for _, name in certificate.get("subjectAltName", ()))
    subject = (value for part in certificate.get("subject", ()) for key, value in part if key == "commonName")
    return alternative or tuple(subject)


def _distrust(
    error: ssl.SSLCertVerificationError, place: str, name: str, names: Callable[[], tuple[str, ...]]
) -> tuple[str, str]:
    code = error.verify_code
    if code in _OTHER_NAME:
        found = names()
        known = f"; it is for {', '.join(found)}" if found else ""
        hint = f"check for that name: tls: {{server_name: {found[0].replace('*', 'www')}}}" if found else ""
        return f"the certificate of {place} is not for {name}{known}", hint
    if code == _SELF_SIGNED:
        return f"the certificate of {place} is signed by nobody but itself", _CA_HINT.replace("authority", "server")
    if code in _UNKNOWN_ISSUER:
        return f"the certificate of {place} is signed by an authority that is not trusted here", _CA_HINT
    if code == _EXPIRED:
        return f"the certificate of {place} has expired", "renew it on the server"
    if code == _NOT_YET:
        return f"the certificate of {place} is not valid yet", "compare the clocks of the server and of this machine"
    return f"the certificate of {place} is not accepted: {error.verify_message}", ""


def _unreadable(key: str, file: str, error: OSError) -> StepFailed:
    """Why a file that `tls` names cannot be used."""
    reason = getattr(error, "reason", "") or ""
    if "MISMATCH" in reason:
        return StepFailed("the key in `tls` does not belong to the certificate", reason="tls")
    words = error.strerror or str(error) if not isinstance(error, ssl.SSLError) else _PEM.get(reason, str(error))
    return StepFailed(f"`tls.{key}`: {file} cannot be used: {words}", hint="it must be a PEM file", reason="tls")


_PEM: Final[Mapping[str, str]] = {
    "NO_START_LINE": "there is no PEM block in it",
    "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in it",
    "BAD_BASE64_DECODE": "its PEM block is damaged",
}
