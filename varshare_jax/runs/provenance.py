"""What a run was made with: versions, devices, the state of the source tree."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("varshare_jax", "jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "chex",
             "orbax-checkpoint", "numpy", "metaworld", "mujoco", "mujoco-mjx", "brax")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def device(count: int = 0) -> dict[str, Any]:
    """What JAX computes on, and how many of them: this process's, or the `count` of several."""
    first = jax.local_devices()[0]
    return {"platform": first.platform, "kind": first.device_kind,
            "count": count or jax.local_device_count(), "cpu_count": os.cpu_count()}


def git_state() -> dict[str, Any] | None:
    """Commit of the package's own checkout and whether it was changed; None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True,
                              timeout=10, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def use_compile_cache(folder: str) -> None:
    """Keeps compiled programs between processes; '' changes nothing.

    'auto' is the user's cache, unless this process has one already.
    """
    known: Any = jax.config
    if not folder or (folder == "auto" and known.jax_compilation_cache_dir):
        return
    if folder == "auto":
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(cache) / "varshare_jax" / "xla")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
