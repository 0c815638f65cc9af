"""Backpropagation through samples: gradients of L(θ, φ) = E_{x ~ p_φ}[f_θ(x)] for continuous and discrete x.

`import sampleprop` imports nothing else: the command would otherwise take seconds to print its version. The first
public name that is asked for imports torch and all others, but for the diagnostics and certificates, which a training
script seldom needs.
"""

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampleprop.certificates.certifying import certify as certify
    from sampleprop.diagnostics.auditing.audit import audit as audit
    from sampleprop.diagnostics.checking.check import check as check
    from sampleprop.diagnostics.comparing.compare import compare as compare
    from sampleprop.diagnostics.monitoring.monitor import Monitor as Monitor
    from sampleprop.diagnostics.recommending.recommend import recommend as recommend
    from sampleprop.public import *  # noqa: F403

__version__ = "0.2.0"

_SELDOM = {
    "certify": "certificates",
    "audit": "diagnostics",
    "check": "diagnostics",
    "compare": "diagnostics",
    "recommend": "diagnostics",
    "Monitor": "diagnostics",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, where it is first asked for."""
    if name in _SELDOM:
        return getattr(importlib.import_module(f"{__name__}.{_SELDOM[name]}"), name)
    if importlib.util.find_spec(f"{__name__}.{name}"):  # as in `from sampleprop import checks`
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__all__":  # of `from sampleprop import *`
        _load()
        return [name for name in vars(importlib.import_module(f"{__name__}.public")) if not name.startswith("_")]
    if not name.startswith("__"):  # Python asks for many of these, which no package has to have
        _load()
    if name in globals():
        return globals()[name]
    known = [kind.__name__ for kind in globals().get("REGISTER", ()) if name in kind.aliases]
    here = f"; here it is {known[0]}" if known else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{here}")


def __dir__() -> list[str]:
    _load()
    return sorted({*globals(), *_SELDOM, *_SELDOM.values()})


def _load() -> None:
    public = vars(importlib.import_module(f"{__name__}.public"))
    globals().update({name: value for name, value in public.items() if not name.startswith("_")})
