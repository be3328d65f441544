"""URL and URLSearchParams against the web platform's own data, all cases of it in one sandbox.

Not covered: nothing of the data is left out. Names that need IDNA are mapped by the host, with the ``idna`` package's
version of Unicode's tables.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from isola_anyio import SandboxTemplate

CHECK = r"""
const names = ["href", "origin", "protocol", "username", "password", "host", "hostname", "port", "pathname", "search", "hash"];
function parsing(cases) {
  const bad = [];
  for (const c of cases) {
    let url;
    try {
      url = c.base === null || c.base === undefined ? new URL(c.input) : new URL(c.input, c.base);
    } catch (error) {
      if (!c.failure || !(error instanceof TypeError)) bad.push([c.input, c.base, String(error)]);
      continue;
    }
    if (c.failure) { bad.push([c.input, c.base, "parsed as " + url.href]); continue; }
    for (const n of names) if (n in c && url[n] !== c[n]) bad.push([c.input, c.base, n, url[n], c[n]]);
    if ("searchParams" in c && String(url.searchParams) !== c.searchParams) bad.push([c.input, "searchParams", String(url.searchParams)]);
    if (new URL(url.href).href !== url.href) bad.push([c.input, "not idempotent", url.href]);
    if (!URL.canParse(c.input, c.base ?? undefined)) bad.push([c.input, "canParse"]);
  }
  return bad;
}
function setting(all) {
  const bad = [];
  for (const [name, cases] of all) for (const c of cases) {
    const url = new URL(c.href);
    url[name] = c.new_value;
    for (const n in c.expected) if (url[n] !== c.expected[n]) bad.push([name, c.href, c.new_value, n, url[n], c.expected[n]]);
  }
  return bad;
}
"""


def load(name: str) -> Any:
    given = os.environ.get("ISOLA_TEST_DATA")
    folders = [Path(given)] if given else [parent / "shared" / "data" for parent in Path(__file__).resolve().parents]
    for folder in folders:
        if folder.joinpath(name).is_file():
            return json.loads(folder.joinpath(name).read_text("utf-8"))
    pytest.skip(f"{name} is not here; name its directory in ISOLA_TEST_DATA")


@pytest.mark.slow
async def test_every_case_of_urltestdata_parses_as_the_standard_says(template: SandboxTemplate) -> None:
    cases: list[Any] = [case for case in load("urltestdata.json") if isinstance(case, dict)]
    assert len(cases) > 800
    async with template.create() as sandbox:
        await sandbox.load_script(CHECK)
        assert await sandbox.run("parsing", cases) == []


async def test_every_case_of_url_setters_tests_sets_as_the_standard_says(template: SandboxTemplate) -> None:
    cases = [[name, tests] for name, tests in load("url_setters_tests.json").items() if name != "comment"]
    assert sum(len(tests) for _, tests in cases) > 250
    async with template.create() as sandbox:
        await sandbox.load_script(CHECK)
        assert await sandbox.run("setting", cases) == []
