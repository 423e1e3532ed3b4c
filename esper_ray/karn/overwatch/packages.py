"""The packages of the extra ``karn`` that the server needs."""

from importlib import import_module

from esper_ray.leyline.errors import MissingExtraError, missing_extra

PACKAGES = ("starlette", "uvicorn", "jinja2", "sse_starlette")


def check_packages() -> None:
    """Check that the packages of the server are installed.

    Raises:
        MissingExtraError: with the command that installs them.
    """
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise MissingExtraError(missing_extra(name.replace("_", "-"), "karn")) from error
