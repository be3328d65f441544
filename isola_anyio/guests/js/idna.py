"""IDNA: a domain's ASCII form for the guest, by the URL standard's "domain to ASCII". Pure.

The guest asks only for domains that are not ASCII, because the tables (UTS 46) would be larger than the rest of its
SDK. The mapping is that of the ``idna`` package, a dependency of anyio. The checks are those of the URL standard:
hyphens anywhere, labels of any length, bidirectional and joiner rules in force.
"""

from __future__ import annotations

__all__ = ["domain_to_ascii"]

import unicodedata
from typing import Final

import idna

_DOTS: Final = ("\u3002", "\uff0e", "\uff61")
_MAX_CHARS: Final = 1024
"""No domain is longer than 253; the rest is for characters that are mapped to nothing. A guess, and a bound on work:
checking a label takes time quadratic in its length."""
_JOINERS: Final = ("\u200c", "\u200d")


def domain_to_ascii(untrusted_domain: str) -> str | None:
    """Return the domain with its labels in punycode, or ``None`` when it is not a valid name."""
    if len(untrusted_domain) > _MAX_CHARS:
        return None
    try:
        mapped = idna.uts46_remap(untrusted_domain, std3_rules=False, transitional=False)
    except (idna.IDNAError, UnicodeError):
        return None
    for dot in _DOTS:
        mapped = mapped.replace(dot, ".")
    labels: list[str] = []
    texts: list[str] = []
    for label in mapped.split("."):
        text = label
        if label.startswith("xn--"):
            decoded = _decode(label)
            if decoded is None:
                return None
            text = decoded
        if not text.isascii() and not _valid(text):
            return None
        texts.append(text)
        labels.append(label if text.isascii() else "xn--" + text.encode("punycode").decode("ascii"))
    if any(_right_to_left(text) for text in texts) and not all(_bidi(text) for text in texts if text):
        return None
    return ".".join(labels)


def _decode(label: str) -> str | None:
    """Decode a punycode label; ``None`` when it is invalid, or its text would be encoded differently."""
    try:
        text = label[4:].encode("ascii").decode("punycode")
        if not text or text.isascii():
            return None
        if idna.uts46_remap(text, std3_rules=False, transitional=False) != text:
            return None
        if text.encode("punycode").decode("ascii") != label[4:]:
            return None
    except (idna.IDNAError, UnicodeError):
        return None
    return text


def _valid(text: str) -> bool:
    if unicodedata.normalize("NFC", text) != text or unicodedata.category(text[0]).startswith("M"):
        return False
    try:
        return all(c not in _JOINERS or idna.valid_contextj(text, at) for at, c in enumerate(text))
    except ValueError:
        return False


def _right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(c) in {"R", "AL", "AN"} for c in text)


def _bidi(text: str) -> bool:
    try:
        return idna.check_bidi(text, check_ltr=True)
    except idna.IDNAError:
        return False
