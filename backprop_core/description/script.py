"""The script: where it is, and what its source tells."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from backprop_core.errors import NotFoundError, UsageError
from backprop_core.records import Script


def describe_script(path: Path | None, module: str | None, cwd: Path) -> Script:
    """Describe a script, or the module that is to be run in its place, from its source alone.

    A source that does not parse has no imports here; the interpreter will say better what is wrong with it.

    :param module: A dotted name, looked for under `cwd` and `cwd`/src.
    :raises NotFoundError: when there is no such file.
    :raises UsageError: for a folder, and when both or neither of `path` and `module` are given.
    """
    from .imports import scan

    if (path is None) == (module is None):
        raise UsageError("give either a script or --module, and not both")
    if path is not None:
        entry = _find_script(path, cwd)
        root = entry.parent
    else:
        root, entry = _find_module(module or "", cwd)
    imports, texts = scan(entry, root)
    return Script(
        path=entry,
        imports=imports,
        options=texts.options,
        valued=texts.valued,
        switches=texts.switches,
        places=texts.places,
        module=module,
    )


def _find_script(path: Path, cwd: Path) -> Path:
    try:
        full = Path(os.path.realpath(cwd / path))
        mode = full.stat().st_mode
    except PermissionError as error:
        raise NotFoundError(
            f"the script {path} cannot be reached", "a folder of its path may not be entered"
        ) from error
    except (OSError, ValueError) as error:
        raise NotFoundError(f"there is no script {path}", _similar_file(cwd / path)) from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder", _script_inside(full, path))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not a regular file", "save the script to a file first")
    return full


def _script_inside(folder: Path, as_given: Path) -> str:
    for name in ("__main__.py", "train.py", "main.py"):
        if (folder / name).is_file():
            return f"did you mean {as_given / name}?"
    return f"give a script inside it, for example {as_given / 'train.py'}"


def _similar_file(missing: Path) -> str:
    from difflib import get_close_matches
    from itertools import islice

    try:
        with os.scandir(missing.parent) as entries:
            names = [entry.name for entry in islice(entries, 2000) if entry.is_file()]
    except (OSError, ValueError):
        return f"there is no folder {missing.parent}"
    close = get_close_matches(missing.name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"looked in {missing.parent}"


def _find_module(module: str, cwd: Path) -> tuple[Path, Path]:
    """Return the folder that `module` is imported from, and the file that `python -m` would run."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise UsageError(
            f"--module {module} is no dotted module name", "give PKG.MODULE, or the path of a script"
        )
    here = Path(os.path.realpath(cwd))
    for root in (here, here / "src"):
        base = root.joinpath(*parts)
        as_package = base / "__main__.py"
        is_package = (base / "__init__.py").is_file()
        # Python prefers a package to a module of the same name, and a module to a folder without __init__.py.
        for file in (as_package,) if is_package else (base.with_name(f"{parts[-1]}.py"), as_package):
            if file.is_file():
                return root, Path(os.path.realpath(file))
        if is_package:
            raise NotFoundError(f"--module {module} is a package without a __main__.py", f"looked in {base}")
    wanted = "/".join(parts)
    raise NotFoundError(
        f"there is no module {module} in {here} or {here / 'src'}",
        f"looked for {wanted}.py and {wanted}/__main__.py"
        + ("; leave --module out to run a script by its path" if parts[-1] == "py" else ""),
    )
