"""A real kiwipy communicator that is driven from outside: the peer of the interoperability tests.

One JSON object a line on standard input, `{"id": 1, "do": "rpc_send", ...}`; one a line on standard output,
`{"id": 1, "ok": value}` or `{"id": 1, "error": {"type": "ValueError", "text": "..."}}`. Commands run side by side, each
on a thread of its own, and are answered when they are done, in any order. The end of standard input ends the process.
Values (bodies, results, arguments of queues) are in the form of values.py. Times are seconds.

connect       url, [message_exchange, task_exchange, task_queue, testing_mode, prefetch, operation_timeout,
              codec: "yaml" (kiwipy's own, the default) | "json" | "tags" (yaml that carries unknown tags)]
close
server_properties

rpc_send      recipient, body, [timeout = 10, wait = true]
task_send     body, [no_reply = false, queue, timeout, wait]
              -> an outcome: {"outcome": "result", "value"} | {"outcome": "exception", "type", "text"} |
              {"outcome": "cancelled"} | {"outcome": "timeout"} | {"outcome": "none"} (no_reply), always with "stages": the
              number of `pending` replies that came before it. With wait = false: {"call": name}, for `outcome`
outcome       call, [timeout = 10, until_stage] -> the same; may be asked again after a timeout. With until_stage also
              {"outcome": "pending"}, as soon as that many `pending` replies have come

add_rpc_subscriber        [identifier], BEHAVIOUR           -> the identifier
add_task_subscriber       [identifier], [queue], BEHAVIOUR  -> the identifier
add_broadcast_subscriber  [identifier, subject, sender, behaviour: "log" | "raise"] -> the identifier; subject and sender
                          are filters (a value, a list of them, {"$regex": "..."} for a compiled expression)
remove_rpc_subscriber, remove_task_subscriber ([queue]), remove_broadcast_subscriber   identifier
heard         log = the identifier, [count = 0, timeout = 10] -> what that subscriber was given, as soon as it is at least
              count entries (fewer when the time is over): [{"body", "at"}] and for broadcasts also sender, subject and
              correlation_id
BEHAVIOUR     behaviour = "echo" (the default), "return" (value), "count" (how many so far), "raise" ([text, type]),
              "raise-empty", "reject" (TaskRejected), "reject-first" (times = 1, then echo), "cancel" (raises
              CancelledError), "sleep" (seconds; blocks the communicator's own loop, then echo), "future" ([delay, value]),
              "nested-future" (depth, [delay, value]), "future-exception" ([delay, text, type]), "future-reject",
              "future-cancelled" ([delay]), "hold" (a future that stays open until `release`); depth makes any of the
              futures nested
release       hold = the subscriber's identifier, [index = 0 (of the open ones), value | text, type | cancel = true]

next_task     [queue, timeout = 5], action = "result" (value, default: the body) | "exception" (text) | "requeue" |
              "leave" (go on without processing it) | "hold" (keep it until `release_task`)
              -> {"body", "no_reply", "state"} or the error QueueEmpty
release_task  [value]   ends a held task with a result; without a value it is left unprocessed
iterate_tasks [queue, limit = 1000]  -> the bodies of all tasks, each ended with its body as result

broadcast_send  body, [sender, subject, correlation_id] -> whether the broker confirmed it

Straight to the broker, past kiwipy, on a connection of its own:
raw_connect        url
raw_publish        exchange ("" is the default one), routing_key, body ({"$bytes"} or text), [mandatory = false,
                   properties: {correlation_id, reply_to, message_id, content_type, content_encoding, delivery_mode,
                   priority, expiration, type, app_id, headers}] -> "ack" | "returned" | "nack"
raw_declare_queue  [queue = "", durable, exclusive, auto_delete, passive, arguments, bind: [[exchange, key], ...]]
                   -> {"queue", "messages", "consumers"}
raw_declare_exchange  exchange, [type = "topic", durable, auto_delete, passive, arguments]
raw_unbind         queue, exchange, key
raw_consume        queue, [no_ack = true, log = queue, tag, ack: "ack" | "requeue" | "reject" | "never" (default)]
                   -> the consumer's tag; what comes is in `heard`: {"body", "at", "exchange", "routing_key", "redelivered",
                   "properties"}
raw_cancel         queue, tag
raw_get            queue -> one message as above, taken off the queue, or null
raw_purge          queue;    raw_delete  queue | exchange
raw_close
ping, echo (value: goes through values.py and back), exit (leaves at once, closing nothing: as a crash would)
"""
import asyncio
import base64
import concurrent.futures
from functools import partial
import json
import os
import re
import sys
import threading
import time
import traceback
import uuid

