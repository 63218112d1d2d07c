"""Who may import whom. Read from the source, so that a lazy import counts too."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "xmodaler_ssattn"
FREE = {
    "_version",
    "boxes",
    "caption",
    "classes",
    "config",
    "configuring",
    "discovery",
    "errors",
    "files",
    "ids",
    "keys",
    "precision",
    "processes",
    "progress",
    "region_rules",
    "safe_load",
    "safe_pickle",
    "schema",
    "sealed",
    "shipped",
    "stopping",
}
# part -> parts of ours that it may import, beside FREE and itself
ALLOWED = {
    "runtime": {"configuring", "errors", "files", "processes", "progress", "safe_load", "sealed", "stopping"},
    "host": {"runtime"},
    "partners": {"host"},
    # modeling is the definition; what is faster attaches itself (modeling/accelerators.py)
    # A rule for a word's region knows which words name an object, as the scores do.
    "modeling": {"host", "partners", "evaluation"},
    "losses": {"host", "partners"},
    "fast": {"host", "losses", "modeling", "partners"},
    "data": {"host", "packs", "fast", "partners"},
    "packs": set(),
    "evaluation": {"host", "packs", "partners"},
    "report": {"data", "evaluation"},
    "worlds": {"data", "packs"},
    "detectors": {"packs"},
    "methods": {"data", "evaluation", "fast", "host", "losses", "modeling", "packs", "partners", "scorer"},
    "engine": {"host", "modeling", "scorer", "evaluation", "partners"},
    "scorer": {"host", "data", "evaluation", "partners"},
    "app": {"report"},
    "exports": {"data", "detectors", "evaluation", "report"},
    "cli": {
        "app",
        "host",
        "data",
        "engine",
        "evaluation",
        "exports",
        "methods",
        "modeling",
        "packs",
        "partners",
        "report",
        "worlds",
        "detectors",
    },
    # Above the command line: it runs `xmodaler train` and scores what came out.
    "reproduce": {"cli", "data", "engine", "evaluation", "host", "packs", "report", "worlds"},
    "__init__": {"modeling", "losses", "data", "evaluation", "engine", "fast", "methods", "scorer"},
    "__main__": {"cli"},
}
# The paper's mathematics can be read without anything of ours or the host's.
ALONE = (
    "modeling/ss_attention.py",
    "modeling/fusions.py",
    "fast/rollout.py",
    "data/sigma.py",
    "boxes.py",
    "precision.py",
)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_part_imports_only_what_the_design_allows(path):
    part = part_of(path)
    allowed = ALLOWED.get(part, set()) | {part} | (set() if part == "runtime" else FREE)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("xmodaler_ssattn.")}
    known = {p.removesuffix(".py") for p in (q.name for q in PACKAGE.iterdir())}
    assert {name for name in ours if name in known} <= allowed, f"{path} imports {sorted(ours - allowed)}"


MODULES = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}


def modules_imported(path: Path) -> set[str]:
    """Full names of what a file imports of ours, lazily too; not what it imports for type hints only."""
    package, found = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1], set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hints = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for node in set(ast.walk(tree)) - {inner for hint in hints for inner in ast.walk(hint)}:
        if isinstance(node, ast.Import):
            # "import xmodaler_ssattn" registers all classes, which a program does when it starts.
            found |= {alias.name for alias in node.names if alias.name in MODULES} - {PACKAGE.name}
        elif isinstance(node, ast.ImportFrom):
            parts = [*package[: len(package) + 1 - node.level], node.module] if node.level else [node.module]
            base = ".".join(filter(None, parts))
            full = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else base for name in full}
    return found


@pytest.mark.parametrize("group", [part_of, str], ids=["rooms", "modules"])
def test_no_circle_of_imports_exists(group):
    groups = {name: group(path) for name, path in MODULES.items()}
    needed = {name: set() for name in groups.values()}
    for name, path in MODULES.items():
        needed[groups[name]] |= {groups[other] for other in modules_imported(path) if other in groups} - {groups[name]}
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_door_names_x_modaler(path):
    if part_of(path) != "host":
        assert not {name for name in imports(path) if name.split(".")[0] == "xmodaler"}


@pytest.mark.parametrize("name", ALONE)
def test_the_mathematics_imports_torch_or_numpy_alone(name):
    outside = {"torch", "numpy", "math", "typing", "collections", "itertools", "__future__"}
    for imported in imports(PACKAGE / name):
        ours = imported.startswith(("xmodaler_ssattn.boxes", "xmodaler_ssattn.precision"))
        assert imported.split(".")[0] in outside or ours, imported


def test_no_module_speaks_of_cuda_or_unpickles():
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        for word in (".cuda()", "pickle.load(", "allow_pickle=True", "yaml.load(", "weights_only=False"):
            assert word not in source, f"{path}: {word}"


def test_a_system_of_another_paper_is_small_files():
    """A reader takes in one system at a time; what several of them need belongs to the model's rooms."""
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.glob("methods/*.py")}
    assert len(lengths) > 10 and {name: n for name, n in lengths.items() if n > 200} == {}
