"""The packages that this suite stands on; nothing here imports them before they are asked for."""

from varshare_jax.errors import UserError
from varshare_jax.suites import installed

_INSTALL = "pip install 'varshare_jax[{}]'"
_NEEDED = {
    "metaworld": (("3.0.0", "3.1.1"), "the scenes and tasks of other releases are not known"),
    "mujoco": (("3.16.0",), "from 3.17 on the data of a weld grew and metaworld fails on it"),
    "mujoco-mjx": (("3.16.0",), "MJX must be the release of mujoco"),
    "warp-lang": (("1.18.0",), "MJX asks for this one"),
}
_ENGINES = {"mujoco-mjx": ("mjx", "warp"), "warp-lang": ("warp",)}  # those that need it; else all


def check(physics: str = "mujoco") -> None:
    """Raises UserError where a package is missing or of another version than was tested.

    `physics` is the engine in use.
    """
    install = _INSTALL.format("warp" if physics == "warp" else "metaworld")
    for package, (wanted, why) in _NEEDED.items():
        if physics not in _ENGINES.get(package, (physics,)):
            continue
        found = installed.version(package, f"Meta-World needs {package}=={wanted[0]}", install)
        if found not in wanted:
            raise UserError(f"Meta-World needs {package}=={' or '.join(wanted)} but {found} is "
                            f"installed ({why}): {install}")