import aio_pika
import kiwipy
import kiwipy.rmq
from kiwipy.rmq import defaults
import yaml

from values import Tagged, from_json, to_json


class TagLoader(yaml.FullLoader):
    """FullLoader that carries what it does not know."""


class TagDumper(yaml.Dumper):
    """Writes what TagLoader carried."""


def _construct_tagged(loader, _suffix, node):
    if isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_scalar(node)
    return Tagged(node.tag, value)


def _represent_tagged(dumper, tagged):
    if isinstance(tagged.value, dict):
        return dumper.represent_mapping(tagged.tag, tagged.value)
    if isinstance(tagged.value, (list, tuple)):
        return dumper.represent_sequence(tagged.tag, tagged.value)
    return dumper.represent_scalar(tagged.tag, str(tagged.value))


TagLoader.add_multi_constructor("!", _construct_tagged)
TagLoader.add_multi_constructor("tag:yaml.org,2002:python/object", _construct_tagged)
TagDumper.add_representer(Tagged, _represent_tagged)

CODECS = {
    "yaml": (defaults.ENCODER, defaults.DECODER),
    "tags": (partial(yaml.dump, encoding="utf-8", Dumper=TagDumper), partial(yaml.load, Loader=TagLoader)),
    "json": (lambda value: json.dumps(value).encode(), lambda body: json.loads(body)),
}

EXCEPTIONS = {
    name: getattr(kiwipy, name)
    for name in ("RemoteException", "DeliveryFailed", "TaskRejected", "UnroutableError", "QueueEmpty", "InvalidStateError")
}
EXCEPTIONS.update({kind.__name__: kind for kind in (Exception, ValueError, RuntimeError, KeyError, TypeError, OSError)})


class Logs:
    """What subscribers have heard, by the name of the subscriber."""

    def __init__(self):
        self._entries = {}
        self._changed = threading.Condition()

    def add(self, log, entry):
        entry["at"] = time.time()
        with self._changed:
            self._entries.setdefault(log, []).append(entry)
            self._changed.notify_all()

    def wait(self, log, count, timeout):
        with self._changed:
            self._changed.wait_for(lambda: len(self._entries.get(log, [])) >= count, timeout)
            return list(self._entries.get(log, []))


class Call:
    """A call under way; remembers how many pending replies have come."""

    def __init__(self, future):
        self._future = future
        self._stages = 0
        self._lock = threading.Lock()

    def outcome(self, timeout, until_stage=None):
        with self._lock:
            return {**self._outcome(time.monotonic() + timeout, until_stage), "stages": self._stages}

    def _outcome(self, deadline, until_stage):
        while True:
            if until_stage is not None and self._stages >= until_stage:
                return {"outcome": "pending"}
            try:
                # A kiwipy future ends with another one for each `pending` reply.
                result = self._future.result(timeout=max(0.0, deadline - time.monotonic()))
            except concurrent.futures.CancelledError:
                return {"outcome": "cancelled"}
            except concurrent.futures.TimeoutError as exception:
                if self._future.done():
                    return describe(exception)
                return {"outcome": "timeout"}
            except Exception as exception:  # pylint: disable=broad-except
                return describe(exception)
            if not isinstance(result, kiwipy.Future):
                return {"outcome": "result", "value": to_json(result)}
            self._stages += 1
            self._future = result


def describe(exception):
    return {"outcome": "exception", "type": type(exception).__name__, "text": str(exception)}


def exception_of(options, text="the subscriber failed"):
    return EXCEPTIONS[options.get("type", "ValueError")](options.get("text", text))


def end_future(future, options, default):
    if options.get("cancel"):
        future.cancel()
    elif "text" in options or "type" in options:
        future.set_exception(exception_of(options))
    else:
        future.set_result(from_json(options["value"]) if "value" in options else default)


