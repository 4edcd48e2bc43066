"""Dependencies point one way, without circles: lvsa_core <- hooks <- lvsa_vllm_omni <- examples; files stay short.

vqeval stands beside them: it knows none of the others.

Read from the source; nothing runs.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

from tests.support.changers import CHANGERS

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("lvsa_core", "hooks", "configs", "lvsa_vllm_omni", "vqeval")
SOURCES = {
    PurePosixPath(file.relative_to(REPOSITORY).as_posix()): file
    for top in (*PACKAGES, "toy", "examples", "benchmarks")
    for file in sorted((REPOSITORY / top).rglob("*.py"))
}

#: What the two lower layers and vqeval may import besides the standard library.
ALLOWED = {
    "lvsa_core": {"torch", "lvsa_core"},
    "hooks": {"lvsa_core"},
    "configs": set[str](),
    "vqeval": {"vqeval", "av", "cv2", "jinja2", "matplotlib", "numpy", "pydantic"},
}
#: And only inside a function, so that the import of the package does not need it.
ALLOWED_LATE = {
    PurePosixPath("lvsa_core/show.py"): {"matplotlib"},
    PurePosixPath("lvsa_core/diffusers/dispatch.py"): {"diffusers"},
    PurePosixPath("lvsa_core/diffusers/processors.py"): {"diffusers"},
    PurePosixPath("lvsa_core/diffusers/seam.py"): {"diffusers"},
    PurePosixPath("lvsa_core/kernels/flashinfer.py"): {"flashinfer"},
    PurePosixPath("lvsa_core/kernels/sdpa.py"): {"torch_npu"},
    PurePosixPath("vqeval/checks/selfcheck.py"): {"tqdm"},
    PurePosixPath("vqeval/cli/main.py"): {"tqdm"},
    PurePosixPath("vqeval/learned/features.py"): {"torch", "transformers"},
    PurePosixPath("vqeval/learned/flow.py"): {"torch", "torchvision"},
    PurePosixPath("vqeval/learned/quality.py"): {"torch", "pyiqa"},
}
#: Files with an import of their own: one that is itself imported only inside a function, because what it is written in
#: comes first, and the reader of TOML, which is in the standard library from Python 3.11 on.
WRITTEN_IN = {
    PurePosixPath("lvsa_core/kernels/triton_merge.py"): {"triton"},
    PurePosixPath("lvsa_core/facts.py"): {"tomllib", "tomli"},
}

#: The readers of the environment: the variables, LVSA_CPU before there are settings, what is handed to the engine, and
#: what makes vLLM quiet before it is imported.
READERS = {
    PurePosixPath("lvsa_vllm_omni/variables.py"),
    PurePosixPath("lvsa_vllm_omni/offline/environment.py"),
    PurePosixPath("lvsa_vllm_omni/cli/doctor_report.py"),
    PurePosixPath("lvsa_vllm_omni/cli/serve_run.py"),
    *(path for path in SOURCES if path.is_relative_to("lvsa_vllm_omni/cpu")),
}
SAYS = ("Target:", "Why:", "How:", "Remove when:")
PRINTERS = {PurePosixPath("lvsa_vllm_omni/cli/main.py"), PurePosixPath("vqeval/cli/main.py")}


def imports(tree: ast.AST, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Every module imported, as written, and whether inside a function; relative ones with their dots."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), late
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            yield from ((str(x.value), late) for x in node.args[:1] if isinstance(x, ast.Constant))
        yield from imports(node, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def wrong_imports(path: PurePosixPath, tree: ast.AST) -> list[str]:
    """Imports of ``path`` that point the wrong way."""
    found, top = [], path.parts[0]
    for name, late in imports(tree):
        root = name.partition(".")[0]
        if name.startswith("."):
            # hooks and configs install inside lvsa_vllm_omni: a relative import may not climb out of them.
            wrong = len(name) - len(name.lstrip(".")) >= len(path.parts)
        elif top in ALLOWED:
            known = ALLOWED[top] | WRITTEN_IN.get(path, set()) | (ALLOWED_LATE.get(path, set()) if late else set())
            wrong = root not in known and root not in sys.stdlib_module_names
        else:
            wrong = root in ("examples", "benchmarks", "tests") or (root == "vllm_omni" and top != "lvsa_vllm_omni")
        if wrong:
            found.append(name)
    return found


def environment_uses(path: PurePosixPath, tree: ast.AST) -> list[str]:
    """Reads and writes of the environment in a file that is not one of its readers."""
    names = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    if path in READERS or path.parts[0] not in PACKAGES:
        return []
    used = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in names]
    froms = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "os")
    return [
        *(name for name in used if name.startswith("os.")),
        *(alias.name for node in froms for alias in node.names if alias.name in names),
    ]


def prints(path: PurePosixPath, tree: ast.AST) -> list[str]:
    """Calls of ``print`` outside the command line."""
    if path in PRINTERS or path.parts[0] not in PACKAGES:
        return []
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [ast.unparse(node) for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


def foreign_changes(path: PurePosixPath, tree: ast.AST) -> list[str]:
    """Attributes of what is imported, set outside the files for that; changes that do not say all they should."""
    froms = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import))
    names = {(alias.asname or alias.name).partition(".")[0] for node in froms for alias in node.names}
    changed = [
        ast.unparse(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if re.fullmatch(r"\w+(\.\w+)+", ast.unparse(target)) and ast.unparse(target).partition(".")[0] in names
    ]
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr")
    changed += [ast.unparse(x) for x in calls if ast.unparse(x.args[0]).partition(".")[0] in names]
    documented = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))
    texts = [ast.get_docstring(node) or "" for node in documented]
    partly = [text.partition("\n")[0] for text in texts if 0 < sum(word in text for word in SAYS) < len(SAYS)]
    says = any(SAYS[0] in text for text in texts)
    if str(path) in CHANGERS:
        return partly if says else [f"no {SAYS[0]}"]
    return [*changed, *partly, *[SAYS[0]] * says] if path.parts[0] in PACKAGES else []


def operators(path: PurePosixPath, tree: ast.AST) -> list[str]:
    """Context variables and operators for torch.compile besides the one of each, which engine and diffusers share."""
    calls = (ast.unparse(node.func).partition("[")[0] for node in ast.walk(tree) if isinstance(node, ast.Call))
    found = [name for name in calls if name.rpartition(".")[2] in ("ContextVar", "custom_op", "triton_op", "define")]
    shared = path == PurePosixPath("lvsa_core/call.py") and sorted(found) == ["ContextVar", "torch.library.custom_op"]
    return [] if shared or path.parts[0] not in PACKAGES else found


MOST_LINES = 300


def module_name(path: PurePosixPath) -> str:
    """The name under which a file is imported: hooks and configs install inside lvsa_vllm_omni."""
    parts = path.with_suffix("").parts
    inside = ("lvsa_vllm_omni",) if parts[0] in ("hooks", "configs") else ()
    return ".".join((*inside, *(part for part in parts if part != "__init__")))


def imported(path: PurePosixPath, tree: ast.AST) -> Iterator[str]:
    """Full names that a file imports anywhere, also inside functions; not those under ``if TYPE_CHECKING``."""
    package = module_name(path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            yield from (str(x.value) for x in node.args[:1] if isinstance(x, ast.Constant))
        yield from imported(path, node)


def circle(trees: Mapping[PurePosixPath, ast.AST]) -> list[str]:
    """Modules of a circle of imports, the first one again at the end; empty if there is none."""
    modules = {module_name(path) for path in trees}
    needs = {}
    for path, tree in trees.items():
        # ``from package import name``: the module of that name, else the package itself.
        names = {name if name in modules else name.rpartition(".")[0] for name in imported(path, tree)}
        needs[module_name(path)] = names & modules
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


RULES = [wrong_imports, environment_uses, prints, foreign_changes, operators]
Rule = Callable[[PurePosixPath, ast.AST], list[str]]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file(rule: Rule) -> None:
    assert {path.parts[0] for path in SOURCES} >= {"lvsa_core", "hooks", "lvsa_vllm_omni"}
    broken = {str(path): rule(path, ast.parse(file.read_text("utf-8"), str(path))) for path, file in SOURCES.items()}
    assert {path: names for path, names in broken.items() if names} == {}


def test_no_circles() -> None:
    files = {path: file for path, file in SOURCES.items() if path.parts[0] in PACKAGES}
    assert circle({path: ast.parse(file.read_text("utf-8")) for path, file in files.items()}) == []


def test_no_long_file() -> None:
    tests = Path(__file__).parent
    files = {**SOURCES, **{file.relative_to(tests.parent): file for file in tests.rglob("*.py")}}
    lengths = {str(path): len(file.read_text("utf-8").splitlines()) for path, file in files.items()}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


def test_exceptions_are_still_needed() -> None:
    for path, names in ALLOWED_LATE.items():
        late = {
            name.partition(".")[0] for name, inside in imports(ast.parse(SOURCES[path].read_text("utf-8"))) if inside
        }
        assert names <= late


@pytest.mark.parametrize(
    ("rule", "path", "source", "found"),
    [
        (wrong_imports, "lvsa_core/a.py", "import math, torch.nn\nfrom lvsa_core.grid import x", []),
        (wrong_imports, "lvsa_core/a.py", "import numpy as np", ["numpy"]),
        (wrong_imports, "lvsa_core/a.py", "from lvsa_vllm_omni.hooks import WAN", ["lvsa_vllm_omni.hooks"]),
        (wrong_imports, "lvsa_core/a.py", "def f():\n  if x:\n    from vllm.a import b", ["vllm.a"]),
        (wrong_imports, "lvsa_core/a.py", "def f():\n  importlib.import_module('vllm_omni.b')", ["vllm_omni.b"]),
        (wrong_imports, "lvsa_core/show.py", "def f():\n  import matplotlib.figure", []),
        (wrong_imports, "lvsa_core/show.py", "import matplotlib.figure", ["matplotlib.figure"]),
        (wrong_imports, "lvsa_core/kernels/b.py", "from ..grid import x\nfrom . import y", []),
        (wrong_imports, "hooks/a.py", "from lvsa_core import FrameGrid\nfrom .spec import x", []),
        (wrong_imports, "hooks/a.py", "import torch", ["torch"]),
        (wrong_imports, "hooks/a.py", "from ..settings import x", ["..settings"]),
        (wrong_imports, "hooks/a.py", "from lvsa_vllm_omni.settings import x", ["lvsa_vllm_omni.settings"]),
        (wrong_imports, "lvsa_vllm_omni/a.py", "import vllm_omni.b, lvsa_core\nfrom lvsa_vllm_omni.hooks import x", []),
        (wrong_imports, "lvsa_vllm_omni/a.py", "from examples.offline_lvsa import x", ["examples.offline_lvsa"]),
        (wrong_imports, "examples/a.py", "import lvsa_vllm_omni, numpy", []),
        (wrong_imports, "vqeval/a.py", "import cv2, av\nfrom vqeval.video import read", []),
        (wrong_imports, "vqeval/a.py", "def f():\n  import torch", ["torch"]),
        (wrong_imports, "vqeval/learned/flow.py", "import torch", ["torch"]),
        (wrong_imports, "vqeval/learned/flow.py", "def f():\n  import torch", []),
        (wrong_imports, "vqeval/a.py", "from lvsa_core import plan", ["lvsa_core"]),
        (wrong_imports, "vqeval/a.py", "from lvsa_vllm_omni.offline import Job", ["lvsa_vllm_omni.offline"]),
        (wrong_imports, "examples/a.py", "from vllm_omni.entrypoints import x", ["vllm_omni.entrypoints"]),
        (environment_uses, "lvsa_vllm_omni/a.py", "import os\nos.environ['A']", ["os.environ"]),
        (environment_uses, "lvsa_vllm_omni/a.py", "from os import getenv", ["getenv"]),
        (environment_uses, "hooks/a.py", "x = os.getenv('A')", ["os.getenv"]),
        (environment_uses, "lvsa_vllm_omni/variables.py", "os.environ", []),
        (environment_uses, "lvsa_vllm_omni/a.py", "settings.environ, os.path", []),
        (environment_uses, "examples/a.py", "os.environ", []),
        (prints, "lvsa_core/a.py", "print('x')", ["print('x')"]),
        (prints, "lvsa_core/a.py", "logger.print('x'); text = 'print(1)'", []),
        (prints, "lvsa_vllm_omni/cli/main.py", "print('x')", []),
        (foreign_changes, "lvsa_vllm_omni/a.py", "from b import C\nC.d = 1\nself.e = 2", ["C.d"]),
        (foreign_changes, "lvsa_vllm_omni/a.py", "import b.c\nb.c.D.e = f", ["b.c.D.e"]),
        (
            foreign_changes,
            "lvsa_core/a.py",
            "from b import C\nsetattr(C, d, 1)\nsetattr(e, d, 1)",
            ["setattr(C, d, 1)"],
        ),
        (foreign_changes, "lvsa_core/a.py", "def f():\n  'Target: x. Why: y.'", ["Target: x. Why: y.", "Target:"]),
        (foreign_changes, "lvsa_vllm_omni/seam.py", "from b import C\nC.d = 1", ["no Target:"]),
        (foreign_changes, "lvsa_vllm_omni/seam.py", "def f():\n  'Target: Why: How: Remove when:'", []),
        (operators, "lvsa_core/a.py", "@torch.library.custom_op('a::b')\ndef f(): ...", ["torch.library.custom_op"]),
        (operators, "lvsa_vllm_omni/a.py", "running = ContextVar('a')", ["ContextVar"]),
        (operators, "lvsa_core/a.py", "running = ContextVar[int]('a')", ["ContextVar"]),
        (operators, "lvsa_core/call.py", "torch.library.custom_op('a::b')(f); x = ContextVar('a')", []),
        (operators, "lvsa_core/call.py", "x = ContextVar('a'); y = ContextVar('b')", ["ContextVar"] * 2),
    ],
)
def test_rules_see_what_they_should(rule: Rule, path: str, source: str, found: list[str]) -> None:
    assert rule(PurePosixPath(path), ast.parse(source)) == found


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"a.py": "import lvsa_core.b", "b.py": "import torch"}, False),
        ({"a.py": "import lvsa_core.b", "b.py": "import lvsa_core.a"}, True),
        ({"a.py": "from lvsa_core import b", "b.py": "def f():\n  from lvsa_core.a import x"}, True),
        ({"a.py": "from . import b", "b.py": "import importlib\nimportlib.import_module('lvsa_core.a')"}, True),
        ({"a.py": "from .b import x", "b.py": "from .c.d import x", "c/d.py": "from ..a import x"}, True),
        ({"a.py": "from .b import x", "b.py": "if TYPE_CHECKING:\n  from .a import x"}, False),
        ({"__init__.py": "from lvsa_core.a import x", "a.py": "from lvsa_core.b import y", "b.py": ""}, False),
        ({"__init__.py": "from .a import x", "a.py": "from lvsa_core import x"}, True),
    ],
)
def test_circles_are_seen(sources: dict[str, str], found: bool) -> None:
    trees = {PurePosixPath("lvsa_core") / name: ast.parse(source) for name, source in sources.items()}
    assert bool(circle(trees)) == found
