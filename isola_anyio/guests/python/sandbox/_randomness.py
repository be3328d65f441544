"""Randomness: generators whose state is in the image, and how a fork gives them states of its own.

What asks the system each time (`secrets`, `uuid.uuid4`, `os.urandom`) needs nothing, and neither does a module that is
imported after the fork. Generators that libraries keep in C, out of reach of Python, are the host's to seed. What is
left are the generators below, of the standard library and of the packages that the runtime bundles.

A generator that the prelude itself makes (`random.Random()`, `numpy.random.default_rng()`) is copied as it is, for
nothing tells whether its seed was chosen.
"""

import random
import sys

_seed = random.seed
_modules = sys.modules


def _numpy(module, seed):
    module.seed([int(seed[at : at + 8], 16) for at in range(0, 64, 8)])  # whichever bit generator the prelude has set


def _tempfile(module, seed):
    module._name_sequence = None  # made at the next use


def _uuid(module, seed):
    module._node = None  # drawn at the next use


def _multiprocessing(module, seed):
    module.current_process().authkey = random.Random(seed + " authkey").randbytes(32)


def _sympy(module, seed):
    module.rng.seed(seed + " sympy")
    module._assumptions_rng.seed(seed + " assumptions")


def _sympy_dummies(module, seed):
    module.Dummy._prng.seed(seed + " dummies")


def _more_itertools(module, seed):
    module._private_randrange.__self__.seed(seed + " more_itertools")


_RESEED = {
    "numpy.random": _numpy,
    "tempfile": _tempfile,
    "uuid": _uuid,
    "multiprocessing.process": _multiprocessing,
    "sympy.core.random": _sympy,
    "sympy.core.symbol": _sympy_dummies,
    "more_itertools.recipes": _more_itertools,
}
"""By module, the function that reseeds its generators; tests look into every bundled module for one that is missing."""

_frozen = []
"""The names of those that are in the image: a fork looks for no other."""


def freeze():
    """Note which generators the image has; before it is taken."""
    _frozen[:] = [name for name in _RESEED if name in _modules]


def reseed(seed):
    """Give every generator of the image a state that follows from `seed`, 64 hexadecimal digits."""
    _seed(int(seed, 16))
    for name in _frozen:
        _RESEED[name](_modules[name], seed)
