"""Nothing in our sources turns data into code, or hands words to a shell."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.project.test_architecture import ROOT, modules

pytestmark = pytest.mark.unit

MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "yaml",
    "lxml",
    "xmlrpc",
    "telnetlib",
    "pty",
}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "mktemp", "logging.config.listen",
    "code.interact",
}  # fmt: skip
PREFIXES = ("os.spawn", "os.exec", "subprocess.getoutput", "subprocess.getstatusoutput")
PARSERS = re.compile(r"xml\.(?!etree)|.*\b(ET|ElementTree|etree)\.(parse|fromstring\w*|iterparse|XML\w*)$")
"""Of XML from outside: entities of the standard library's parsers grow without bound. Writing is harmless."""
KEYWORDS = {"shell": True, "allow_pickle": True, "weights_only": False}


def unsafe(source: str) -> Iterator[str]:
    """Tell every construct that reads data as code, or a line as a command."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES or PARSERS.match(a.name))
        elif isinstance(node, ast.ImportFrom) and (
            (node.module or "").split(".")[0] in MODULES or PARSERS.match(f"{node.module}.")
        ):
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _in_call(node)


def _in_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in CALLS or name.startswith(PREFIXES) or PARSERS.match(name):
        yield name
    if name == "torch.load" and not any(k.arg == "weights_only" for k in node.keywords):
        yield "torch.load without weights_only"
    if name.endswith(".recv") and not node.args and not node.keywords:
        yield f"{name}() of a pipe unpickles; see node.child.heard"
    for keyword in node.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if keyword.arg in KEYWORDS and value is KEYWORDS[keyword.arg]:
            yield f"{name}({keyword.arg}={value})"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import xml.sax",
        "from xml.dom import minidom",
        "ET.fromstring(text)",
        "ElementTree.parse(path)",
        "import yaml",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "tempfile.mktemp()",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "connection.recv()",
        "__import__(name)",
    ],
)
def test_each_of_them_is_found(source: str) -> None:
    assert list(unsafe(source))


@pytest.mark.parametrize(
    "source",
    [
        "re.compile(text)",
        "sock.recv(10)",
        "subprocess.run([a])",
        "from xml.etree import ElementTree as ET",
        "ET.tostring(root)",
        "torch.load(p, weights_only=True)",
    ],
)
def test_what_is_harmless_is_not(source: str) -> None:
    assert not list(unsafe(source))


def test_our_sources_hold_none_of_them() -> None:
    scripts = [(path.name, path) for path in (ROOT / ".ci").glob("*.py")]
    found = {
        name: told for name, path in [*modules(), *scripts] if (told := list(unsafe(path.read_text(encoding="utf-8"))))
    }
    assert not found


ALLOWED = {"S101", "S104", "S105", "S106", "S110", "S311", "S603", "S607", "S608"}
"""asserts for types; loopback and nobody's address; tokens of tests; what must not keep a peer waiting; jitter; our own
programs by their path; names of our own tables. Nothing that reads data as code."""


def test_no_rule_of_the_linter_about_that_is_switched_off() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for _, path in modules())
    text += (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = set(
        re.findall(r"\bS\d{3}\b", "\n".join(re.findall(r"(?:noqa:.*|^\s*\".*\".*$|= \[.*)", text, re.MULTILINE)))
    )
    assert named <= ALLOWED, named - ALLOWED
