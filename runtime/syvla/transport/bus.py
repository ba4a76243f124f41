"""The bus as its users see it: processes publish through an Outlet and subscribe through an Inlet."""

from syvla.transport.addresses import ipc_directory
from syvla.transport.credit import Mode, Subscription
from syvla.transport.inlet import Inlet
from syvla.transport.outlet import Outlet

__all__ = ["Inlet", "Mode", "Outlet", "Subscription", "ipc_directory"]