class Behaviour:
    """What a subscriber for RPC or tasks does with what it is given."""

    KINDS = (
        "echo", "return", "count", "raise", "raise-empty", "reject", "reject-first", "cancel", "sleep", "future",
        "nested-future", "future-exception", "future-reject", "future-cancelled", "hold"
    )

    def __init__(self, peer, options):
        self.options = options
        self.kind = options.get("behaviour", "echo")
        if self.kind not in self.KINDS:
            raise ValueError(f"unknown behaviour {self.kind}")
        self.peer = peer
        self.log = None  # known once the subscriber has its identifier
        self.named = threading.Event()
        self.calls = 0
        self.held = []

    def name(self, identifier):
        self.log = identifier
        self.peer.behaviours[identifier] = self
        self.named.set()
        return identifier

    def __call__(self, communicator, body):
        self.calls += 1
        if not self.named.is_set():
            # On the communicator's loop, before add_..._subscriber has come back with a generated identifier.
            threading.Thread(target=self._late, args=(body,), daemon=True).start()
        else:
            self.peer.logs.add(self.log, {"body": to_json(body)})
        return getattr(self, "_" + self.kind.replace("-", "_"))(body)

    def _late(self, body):
        self.named.wait()
        self.peer.logs.add(self.log, {"body": to_json(body)})

    def _echo(self, body):
        return body

    def _return(self, _body):
        return from_json(self.options["value"])

    def _count(self, _body):
        return self.calls

    def _raise(self, _body):
        raise exception_of(self.options)

    def _raise_empty(self, _body):
        raise ValueError()

    def _reject(self, _body):
        raise kiwipy.TaskRejected(self.options.get("text", "not for me"))

    def _reject_first(self, body):
        if self.calls <= self.options.get("times", 1):
            raise kiwipy.TaskRejected("not yet")
        return body

    def _cancel(self, _body):
        raise kiwipy.CancelledError()

    def _sleep(self, body):
        time.sleep(self.options["seconds"])
        return body

    def _later(self, body, end):
        """A future, or as many of them inside each other as `depth` says, that ends in this way after the delay."""
        outer = inner = kiwipy.Future()
        chain = [inner]
        for _ in range(self.options.get("depth", 1) - 1):
            inner = kiwipy.Future()
            chain.append(inner)
        delay = self.options.get("delay", 0.05)

        def run():
            for index, future in enumerate(chain[:-1]):
                time.sleep(delay)
                future.set_result(chain[index + 1])
            time.sleep(delay)
            end(chain[-1])

        threading.Thread(target=run, daemon=True).start()
        return outer

    def _future(self, body):
        value = from_json(self.options["value"]) if "value" in self.options else body
        return self._later(body, lambda future: future.set_result(value))

    _nested_future = _future

    def _future_exception(self, body):
        return self._later(body, lambda future: future.set_exception(exception_of(self.options)))

    def _future_reject(self, body):
        return self._later(body, lambda future: future.set_exception(kiwipy.TaskRejected("not for me")))

    def _future_cancelled(self, body):
        return self._later(body, lambda future: future.cancel())

    def _hold(self, body):
        future = kiwipy.Future()
        self.held.append((future, body))
        return future


