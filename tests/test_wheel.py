"""The built wheel, alone with its extras in a clean environment, runs the example: nothing comes from the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.servers import LoggedProcess
from tests.servers.process import ROOT


def _run(*command: str | Path, cwd: Path) -> None:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.timeout(600)
def test_the_wheel_runs_the_shop(redis_url: str, tmp_path: Path) -> None:
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("concave_asgi-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    lua = {path.relative_to(ROOT).as_posix() for path in (ROOT / "concave").rglob("*.lua")}
    assert lua
    assert lua | {"concave/py.typed", "concave_sqlalchemy/py.typed"} <= names
    assert not any(name.startswith(("tests/", "examples/")) for name in names)

    _run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", f"concave-asgi[demo] @ {wheel.as_uri()}", cwd=tmp_path)
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "shop.py", tmp_path / "examples")
    env = {
        "CONCAVE_KV_URL": redis_url,
        "SHOP_PREFIX": f"wheel-{tmp_path.name}",
        "SHOP_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/shop.db",
    }
    command = [str(python), "-m", "uvicorn", "examples.shop:app", "--port", "0"]
    with LoggedProcess(command, env=env, cwd=tmp_path) as server:
        port = server.wait_for_log(r"running on http://127\.0\.0\.1:(\d+)")[1]
        answer = httpx.post(
            f"http://127.0.0.1:{port}/api/users", json={"email": "ada@example.com", "name": "Ada"}
        )
        assert answer.status_code == 201
        server.wait_for_log("welcome, ada@example.com!")
