"""Time how long Chromium takes to open a page of many records: python tests/page_speed.py [10000].

The page has the shipped results, repeated under other keys, with one record a row.
"""

import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from browser import Watched, chromium

from bench import page
from bench.page.collect import Content

ROOT = Path(__file__).resolve().parents[1]


def repeated(content: Content, count: int) -> Content:
    """The same rows and records again and again, under keys of their own."""
    ours = [row for row in content.rows if row["keys"]]
    records = {key: one for of in content.records.values() for key, one in of.items()}
    made: dict[str, dict] = {name: {} for name in content.records}
    rows = []
    for at in range(count):
        row = ours[at % len(ours)]
        key, name = f"{at:020d}", row["experiments"][0]
        rows.append(row | {"keys": [key], "line": f"{row['line']} {at // len(ours) or ''}"})
        made[name][key] = records[row["keys"][0]] | {"key": key}
    return replace(content, rows=rows, records=made)


def main(count: int) -> None:
    content = repeated(page.collect(ROOT / "results"), count)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        out = Path(folder) / "page.html"
        out.write_text(page.html(content, {}))
        took = []
        for _ in range(5):
            seen = Watched(browser, out.as_uri())
            took.append(int(seen.tab.get_attribute("html", "data-ready") or 0))
            seen.tab.close()
        print(f"{count} records, {out.stat().st_size / 1e6:.1f} MB: drawn after "
              f"{statistics.median(took)} ms (median of {sorted(took)})")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
