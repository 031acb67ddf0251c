"""sweeps/README.md names the files that there are."""

import re

from tests.sweep_helpers import ROOT


def test_the_table_of_files_names_each_file_of_the_folder_once():
    table = (ROOT / "sweeps" / "README.md").read_text().partition("| files | what |")[2]
    rows = re.findall(r"^\| (`.*`) \|", table, re.MULTILINE)
    named = sorted(name for row in rows for name in re.findall("`([a-z_]+)`", row))
    there = sorted(path.stem for path in (ROOT / "sweeps" / "local").glob("*.py") if path.stem != "__init__")
    assert named == there
