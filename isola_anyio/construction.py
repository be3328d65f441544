"""Construction: public classes whose objects only this library makes.

Calling such a class is a ``TypeError`` that says what to call instead. The library makes objects through a class
method ``_create``, which begins with ``object.__new__(cls)`` and sets the attributes; there is no ``__init__``, so
that documentation shows no signature that nobody may use.

trio does this with a metaclass (``NoPublicConstructor``). Classes here may have anyio's abstract classes as bases,
whose metaclass is ``ABCMeta``, and a second metaclass would have to be combined with it.
"""

from __future__ import annotations

__all__ = ["made_by"]

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


def made_by(how: str) -> Callable[[type[_T]], type[_T]]:
    """Return a class decorator that makes calling the class a ``TypeError``.

    Copying and unpickling an object without state of its own go through ``__new__`` as well and are refused alike.

    Args:
        how: the call that gives such an object, for the error's text.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        def refuse(cls: type[_T], *_args: object, **_kwargs: object) -> _T:
            raise TypeError(f"{cls.__name__} has no public constructor; use {how}")

        refuse.__qualname__ = f"{cls.__qualname__}.__new__"
        cls.__new__ = refuse  # type: ignore[assignment,method-assign]  # pyright: ignore[reportAttributeAccessIssue]
        return cls

    return decorate
