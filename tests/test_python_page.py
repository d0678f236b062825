"""docs/python.md does what it says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs/python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_page_runs_by_itself(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"docs/python.md block {number}", "exec"), {})
