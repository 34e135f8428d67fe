"""kiwipy's names for a broker, from ``homing.kiwipy.rmq``."""

from homing.kiwipy.rmq import *  # noqa: F403
from homing.kiwipy.rmq import __all__

from . import communicator, defaults, tasks, threadcomms, utils
