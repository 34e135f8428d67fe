"""AiiDA's broker plugin: a profile whose broker is ``homing`` needs neither RabbitMQ nor ZeroMQ.

AiiDA finds it by the entry point group ``aiida.brokers``. A profile is turned over to it, while its daemon is stopped, by::

    python -m homing.aiida [PROFILE] [--broker-url local:]

``verdi profile configure-broker core.rabbitmq``, or ``core.zeromq``, turns it back. Names and bodies on the broker are AiiDA's
own.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiida.brokers.broker import Broker, BrokerConfigField
from aiida.common.log import AIIDA_LOGGER

from homing._shared import wrong
from homing.kiwipy._common import without_passwords

if TYPE_CHECKING:
    from aiida.manage.configuration.profile import Profile

    from homing.kiwipy.rmq import RmqThreadCommunicator

__all__ = ("HomingBroker",)

_LOGGER = AIIDA_LOGGER.getChild("broker.homing")
_DEFAULT_URL = "local:"


class _Open:
    """The communicator of a broker, while there is one."""

    def __init__(self) -> None:
        self.communicator: RmqThreadCommunicator | None = None

    def close(self) -> None:
        communicator, self.communicator = self.communicator, None
        if communicator is not None:
            communicator.close()


class HomingBroker(Broker):
    """A broker that homing connects to: one that the programs on this machine run among themselves, or RabbitMQ."""

    _config_fields = (
        BrokerConfigField(
            name="broker_url",
            prompt="Broker URL",
            help="Where the broker is: local: for one that AiiDA's own processes on this machine run, local:/a/folder for one "
            "whose files are there, or amqp://user:password@host/vhost for RabbitMQ.",
            default=_DEFAULT_URL,
            param_type="non_empty_string",
        ),
    )

    def __init__(self, profile: Profile) -> None:
        if not hasattr(profile, "process_control_config"):
            raise wrong("profile", "a profile of AiiDA", profile)
        super().__init__(profile)
        self._prefix = f"aiida-{profile.uuid}"
        self._open = _Open()
        self._finalizer = weakref.finalize(self, self._open.close)

    @property
    def url(self) -> str:
        """Where the broker is."""
        return str(self._profile.process_control_config.get("broker_url") or _DEFAULT_URL)

    def __str__(self) -> str:
        return f"homing @ {without_passwords(self.url)}"

    def get_communicator(self) -> RmqThreadCommunicator:
        """The communicator of this process, connected when it is first asked for."""
        communicator = self._open.communicator
        if communicator is None or communicator.is_closed():
            communicator = self._open.communicator = self._connect()
        return communicator

    def _connect(self) -> RmqThreadCommunicator:
        from aiida.manage.configuration import get_config_option
        from aiida.orm.utils import serialize

        from homing.kiwipy import rmq

        return rmq.connect(
            {"url": self.url},
            message_exchange=f"{self._prefix}.messages",
            task_exchange=f"{self._prefix}.tasks",
            task_queue=f"{self._prefix}.process.queue",
            task_prefetch_count=get_config_option("daemon.worker_process_slots"),
            encoder=functools.partial(serialize.serialize, encoding="utf-8"),
            decoder=serialize.deserialize_unsafe,
            testing_mode=self._profile.is_test_profile,
        )

    def iterate_tasks(self) -> Iterator[Any]:
        """The tasks that wait in the queue of the daemon. Those that are not worked on go back at the end."""
        yield from self.get_communicator().task_queue(f"{self._prefix}.process.queue")

    def check_service_reachable(self) -> bool:
        """True if the broker can be reached."""
        return bool(self.probe_service_status()["connected"])

    def probe_service_status(self) -> dict[str, Any]:
        """What the broker tells of itself. It never raises: ``error`` says why it cannot be reached."""
        was_open = self._open.communicator is not None
        try:
            return {"connected": True, "url": without_passwords(self.url), **self.get_communicator().server_properties}
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            _LOGGER.error("Failed to probe broker status: %s", text)
            return {"connected": False, "error": text}
        finally:
            if not was_open:
                self.close()

    def close(self) -> None:
        """Close what is open."""
        self._open.close()


def main(arguments: list[str] | None = None) -> None:
    """Turn a profile over to this broker."""
    import argparse

    from aiida.manage.configuration import get_config

    parser = argparse.ArgumentParser(prog="python -m homing.aiida", description="Turn an AiiDA profile over to homing.")
    parser.add_argument("profile", nargs="?", help="the profile; by default AiiDA's default profile")
    field = HomingBroker._config_fields[0]
    parser.add_argument("--broker-url", default=field.default, help=f"{field.help} Default: {field.default}")
    given = parser.parse_args(arguments)
    # Not all of it has types.
    config: Any = get_config()
    profile = config.get_profile(given.profile or config.default_profile_name)
    before = profile.process_control_backend
    profile.set_process_controller("homing", {"broker_url": given.broker_url})
    config.update_profile(profile).store()
    print(f"{profile.name}: the broker is homing @ {without_passwords(given.broker_url)}; it was {before}")


if __name__ == "__main__":
    main()