class Raw:
    """A connection to the broker past kiwipy, on a loop of its own."""

    def __init__(self, peer):
        self._peer = peer
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="raw", daemon=True).start()
        self._connection = None
        self._channel = None
        self._queues = {}

    def run(self, coroutine, timeout=15.0):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    async def connect(self, url):
        self._connection = await aio_pika.connect(url)

    async def _open(self):
        """The channel; a new one when the server has closed the last over an error."""
        if self._connection is None:
            raise RuntimeError("raw_connect comes first")
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            self._queues = {}
        return self._channel

    async def publish(self, exchange, routing_key, body, properties, mandatory):
        channel = await self._open()
        message = aio_pika.Message(body=body, **properties)
        if exchange == "":
            target = channel.default_exchange
        else:
            target = await channel.get_exchange(exchange, ensure=False)
        try:
            await target.publish(message, routing_key=routing_key, mandatory=mandatory)
        except aio_pika.exceptions.PublishError:
            return "returned"
        except aio_pika.exceptions.DeliveryError:
            return "nack"
        return "ack"

    async def declare_queue(self, options):
        channel = await self._open()
        queue = await channel.declare_queue(
            options.get("queue") or None,
            durable=options.get("durable", False),
            exclusive=options.get("exclusive", False),
            auto_delete=options.get("auto_delete", False),
            passive=options.get("passive", False),
            arguments=from_json(options.get("arguments")),
        )
        for exchange, key in options.get("bind", []):
            await queue.bind(exchange, routing_key=key)
        self._queues[queue.name] = queue
        counts = queue.declaration_result
        return {"queue": queue.name, "messages": counts.message_count, "consumers": counts.consumer_count}

    async def declare_exchange(self, options):
        channel = await self._open()
        exchange = await channel.declare_exchange(
            options["exchange"],
            type=options.get("type", "topic"),
            durable=options.get("durable", False),
            auto_delete=options.get("auto_delete", False),
            passive=options.get("passive", False),
            arguments=from_json(options.get("arguments")),
        )
        return exchange.name

    async def _queue(self, name):
        channel = await self._open()
        if name not in self._queues:
            self._queues[name] = await channel.get_queue(name, ensure=False)
        return self._queues[name]

    async def unbind(self, queue, exchange, key):
        await (await self._queue(queue)).unbind(exchange, routing_key=key)

    async def consume(self, options):
        queue = await self._queue(options["queue"])
        log = options.get("log", options["queue"])
        no_ack = options.get("no_ack", "ack" not in options)
        answer = options.get("ack", "never")

        async def heard(message):
            self._peer.logs.add(log, self.describe(message))
            if not no_ack:
                if answer == "ack":
                    await message.ack()
                elif answer == "requeue":
                    await message.nack(requeue=True)
                elif answer == "reject":
                    await message.reject(requeue=False)

        return await queue.consume(heard, no_ack=no_ack, consumer_tag=options.get("tag"))

    async def cancel(self, queue, tag):
        await (await self._queue(queue)).cancel(tag)

    async def get(self, name):
        message = await (await self._queue(name)).get(no_ack=True, fail=False, timeout=10)
        return None if message is None else self.describe(message)

    async def purge(self, name):
        return (await (await self._queue(name)).purge()).message_count

    async def delete(self, queue=None, exchange=None):
        channel = await self._open()
        if queue is not None:
            await channel.queue_delete(queue)
            self._queues.pop(queue, None)
        if exchange is not None:
            await channel.exchange_delete(exchange)

    async def close(self):
        if self._connection is not None:
            await self._connection.close()
            self._connection = self._channel = None

    @staticmethod
    def describe(message):
        properties = {
            "correlation_id": message.correlation_id,
            "reply_to": message.reply_to,
            "message_id": message.message_id,
            "content_type": message.content_type,
            "content_encoding": message.content_encoding,
            "delivery_mode": None if message.delivery_mode is None else int(message.delivery_mode),
            "priority": message.priority,
            "expiration": message.expiration,
            "type": message.type,
            "app_id": message.app_id,
            "headers": to_json(dict(message.headers)),
        }
        return {
            "body": {"$bytes": base64.b64encode(message.body).decode()},
            "exchange": message.exchange,
            "routing_key": message.routing_key,
            "redelivered": message.redelivered,
            "properties": properties,
        }


