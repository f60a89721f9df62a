"""A script is found and described from its source, and nothing is executed."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from backprop_core import NotFoundError, Script, UsageError
from backprop_core.description import describe_script, imports
from backprop_core.description.imports import MAX_FILES, MAX_SCAN_S, MAX_SOURCE_BYTES, scan
from backprop_core.description.texts import Texts, inside


def write(folder: Path, sources: Mapping[str, str]) -> Path:
    """Write files and return the first."""
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(source))
    return folder / next(iter(sources))


def imports_of(script: Path) -> Mapping[str, float]:
    return describe_script(script, None, script.parent).imports


class TestFindingTheScript:
    def test_a_relative_path_becomes_absolute_under_the_working_folder(self, tmp_path: Path) -> None:
        script = write(tmp_path, {"pkg/train.py": "import torch"})
        assert describe_script(Path("pkg/train.py"), None, tmp_path).path == script

    def test_a_link_is_followed_to_the_real_file(self, tmp_path: Path) -> None:
        script = write(tmp_path, {"real/train.py": ""})
        (tmp_path / "link.py").symlink_to(script)
        assert describe_script(Path("link.py"), None, tmp_path).path == script

    def test_a_missing_script_is_not_found_and_its_near_namesake_offered(self, tmp_path: Path) -> None:
        write(tmp_path, {"train.py": ""})
        with pytest.raises(NotFoundError, match=r"there is no script trian\.py") as caught:
            describe_script(Path("trian.py"), None, tmp_path)
        assert caught.value.hint == "did you mean train.py?"
        assert caught.value.exit_code == 66

    @pytest.mark.parametrize(
        ("name", "hint"),
        [("zebra.py", "looked in "), ("nowhere/train.py", "there is no folder"), ("a\0b.py", "looked in ")],
    )
    def test_a_missing_script_without_namesake_says_where_it_was_looked_for(
        self, tmp_path: Path, name: str, hint: str
    ) -> None:
        with pytest.raises(NotFoundError) as caught:
            describe_script(Path(name), None, tmp_path)
        assert hint in (caught.value.hint or "")

    @pytest.mark.parametrize("name", ["x" * 300 + ".py", "loop.py"])
    def test_a_path_that_cannot_exist_is_not_found(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
        with pytest.raises(NotFoundError):
            describe_script(Path(name), None, tmp_path)

    def test_a_folder_is_a_usage_error_that_offers_the_script_in_it(self, tmp_path: Path) -> None:
        write(tmp_path, {"project/train.py": ""})
        with pytest.raises(UsageError, match="project is a folder") as caught:
            describe_script(Path("project"), None, tmp_path)
        assert caught.value.hint == "did you mean project/train.py?"
        with pytest.raises(UsageError) as caught:
            describe_script(Path(), None, tmp_path)
        assert caught.value.hint == "give a script inside it, for example train.py"

    def test_a_pipe_is_refused_and_not_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.py")
        with pytest.raises(UsageError, match="not a regular file"):
            describe_script(Path("pipe.py"), None, tmp_path)

    def test_script_and_module_exclude_each_other(self, tmp_path: Path) -> None:
        script = write(tmp_path, {"train.py": ""})
        with pytest.raises(UsageError, match="either a script or --module"):
            describe_script(script, "train", tmp_path)
        with pytest.raises(UsageError, match="either a script or --module"):
            describe_script(None, None, tmp_path)


class TestFindingAModule:
    @pytest.mark.parametrize("root", ["", "src/"])
    def test_a_module_is_found_below_the_working_folder_and_its_src(self, tmp_path: Path, root: str) -> None:
        write(tmp_path, {f"{root}pkg/sub/train.py": "import torch"})
        script = describe_script(None, "pkg.sub.train", tmp_path)
        assert script.path == tmp_path / root / "pkg" / "sub" / "train.py"
        assert script.module == "pkg.sub.train"
        assert script.imports["torch"] == 1.0

    def test_a_package_is_run_by_its_main_file_and_comes_before_a_module_of_its_name(
        self, tmp_path: Path
    ) -> None:
        write(tmp_path, {"pkg/sub/__init__.py": "", "pkg/sub.py": "import wrong"})
        (tmp_path / "pkg" / "sub" / "__main__.py").write_text("import right")
        script = describe_script(None, "pkg.sub", tmp_path)
        assert script.path == tmp_path / "pkg" / "sub" / "__main__.py"
        assert script.imports == {"right": 1.0}

    def test_a_folder_without_init_comes_after_a_module_of_its_name(self, tmp_path: Path) -> None:
        write(tmp_path, {"pkg.py": ""})
        (tmp_path / "pkg").mkdir()
        (tmp_path / "pkg" / "__main__.py").touch()
        assert describe_script(None, "pkg", tmp_path).path == tmp_path / "pkg.py"

    def test_a_package_without_main_file_is_not_found(self, tmp_path: Path) -> None:
        (tmp_path / "pkg").mkdir()
        (tmp_path / "pkg" / "__init__.py").touch()
        with pytest.raises(NotFoundError, match=r"without a __main__\.py"):
            describe_script(None, "pkg", tmp_path)

    def test_a_missing_module_says_what_was_looked_for(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"no module pkg\.train") as caught:
            describe_script(None, "pkg.train", tmp_path)
        assert caught.value.hint == "looked for pkg/train.py and pkg/train/__main__.py"
        with pytest.raises(NotFoundError) as caught:
            describe_script(None, "train.py", tmp_path)
        assert "leave --module out" in (caught.value.hint or "")

    @pytest.mark.parametrize("module", ["pkg/train.py", "", "..", "pkg.", "/etc/passwd"])
    def test_what_is_no_dotted_name_is_a_usage_error(self, tmp_path: Path, module: str) -> None:
        with pytest.raises(UsageError):
            describe_script(None, module, tmp_path)

    def test_local_modules_are_found_from_the_root_and_by_dots(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            {
                "pkg/app/train.py": "from . import model\nfrom ..shared import load\nimport pkg.absolute",
                "pkg/app/model.py": "import by_sibling",
                "pkg/shared.py": "import by_parent",
                "pkg/absolute.py": "import by_root",
            },
        )
        found = describe_script(None, "pkg.app.train", tmp_path).imports
        assert [found.get(name) for name in ("by_sibling", "by_parent", "by_root")] == [0.6, 0.6, 0.6]


class TestImports:
    def test_every_prefix_and_imported_name_is_there(self, tmp_path: Path) -> None:
        script = write(
            tmp_path,
            {"train.py": "import torch.nn.functional as F\nfrom transformers import Trainer, logging\n"},
        )
        names = {"torch", "torch.nn", "torch.nn.functional"}
        names |= {"transformers", "transformers.Trainer", "transformers.logging"}
        assert imports_of(script) == dict.fromkeys(names, 1.0)

    @pytest.mark.parametrize(
        "source",
        [
            "def main():\n    import torch",
            "class A:\n    async def run(self):\n        import torch",
            "if TYPE_CHECKING:\n    import torch",
            "if typing.TYPE_CHECKING:\n    from torch import nn",
            "try:\n    import torch\nexcept ImportError:\n    torch = None",
            "try:\n    import torch\nexcept (KeyError, ModuleNotFoundError):\n    pass",
            "try:\n    import torch\nexcept:\n    pass",
            "try:\n    import numpy\nexcept KeyError:\n    import torch",
            "def main():\n    try:\n        import torch\n    except Exception:\n        pass",
        ],
    )
    def test_an_import_that_may_never_run_counts_less(self, tmp_path: Path, source: str) -> None:
        assert imports_of(write(tmp_path, {"train.py": source}))["torch"] == 0.3

    @pytest.mark.parametrize(
        "source",
        [
            "if __name__ == '__main__':\n    import torch",
            "if not TYPE_CHECKING:\n    import torch",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import torch",
            "try:\n    import torch\nexcept KeyError:\n    pass",
            "try:\n    import numpy\nexcept ImportError:\n    pass\nelse:\n    import torch",
            "try:\n    import torch\nfinally:\n    pass",
            "with open(p):\n    import torch",
            "match x:\n    case 1:\n        import torch",
            "class A:\n    import torch",
            "def main():\n    import torch\nimport torch",
        ],
    )
    def test_an_import_that_runs_at_module_level_counts_fully(self, tmp_path: Path, source: str) -> None:
        assert imports_of(write(tmp_path, {"train.py": source}))["torch"] == 1.0

    @pytest.mark.parametrize(
        "call", ["importlib.import_module('torch')", "import_module('torch')", "__import__('torch')"]
    )
    def test_an_import_by_constant_name_counts_half(self, tmp_path: Path, call: str) -> None:
        assert imports_of(write(tmp_path, {"train.py": f"x = {call}"}))["torch"] == 0.5

    def test_an_import_by_name_reads_nothing_but_modules(self, tmp_path: Path) -> None:
        secret = write(tmp_path, {"secret.py": "import leaked"})
        script = write(
            tmp_path, {"app/train.py": f"import_module({str(secret)[:-3]!r})\nimport_module('..secret')"}
        )
        assert imports_of(script) == {}

    def test_local_modules_count_less_with_each_step_and_only_two_are_taken(self, tmp_path: Path) -> None:
        script = write(
            tmp_path,
            {
                "train.py": "import one",
                "one.py": "import torch, two",
                "two.py": "import keras, three\ndef f():\n    import jax",
                "three.py": "import mlx",
            },
        )
        found = imports_of(script)
        assert {name: found.get(name) for name in ("torch", "keras", "jax", "mlx")} == {
            "torch": 0.6,
            "keras": 0.3,
            "jax": 0.09,
            "mlx": None,
        }

    def test_what_a_conditional_local_module_imports_is_conditional(self, tmp_path: Path) -> None:
        script = write(tmp_path, {"train.py": "def main():\n    import model", "model.py": "import torch"})
        assert imports_of(script)["torch"] == pytest.approx(0.18)

    def test_a_local_package_and_the_module_named_from_it_are_both_followed(self, tmp_path: Path) -> None:
        script = write(tmp_path, {"train.py": "from pkg import net", "pkg/net.py": "import torch"})
        (tmp_path / "pkg" / "__init__.py").write_text("import lightning")
        found = imports_of(script)
        assert (found["torch"], found["lightning"]) == (0.6, 0.6)

    def test_modules_that_import_each_other_are_read_once(self, tmp_path: Path) -> None:
        script = write(tmp_path, {"train.py": "import one", "one.py": "import train, one, torch"})
        assert imports_of(script)["torch"] == 0.6

    def test_no_more_than_a_hundred_files_are_read(self, tmp_path: Path) -> None:
        modules = {f"m{index:03}.py": f"import library{index:03}" for index in range(MAX_FILES + 20)}
        script = write(
            tmp_path, {"train.py": "\n".join(f"import {name[:-3]}" for name in modules), **modules}
        )
        read = [name for name in imports_of(script) if name.startswith("library")]
        assert len(read) <= MAX_FILES - 1
        assert read[0] == "library000"

    def test_reading_ends_when_its_time_is_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = write(
            tmp_path,
            {"train.py": "import one, two, torch", "one.py": "import keras", "two.py": "import jax"},
        )
        ticks = itertools.count(step=MAX_SCAN_S * 0.4)
        monkeypatch.setattr(imports, "now_s", lambda: next(ticks))
        assert set(imports_of(script)) == {"one", "two", "torch", "keras"}


class TestSourcesThatDoNotParse:
    @pytest.mark.parametrize(
        "source",
        [
            b"import torch\ndef broken(:\n",
            b"import torch\nx = '\xff\xfe'\n",
            b"# coding: no-such-codec\nimport torch\n",
            b"\x7fELF\0\0\1\2",
            b"import torch\n\0\n",
            b"import torch\nx = " + b"(" * 100_000,
            b"import torch\nx = " + b"-" * 300_000 + b"1",
            b"import torch\nx = a" + b".b" * 100_000,
            b"import torch\n" + b"#" * MAX_SOURCE_BYTES,
            b"",
        ],
    )
    def test_they_are_described_without_imports(self, tmp_path: Path, source: bytes) -> None:
        script = tmp_path / "train.py"
        script.write_bytes(source)
        assert describe_script(script, None, tmp_path) == Script(path=script)

    @pytest.mark.parametrize("source", ["\ufeffimport torch", "# coding: latin-1\nimport torch  # \xe9"])
    def test_a_declared_encoding_is_followed(self, tmp_path: Path, source: str) -> None:
        script = tmp_path / "train.py"
        script.write_bytes(source.encode("latin-1" if "latin" in source else "utf-8"))
        assert imports_of(script)["torch"] == 1.0

    def test_a_source_that_cannot_be_opened_has_no_imports(self, tmp_path: Path) -> None:
        assert scan(tmp_path / "removed-meanwhile.py", tmp_path) == ({}, Texts())

    @pytest.mark.filterwarnings("error")
    def test_what_the_compiler_warns_of_is_kept_quiet(self, tmp_path: Path) -> None:
        assert (
            imports_of(write(tmp_path, {"train.py": "import torch\nx = '\\d'\ny = 1 is 1\n"}))["torch"] == 1.0
        )

    def test_a_broken_local_module_hides_no_other(self, tmp_path: Path) -> None:
        script = write(
            tmp_path, {"train.py": "import broken, model", "broken.py": "def (", "model.py": "import torch"}
        )
        assert imports_of(script)["torch"] == 0.6


class TestOptions:
    def test_long_options_that_stand_as_whole_constants_are_found(self, tmp_path: Path) -> None:
        script = write(
            tmp_path,
            {
                "train.py": """
                import model
                # "--in-a-comment"
                "text with --in-text"
                parser.add_argument("-r", "--resume-from", "--resume_from", help="see --help-text")
                if "--flag2" in sys.argv: pass
                print(f"--in-f-string", f"{x} --y", "--Upper", "--", "--x=1", "---x", "--1")
            """,
                "model.py": 'parser.add_argument("--of-another-file")',
            },
        )
        options = describe_script(script, None, tmp_path).options
        assert options == {"--resume-from", "--resume_from", "--flag2"}


def test_describing_executes_nothing(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        {
            "train.py": "import model\nopen('executed', 'w')",
            "model.py": "open('executed', 'w')\nimport torch",
        },
    )
    code = (
        f"import sys; from pathlib import Path; from backprop_core.description import describe_script as d;\
        print(d(Path({str(script)!r}), None, Path()).imports['torch'], 'torch' in sys.modules)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert child.stdout.split() == ["0.6", "False"]
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("module", ["argparse", "typing", "test.test_patma"])
def test_nodes_inside_a_node_are_those_that_ast_lists(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found
    assert found.origin
    tree = ast.parse(Path(found.origin).read_bytes())
    for node in ast.walk(tree):
        assert list(inside(node)) == list(ast.iter_child_nodes(node))
