"""Puts the figures of a benchmark into docs/performance.md.

    python benchmarks/page.py benchmarks/results/DATE-KIND.json ...

Later files win: where both have a figure, that of the last one stands.
"""

import argparse
import json
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/performance.md"
PLACE = re.compile(r"(<!-- figures -->\n).*(<!-- end of figures -->)", re.DOTALL)


def table(results: list[dict]) -> str:
    """The figures as a table in Markdown, under what they were measured with."""
    rows = {row["what"]: row for result in results for row in result["rows"]}
    facts = {name: value for result in results for name, value in result.items() if name != "rows"}
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    lines += ["| what | measured | asked |", "| --- | --- | --- |"]
    for row in rows.values():
        verdict = "" if row["met"] else ": not met"
        lines.append(f"| {row['what']} | {row['figure']} | {row['aim']}{verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    asked = parser.parse_args()
    made = table([json.loads(file.read_text()) for file in asked.results])
    text = PAGE.read_text()
    assert PLACE.search(text), f"{PAGE} has no place for figures"
    PAGE.write_text(PLACE.sub(lambda found: found[1] + made + found[2], text))


if __name__ == "__main__":
    main()