class Peer:

    def __init__(self):
        self.logs = Logs()
        self.lock = threading.Lock()
        self.behaviours = {}
        self.calls = {}
        self.queues = {}
        self.held_tasks = []
        self.default_queue = None
        self.communicator = None
        self.raw = None

    # The communicator itself

    def do_connect(self, url, **options):
        encoder, decoder = CODECS[options.pop("codec", "yaml")]
        known = {
            "message_exchange": "message_exchange", "task_exchange": "task_exchange", "task_queue": "task_queue",
            "testing_mode": "testing_mode", "prefetch": "task_prefetch_count",
            "operation_timeout": "async_task_timeout",
        }
        arguments = {known[name]: value for name, value in options.items()}
        self.default_queue = options.get("task_queue", defaults.TASK_QUEUE)
        self.communicator = kiwipy.rmq.RmqThreadCommunicator.connect(
            url, encoder=encoder, decoder=decoder, **arguments
        )

    def do_close(self):
        self.communicator.close()

    def do_server_properties(self):
        return to_json(dict(self.communicator.server_properties))

    def queue(self, name=None):
        """A named queue, opened once; without a name the default one, in the form that can be pulled from."""
        name = name or self.default_queue
        with self.lock:
            if name not in self.queues:
                self.queues[name] = self.communicator.task_queue(name)
            return self.queues[name]

    # Sending

    def _begin(self, future, timeout, wait):
        if future is None:
            return {"outcome": "none", "stages": 0}
        call = Call(future)
        if wait:
            return call.outcome(timeout)
        name = uuid.uuid4().hex
        self.calls[name] = call
        return {"call": name}

    def do_rpc_send(self, recipient, body=None, timeout=10.0, wait=True):
        try:
            future = self.communicator.rpc_send(from_json(recipient), from_json(body))
        except Exception as exception:  # pylint: disable=broad-except
            return {**describe(exception), "stages": 0}
        return self._begin(future, timeout, wait)

    def do_task_send(self, body=None, no_reply=False, queue=None, timeout=10.0, wait=True):
        sender = self.communicator if queue is None else self.queue(queue)
        try:
            future = sender.task_send(from_json(body), no_reply)
        except Exception as exception:  # pylint: disable=broad-except
            return {**describe(exception), "stages": 0}
        return self._begin(future, timeout, wait)

    def do_outcome(self, call, timeout=10.0, until_stage=None):
        return self.calls[call].outcome(timeout, until_stage)

    def do_broadcast_send(self, body=None, sender=None, subject=None, correlation_id=None):
        return self.communicator.broadcast_send(
            from_json(body), from_json(sender), from_json(subject), from_json(correlation_id)
        )

    # Subscribers

    def do_add_rpc_subscriber(self, identifier=None, **options):
        behaviour = Behaviour(self, options)
        if identifier is not None:
            behaviour.name(identifier)
        return behaviour.name(self.communicator.add_rpc_subscriber(behaviour_function(behaviour), identifier))

    def do_remove_rpc_subscriber(self, identifier):
        self.communicator.remove_rpc_subscriber(identifier)

    def do_add_task_subscriber(self, identifier=None, queue=None, **options):
        behaviour = Behaviour(self, options)
        if queue is not None:
            # kiwipy gives a subscriber of a named queue no say in its identifier.
            return behaviour.name(self.queue(queue).add_task_subscriber(behaviour_function(behaviour)))
        if identifier is not None:
            behaviour.name(identifier)
        return behaviour.name(self.communicator.add_task_subscriber(behaviour_function(behaviour), identifier))

    def do_remove_task_subscriber(self, identifier, queue=None):
        (self.communicator if queue is None else self.queue(queue)).remove_task_subscriber(identifier)

    def do_add_broadcast_subscriber(self, identifier=None, subject=None, sender=None, behaviour="log"):
        identifier = identifier or uuid.uuid4().hex

        def heard(_communicator, body, sender, subject, correlation_id):
            self.logs.add(
                identifier, {
                    "body": to_json(body), "sender": to_json(sender), "subject": to_json(subject),
                    "correlation_id": to_json(correlation_id)
                }
            )
            if behaviour == "raise":
                raise ValueError("the broadcast subscriber failed")

        subscriber = heard
        if subject is not None or sender is not None:
            subscriber = kiwipy.BroadcastFilter(heard)
            for value in filters(subject):
                subscriber.add_subject_filter(value)
            for value in filters(sender):
                subscriber.add_sender_filter(value)
        return self.communicator.add_broadcast_subscriber(subscriber, identifier)

    def do_remove_broadcast_subscriber(self, identifier):
        self.communicator.remove_broadcast_subscriber(identifier)

    def do_heard(self, log, count=0, timeout=10.0):
        return self.logs.wait(log, count, timeout)

    def do_release(self, hold, index=0, **options):
        future, body = self.behaviours[hold].held.pop(index)
        end_future(future, options, body)

    # Pulling tasks

    def do_next_task(self, queue=None, timeout=5.0, action="result", reply=None, **options):
        queue = self.queue(queue)
        with queue.next_task(timeout=timeout) as task:
            body = to_json(task.body)
            about = {"body": body, "no_reply": task.no_reply}
            if action == "result":
                with task.processing() as outcome:
                    outcome.set_result(from_json(options.get("value", body)))
            elif action == "exception":
                with task.processing() as outcome:
                    outcome.set_exception(exception_of(options))
            elif action == "requeue":
                task.requeue()
            elif action == "hold":
                released = threading.Event()
                entry = {"released": released}
                with self.lock:
                    self.held_tasks.append(entry)
                reply({**about, "state": task.state})
                released.wait()
                try:
                    if "value" in entry:
                        with task.processing() as outcome:
                            outcome.set_result(from_json(entry["value"]))
                finally:
                    entry["done"].set()
            elif action != "leave":
                raise ValueError(f"unknown action {action}")
        return {**about, "state": task.state}

    def do_release_task(self, **options):
        with self.lock:
            entry = self.held_tasks.pop(0)
        entry.update(options)
        entry["done"] = threading.Event()
        entry["released"].set()
        if not entry["done"].wait(10):
            raise TimeoutError("the held task did not end")

    def do_iterate_tasks(self, queue=None, limit=1000):
        bodies = []
        for task in self.queue(queue):
            bodies.append(to_json(task.body))
            with task.processing() as outcome:
                outcome.set_result(task.body)
            if len(bodies) >= limit:
                break
        return bodies

    # Past kiwipy

    def do_raw_connect(self, url):
        self.raw = Raw(self)
        self.raw.run(self.raw.connect(url))

    def do_raw_publish(self, exchange, routing_key, body, mandatory=False, properties=None):
        body = from_json(body)
        properties = {name: from_json(value) for name, value in (properties or {}).items()}
        return self.raw.run(
            self.raw.publish(
                exchange, routing_key, body.encode() if isinstance(body, str) else body, properties, mandatory
            )
        )

    def do_raw_declare_queue(self, **options):
        return self.raw.run(self.raw.declare_queue(options))

    def do_raw_declare_exchange(self, **options):
        return self.raw.run(self.raw.declare_exchange(options))

    def do_raw_unbind(self, queue, exchange, key):
        self.raw.run(self.raw.unbind(queue, exchange, key))

    def do_raw_consume(self, **options):
        return self.raw.run(self.raw.consume(options))

    def do_raw_cancel(self, queue, tag):
        self.raw.run(self.raw.cancel(queue, tag))

    def do_raw_get(self, queue):
        return self.raw.run(self.raw.get(queue))

    def do_raw_purge(self, queue):
        return self.raw.run(self.raw.purge(queue))

    def do_raw_delete(self, queue=None, exchange=None):
        self.raw.run(self.raw.delete(queue, exchange))

    def do_raw_close(self):
        self.raw.run(self.raw.close())

    # The script itself

    def do_ping(self):
        return {"kiwipy": kiwipy.__version__, "aio_pika": aio_pika.__version__, "pid": os.getpid()}

    def do_echo(self, value=None):
        return to_json(from_json(value))

    def do_exit(self):
        os._exit(0)


