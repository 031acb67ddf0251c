"""Text files are UTF-8 whatever the machine's locale: every read and write says so."""

import ast

import pytest

from tests.test_floors import FILES, nodes_of

TEXT_METHODS = ("read_text", "write_text")
OPENERS = ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile")


def is_text(call):
    """Whether a call reads or writes text, as far as its mode tells."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if isinstance(call.func, ast.Attribute) and name in TEXT_METHODS:
        return True
    if name not in OPENERS:
        return False
    keywords = {word.arg: word.value for word in call.keywords}
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    modes = [keywords["mode"].value] if "mode" in keywords else [text for text in texts if set(text) <= set("rwxabt+")]
    mode = modes[0] if modes else "w+b" if name.endswith("TemporaryFile") else "r"
    return "b" not in mode


@pytest.mark.parametrize("path", FILES, ids=str)
def test_text_is_read_and_written_as_utf_8(path):
    for call in nodes_of(path):
        if not isinstance(call, ast.Call):
            continue
        owner = ast.unparse(call.func).rpartition(".")[0]
        if owner not in ("Image", "os", "webbrowser") and is_text(call):
            told = [*call.args, *(word.value for word in call.keywords)]
            assert any(isinstance(arg, ast.Constant) and arg.value in ("utf-8", "utf-8-sig") for arg in told), (
                f"{path}:{call.lineno}: {ast.unparse(call)}"
            )


@pytest.mark.parametrize("text", ["p.read_text()", "p.write_text('a')", "p.open('a')", "open('f', 'w')", "open(f)"])
def test_the_check_sees_text(text):
    assert is_text(ast.parse(text).body[0].value)


@pytest.mark.parametrize("text", ["p.open('rb')", "open('f', mode='wb')", "p.read_bytes()", "read_text(kind)"])
def test_the_check_passes_over_what_is_no_text(text):
    assert not is_text(ast.parse(text).body[0].value)
