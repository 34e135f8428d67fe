"""The keys of a reply."""

__all__ = ()

HOST_KEY = "host"
HOSTNAME_KEY = "hostname"
PID_KEY = "pid"
RESULT_KEY = "result"
EXCEPTION_KEY = "exception"
CANCELLED_KEY = "cancelled"
PENDING_KEY = "pending"