def behaviour_function(behaviour):
    """kiwipy wraps subscribers with functools.wraps, which wants a function."""

    def subscriber(communicator, body):
        return behaviour(communicator, body)

    return subscriber


def filters(value):
    if value is None:
        return []
    if isinstance(value, dict) and set(value) == {"$regex"}:
        return [re.compile(value["$regex"])]
    if isinstance(value, list):
        return [one for item in value for one in filters(item)]
    return [from_json(value)]


def main(peer):
    output = threading.Lock()

    def write(answer):
        line = json.dumps(answer)
        with output:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def serve(request):
        number = request.pop("id", None)
        answered = []

        def reply(value):
            answered.append(True)
            write({"id": number, "ok": value})

        try:
            name = request.pop("do")
            function = getattr(peer, f"do_{name}", None)
            if function is None:
                raise ValueError(f"unknown command {name}")
            if name == "next_task":
                request["reply"] = reply
            result = function(**request)
        except Exception as exception:  # pylint: disable=broad-except
            if not answered:
                write({"id": number, "error": {"type": type(exception).__name__, "text": str(exception)}})
            if not isinstance(exception, (kiwipy.QueueEmpty, kiwipy.DuplicateSubscriberIdentifier)):
                traceback.print_exc()
        else:
            if not answered:
                write({"id": number, "ok": result})

    for line in sys.stdin:
        if line.strip():
            threading.Thread(target=serve, args=(json.loads(line),), daemon=True).start()
    # Whoever drove us has gone: leave at once, the broker takes back what was ours.
    os._exit(0)


if __name__ == "__main__":
    main(Peer())
