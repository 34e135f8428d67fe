"""kiwipy's names, from ``homing.kiwipy``."""

from homing.kiwipy import *  # noqa: F403
from homing.kiwipy import __all__ as _homing
from homing.kiwipy import __version__

from . import communicate, communications, exceptions, filters, futures, local, utils
from .utils import EventHelper

__all__ = (*_homing, *utils.__all__)
