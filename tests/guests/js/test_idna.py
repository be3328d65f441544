"""Domains of other scripts become ASCII, in a time that a guest cannot stretch."""

from __future__ import annotations

import idna
import pytest

from isola_anyio.guests.js.idna import domain_to_ascii


@pytest.mark.parametrize(
    ("domain", "ascii_form"),
    [
        ("faß.de", "xn--fa-hia.de"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("☃.net", "xn--n3h.net"),
        ("a\u3002b", "a.b"),
        ("a\xadb", "ab"),
        ("\u0644\u064a\u0647", "xn--ghbgi"),
        ("-ä-", "xn-----via"),
        ("ab--ä", "xn--ab---ooa"),
        ("ä" * 300, "xn--" + ("ä" * 300).encode("punycode").decode()),
        ("xn--n3h.ä", "xn--n3h.xn--4ca"),
        ("xn--a.ä", None),
        ("xn--.ä", None),
        ("xn--a-yoc.ä", None),
        ("a\u200db.ä", None),
        ("\u0915\u094d\u200d\u0937", "xn--11b2ezcw70k"),
        ("\u0301a", None),
        ("\u05d0a\u05d0", None),
        ("a\u05d0", None),
        ("\ufdd0", None),
        ("ä" * 100_000, None),
        ("\ud800", None),
        ("bücher.example", "xn--bcher-kva.example"),
        ("\u00ad" * 500 + "bücher.example", "xn--bcher-kva.example"),
        ("ü" * 300 + ".example", "xn--" + ("ü" * 300).encode("punycode").decode() + ".example"),
        ("xn--a.example", None),
    ],
)
def test_a_domain_becomes_what_the_standard_says(domain: str, ascii_form: str | None) -> None:
    assert domain_to_ascii(domain) == ascii_form


@pytest.mark.parametrize("domain", ["ü" * 1025, "ü." * 600, "".join(map(chr, range(0x4E00, 0x4E00 + 8000)))])
def test_a_domain_longer_than_any_is_refused_before_it_is_mapped(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object, **_options: object) -> str:
        raise AssertionError("it was mapped")

    monkeypatch.setattr(idna, "uts46_remap", never)
    assert domain_to_ascii(domain) is None
