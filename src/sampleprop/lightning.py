"""`sampleprop.Monitor` in Lightning: what it measures, in the trainer's loggers and checkpoints.

Needs the extra: `pip install "sampleprop[lightning]"`. Without it this module can be imported, but the callback cannot
be made.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sampleprop.diagnostics.monitoring.monitor import Monitor

try:
    Callback: Any = import_module("lightning.pytorch.callbacks").Callback
except ImportError:
    Callback = None

_Base: Any = Callback or object


class LogMonitor(_Base):  # type: ignore[misc]  # known only where the extra is
    """Logs a monitor after each training step that probed, and keeps it in checkpoints.

    The module calls `monitor.expect` in its `training_step`; this does the rest. Each monitor needs its own callback
    and its own name.

    Args:
        monitor: the one that the module uses.

    Raises:
        ImportError: without Lightning.

    A training script::

        monitor = sp.Monitor(name="encoder")
        model = VAE(monitor)  # whose training_step returns self.monitor.expect(f, q, self.estimator).mean()
        lightning.Trainer(callbacks=[LogMonitor(monitor)]).fit(model, data)
    """

    def __init__(self, monitor: Monitor) -> None:
        if Callback is None:
            raise ImportError(
                'LogMonitor needs Lightning; it is not installed. Run: pip install "sampleprop[lightning]".'
            )
        super().__init__()
        self.monitor = monitor

    @property
    def state_key(self) -> str:
        """Under which the checkpoint keeps it: callbacks of several monitors differ by their names."""
        return f"sampleprop.LogMonitor({self.monitor.name!r})"

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Called by the trainer."""
        metrics = self.monitor.metrics()
        if metrics:
            pl_module.log_dict(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Called by the trainer."""
        return self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by the trainer."""
        self.monitor.load_state_dict(state_dict)
