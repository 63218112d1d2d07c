"""The documentation's generated parts, and the hooks of its site (mkdocs.yml).

    python tools/docs.py            write docs/configuration.md anew, and the line of each link to a function
    python tools/docs.py --check    exit code 1 when something would change

A link to code has the name of what it points to as its text: [`fuse`](../xmodaler_ssattn/modeling/ss_attention.py#L1).
"""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONFIG = ROOT / "xmodaler_ssattn/config.py"
TO_CODE = re.compile(r"\[`([\w.]+)`\]\((\.\./[\w/]+\.py)#L\d+\)")
FOLDERS = "xmodaler_ssattn|configs|tools|tests|examples|docs"
OUT_OF_DOCS = re.compile(rf"\]\((?:\.\./)?((?:{FOLDERS})/[^)#\s]*|CITATION\.cff)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".json": "json"}


# --- docs/configuration.md --------------------------------------------------------------------------------
class Key(NamedTuple):
    """A config key: its name, its default as Python writes it, and its comment in config.py."""

    name: str
    default: str
    text: str


def config_keys(source: str) -> list[tuple[str, list[Key]]]:
    """The keys of each node in the order of config.py; keys that share a comment have it at the first one."""
    lines = source.splitlines()
    sections = []
    for call in ast.walk(ast.parse(source)):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_defaults"):
            continue
        if not call.keywords:
            continue
        node = re.sub(r"_node\(cfg(\.\w+)?, '(\w+)'\)", r"cfg\1.\2", ast.unparse(call.args[0])).removeprefix("cfg.")
        found = []
        for keyword in call.keywords:
            comment = []
            number = keyword.lineno - 2  # the line before, from 0
            while lines[number].lstrip().startswith("#"):
                comment.insert(0, lines[number].strip().lstrip("# "))
                number -= 1
            _, mark, trailing = lines[keyword.value.end_lineno - 1].partition("  # ")
            text = " ".join(comment + [trailing] * bool(mark))
            found.append(Key(f"{node}.{keyword.arg}", ast.unparse(keyword.value), text))
        sections.append((call.lineno, node, found))
    return [(node, found) for _, node, found in sorted(sections)]


def configuration_page() -> str:
    """docs/configuration.md."""
    parts = [
        "<!-- Written by tools/docs.py from xmodaler_ssattn/config.py. -->",
        "# Configuration",
        "Every key that this package adds to X-modaler's, with its default and its reason. X-modaler's own keys keep "
        "their meaning; [`base.yaml`](../configs/flickr30k_entities/base.yaml) has those that the paper's models set, "
        "each with its source. Any key can be given on the command line as `KEY VALUE`, before, between or after the "
        "options. A misspelt key is refused with the nearest names.",
    ]
    for node, found in config_keys(CONFIG.read_text(encoding="utf-8")):
        rows = ["| key | default | |", "|---|---|---|"]
        rows += [
            f"| `{key.name.rpartition('.')[2]}` | `{key.default}` | {key.text.replace('|', '&#124;')} |"
            for key in found
        ]
        parts += [f"## {node}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


# --- links to code ----------------------------------------------------------------------------------------
def line_of(path: Path, name: str) -> int:
    """The line that defines a function, class or constant; ``Class.method`` for a method."""
    body: Any = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        for node in body:
            targets = node.targets if isinstance(node, ast.Assign) else ()
            if getattr(node, "name", None) == part or any(getattr(target, "id", None) == part for target in targets):
                body, line = getattr(node, "body", ()), node.lineno
                break
        else:
            raise SystemExit(f"{path}: {name} is not defined there")
    return line


def with_lines(text: str, folder: Path) -> str:
    """The text with the present line in each link to code."""
    return TO_CODE.sub(lambda m: f"[`{m[1]}`]({m[2]}#L{line_of((folder / m[2]).resolve(), m[1])})", text)


# --- hooks of mkdocs --------------------------------------------------------------------------------------
def pages() -> dict[str, str]:
    """File name -> Markdown of every page, with index.md from the README."""
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    return {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")} | found


def for_the_site(text: str) -> str:
    """Links out of docs/ lead to pages of the site that show the file; folders have none."""

    def target(match: re.Match) -> str:
        path, anchor = match[1], match[2] or ""
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        if not (ROOT / path).is_file():
            return "](#)"
        line = anchor.replace("#L", "#__codelineno-0-")
        return f"](source/{path}.md{line})"

    return OUT_OF_DOCS.sub(target, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the overview, and a page for each file of the repository that a page links to."""
    from mkdocs.structure.files import File

    wanted = {match[1] for text in pages().values() for match in OUT_OF_DOCS.finditer(text)}
    files.append(File.generated(config, "index.md", content=pages()["index.md"]))
    for path in sorted(path for path in wanted if not path.startswith("docs/") and (ROOT / path).is_file()):
        text = (ROOT / path).read_text(encoding="utf-8")
        if not path.endswith(".md"):
            language = LANGUAGES.get(Path(path).suffix, "text")
            text = f'# {path}\n\n``````{{.{language} linenums="1"}}\n{text}``````\n'
        files.append(File.generated(config, f"source/{path}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return markdown if page.file.src_uri.startswith("source/") else for_the_site(markdown)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(__doc__), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args()
    wanted = {DOCS / name: with_lines(text, DOCS) for name, text in pages().items() if name != "index.md"}
    wanted[DOCS / "configuration.md"] = configuration_page()
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(path.relative_to(ROOT))
        if not args.check:
            path.write_text(wanted[path], encoding="utf-8")
    return int(args.check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
