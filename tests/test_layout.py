"""The packages point one way, and what boards need imports no torch."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {  # package -> top-level packages that it must not import, wherever in the file
    "evalkit": {"rewards", "baselines", "leaderboards", "tests", "benchmarks"},
    "rewards": {"baselines", "leaderboards", "tests", "benchmarks"},
    "baselines": {"leaderboards", "tests", "benchmarks"},
    "leaderboards": {"torch", "rewards", "baselines", "tests", "benchmarks"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", [name for name in FORBIDDEN if (ROOT / name).is_dir()])
def test_imports_point_one_way(package):
    wrong = {str(path.relative_to(ROOT)): found for path in (ROOT / package).rglob("*.py")
             if (found := imported(path) & FORBIDDEN[package])}
    assert not wrong


@pytest.mark.parametrize("module", ["evalkit.results", "evalkit.statistics", "evalkit.compare", "evalkit.cite",
                                    "evalkit.table", "evalkit.vbench_import", "evalkit.suites"])
def test_what_boards_need_imports_no_torch(module):
    check = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_a_leaderboard_is_ranked_and_its_site_built_without_torch(tmp_path):
    check = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests" / "leaderboards")!r})
from boards import make_board
from evalkit.cli import main
board = str(make_board(Path({str(tmp_path)!r}), models=2, prompts=4).path)
assert main(["leaderboard", "rank", "--board", board]) == 0
assert main(["leaderboard", "build", "--board", board, "--out", {str(tmp_path / "site")!r}]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert list((tmp_path / "site").glob("*.html"))


def test_modules_keep_to_one_room():
    long = {str(path.relative_to(ROOT)): lines for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")
            if (lines := len(path.read_text().splitlines())) > 400}
    assert not long
