"""Shows that the peer script does what it says, with two of it as each other's peer on the broker HOMING_TEST_AMQP.

What the interoperability tests conclude about homing stands on this: here both ends are kiwipy.
"""
import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
URL = os.environ.get("HOMING_TEST_AMQP")


class PeerError(Exception):

    def __init__(self, error):
        super().__init__(f"{error['type']}: {error['text']}")
        self.type = error["type"]


class Peer:
    """One process of the script."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "kiwipy_peer.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True
        )
        self.errors = []
        self._answers = {}
        self._lock = threading.Lock()
        self._number = 0
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            self._answers[answer["id"]].put(answer)

    def send(self, name, **arguments):
        with self._lock:
            self._number += 1
            number = self._number
            self._answers[number] = queue.Queue()
            self.process.stdin.write(json.dumps({"id": number, "do": name, **arguments}) + "\n")
            self.process.stdin.flush()
        return number

    def answer(self, number, timeout=20):
        answer = self._answers[number].get(timeout=timeout)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["ok"]

    def __call__(self, name, **arguments):
        return self.answer(self.send(name, **arguments))

    def end(self):
        self.process.stdin.close()
        self.process.wait(10)


def names():
    unique = uuid.uuid4().hex
    return {
        "message_exchange": f"{unique}.messages", "task_exchange": f"{unique}.tasks", "task_queue": f"{unique}.queue",
        "testing_mode": True
    }


def result(value, stages=0):
    return {"outcome": "result", "value": value, "stages": stages}


def exception(text, stages=0, kind="RemoteException"):
    return {"outcome": "exception", "type": kind, "text": text, "stages": stages}


def expect(actual, wanted):
    assert actual == wanted, f"{actual!r} is not {wanted!r}"


def expect_error(kind, function, *arguments, **more):
    try:
        value = function(*arguments, **more)
    except PeerError as error:
        expect(error.type, kind)
    else:
        raise AssertionError(f"{value!r} instead of {kind}")


VALUES = [
    None, True, 1, -7, 1.5, 1e300, "", "text", "1e5", "yes", "ünï\u2028 \U0001f600", [1, [2, []]], {"a": {"b": [None]}},
    {"$tuple": [1, {"$tuple": []}]}, {"$bytes": "AAH/"}, {"$int": str(2**200)}, {"$float": "nan"}, {"$float": "-inf"},
    {"$set": [1, 2]}, {"$dict": [[1, "one"], [{"$tuple": [1, 2]}, "pair"]]},
    {"$dict": [["$tuple", 1]]}, {"$date": "2024-01-31"}, {"$datetime": "2024-01-31T10:00:00+00:00"},
]


def values_pass_through(a, b):
    b("add_rpc_subscriber", identifier="echo")
    for value in VALUES:
        expect(a("echo", value=value), value)
        expect(a("rpc_send", recipient="echo", body=value), result(value))
    expect([entry["body"] for entry in b("heard", log="echo", count=len(VALUES))], VALUES)


def rpc_behaviours(a, b):
    cases = {
        "return": ({"behaviour": "return", "value": [1]}, result([1])),
        "count": ({"behaviour": "count"}, result(1)),
        "raise": ({"behaviour": "raise", "text": "boom: äöü"}, exception("boom: äöü")),
        "raise-empty": ({"behaviour": "raise-empty"}, exception("")),
        "reject": ({"behaviour": "reject", "text": "no"}, exception("no")),
        "sleep": ({"behaviour": "sleep", "seconds": 0.1}, result("body")),
        "future": ({"behaviour": "future"}, result("body", 1)),
        "nested": ({"behaviour": "nested-future", "depth": 4, "value": "deep"}, result("deep", 4)),
        "failed": ({"behaviour": "future-exception", "text": "late"}, exception("late", 1)),
        "nested-failed": ({"behaviour": "future-exception", "depth": 2, "text": "late"}, exception("late", 2)),
    }
    for identifier, (behaviour, outcome) in cases.items():
        expect(b("add_rpc_subscriber", identifier=identifier, **behaviour), identifier)
        expect(a("rpc_send", recipient=identifier, body="body"), outcome)


def rpc_cancelled_hangs_the_caller(a, b):
    """kiwipy's bug: after `pending` nothing is sent."""
    b("add_rpc_subscriber", identifier="cancelled", behaviour="future-cancelled")
    expect(a("rpc_send", recipient="cancelled", timeout=1.5), {"outcome": "timeout", "stages": 1})


def rpc_hold_and_release(a, b):
    identifier = b("add_rpc_subscriber", behaviour="hold")
    calls = [a("rpc_send", recipient=identifier, body=number, wait=False)["call"] for number in range(3)]
    for call in calls:
        expect(a("outcome", call=call, until_stage=1), {"outcome": "pending", "stages": 1})
        expect(a("outcome", call=call, timeout=0.1), {"outcome": "timeout", "stages": 1})
    b("release", hold=identifier)
    b("release", hold=identifier, text="told to fail")
    b("release", hold=identifier, value={"$tuple": [1]})
    expect(a("outcome", call=calls[0]), result(0, 1))
    expect(a("outcome", call=calls[1]), exception("told to fail", 1))
    expect(a("outcome", call=calls[2]), result({"$tuple": [1]}, 1))


def rpc_unroutable_and_duplicate(a, b):
    outcome = a("rpc_send", recipient="nobody")
    expect((outcome["outcome"], outcome["type"]), ("exception", "UnroutableError"))
    b("add_rpc_subscriber", identifier="once")
    expect_error("DuplicateSubscriberIdentifier", b, "add_rpc_subscriber", identifier="once")
    b("remove_rpc_subscriber", identifier="once")
    expect_error("ValueError", b, "remove_rpc_subscriber", identifier="once")
    outcome = a("rpc_send", recipient="once")
    expect(outcome["type"], "UnroutableError")


def task_behaviours(a, b):
    cases = [
        ({"behaviour": "echo"}, result("body")),
        ({"behaviour": "raise", "text": "boom"}, exception("boom")),
        ({"behaviour": "reject-first", "times": 2}, result("body")),
        ({"behaviour": "future"}, result("body", 1)),
        ({"behaviour": "nested-future", "depth": 3}, result("body", 3)),
        ({"behaviour": "future-exception", "text": "late"}, exception("late", 1)),
        ({"behaviour": "count"}, result(1)),
    ]
    for behaviour, outcome in cases:
        identifier = b("add_task_subscriber", **behaviour)
        expect(a("task_send", body="body"), outcome)
        b("remove_task_subscriber", identifier=identifier)
    expect_error("ValueError", b, "remove_task_subscriber", identifier="nobody")


def task_without_reply(a, b):
    b("add_task_subscriber", identifier="silent")
    expect(a("task_send", body={"x": 1}, no_reply=True), {"outcome": "none", "stages": 0})
    expect([entry["body"] for entry in b("heard", log="silent", count=1)], [{"x": 1}])


def task_hold_in_a_named_queue(a, b):
    name = "named-" + uuid.uuid4().hex
    identifier = b("add_task_subscriber", queue=name, behaviour="hold")
    call = a("task_send", body=1, queue=name, wait=False)["call"]
    b("heard", log=identifier, count=1)
    expect(a("outcome", call=call, until_stage=1), {"outcome": "pending", "stages": 1})
    b("release", hold=identifier, value="done")
    expect(a("outcome", call=call), result("done", 1))
    b("remove_task_subscriber", queue=name, identifier=identifier)


def pulled_tasks(a, b):
    expect_error("QueueEmpty", b, "next_task")
    call = a("task_send", body="pulled", wait=False)["call"]
    expect(b("next_task", action="leave"), {"body": "pulled", "no_reply": False, "state": "requeued"})
    expect(b("next_task", action="requeue")["state"], "requeued")
    held = b("next_task", action="hold")
    expect(held["body"], "pulled")
    expect_error("QueueEmpty", b, "next_task")
    b("release_task")
    expect(b("next_task", value="processed")["state"], "finished")
    expect(a("outcome", call=call), result("processed"))
    call = a("task_send", body="pulled", wait=False)["call"]
    b("next_task", action="exception", text="no good")
    expect(a("outcome", call=call), exception("no good"))
    calls = [a("task_send", body=number, wait=False)["call"] for number in range(3)]
    expect(b("iterate_tasks"), [0, 1, 2])
    for number, call in enumerate(calls):
        expect(a("outcome", call=call), result(number))


def a_crash_gives_the_task_back(a, b):
    third = Peer()
    options = names()
    for peer in (third, a, b):
        if peer is not third:
            peer("close")
        peer("connect", url=URL, **options)
    third("add_task_subscriber", identifier="crashing", behaviour="hold")
    call = a("task_send", body="survives", wait=False)["call"]
    expect(a("outcome", call=call, until_stage=1), {"outcome": "pending", "stages": 1})
    third.send("exit")
    third.process.wait(10)
    b("add_task_subscriber", identifier="heir")
    expect(a("outcome", call=call), result("survives", 1))


def broadcasts(a, b):
    b("add_broadcast_subscriber", identifier="all")
    b("add_broadcast_subscriber", identifier="failing", behaviour="raise")
    b("add_broadcast_subscriber", identifier="star", subject="state_changed.*.finished")
    b("add_broadcast_subscriber", identifier="regex", subject={"$regex": "^(?!state_changed).*"})
    b("add_broadcast_subscriber", identifier="senders", sender=[4, "me"])
    sent = [("state_changed.running.finished", 4), ("state_changed.created.running", "me"), ("pause", 5), (None, None)]
    for subject, sender in sent:
        expect(a("broadcast_send", body=[subject], sender=sender, subject=subject, correlation_id="c"), True)
    heard = b("heard", log="all", count=4)
    expect([(entry["subject"], entry["sender"], entry["body"], entry["correlation_id"]) for entry in heard],
           [(subject, sender, [subject], "c") for subject, sender in sent])

    def subjects(log, count):
        return [entry["subject"] for entry in b("heard", log=log, count=count)]

    expect(len(subjects("failing", 4)), 4)
    expect(subjects("star", 2), ["state_changed.running.finished", None])
    expect(subjects("regex", 2), ["pause", None])
    expect(subjects("senders", 3), ["state_changed.running.finished", "state_changed.created.running", None])
    b("remove_broadcast_subscriber", identifier="all")
    expect_error("ValueError", b, "remove_broadcast_subscriber", identifier="all")


def unknown_tags_are_carried(a, b):
    options = names()
    for peer in (a, b):
        peer("close")
        peer("connect", url=URL, codec="tags", **options)
    b("add_rpc_subscriber", identifier="echo")
    for value in [{"$tag": "!aiida_node", "value": "6b3b8a0c"}, {"$tag": "!plumpy:bundle", "value": {"a": [1]}},
                  {"in": [{"$tag": "!enum", "value": ["x", 1]}]}]:
        expect(a("rpc_send", recipient="echo", body=value), result(value))
    identifier = {"$uuid": "6b3b8a0c-8f1e-4b52-9f26-0d7a58e0ce5f"}
    expect(a("echo", value=identifier), identifier)
    # PyYAML's own form of a uuid, which kiwipy's default loader refuses.
    outcome = a("rpc_send", recipient="echo", body=identifier)
    expect(outcome["value"]["$tag"], "tag:yaml.org,2002:python/object:uuid.UUID")


def json_codec(a, b):
    options = names()
    for peer in (a, b):
        peer("close")
        peer("connect", url=URL, codec="json", **options)
    b("add_rpc_subscriber", identifier="echo")
    expect(a("rpc_send", recipient="echo", body={"a": [1, 2.5, None]}), result({"a": [1, 2.5, None]}))


def raw_access(a, b):
    exchange = "raw-" + uuid.uuid4().hex
    for peer in (a, b):
        peer("raw_connect", url=URL)
    a("raw_declare_exchange", exchange=exchange, auto_delete=True)
    declared = b("raw_declare_queue", exclusive=True, bind=[[exchange, "key"]], arguments={"x-message-ttl": 60000})
    name = declared["queue"]
    body = {"$bytes": "/wD+"}
    properties = {"correlation_id": "c", "reply_to": "r", "headers": {"h": 1}, "delivery_mode": 2}
    expect(a("raw_publish", exchange=exchange, routing_key="key", body=body, properties=properties), "ack")
    expect(a("raw_publish", exchange=exchange, routing_key="other", body="x", mandatory=True), "returned")
    expect(a("raw_publish", exchange="", routing_key="nowhere-" + exchange, body="x"), "ack")
    message = b("raw_get", queue=name)
    expect((message["body"], message["exchange"], message["routing_key"]), (body, exchange, "key"))
    expect({key: message["properties"][key] for key in properties}, properties)
    expect(b("raw_get", queue=name), None)
    tag = b("raw_consume", queue=name)
    a("raw_publish", exchange=exchange, routing_key="key", body="text")
    expect(b("heard", log=name, count=1)[0]["body"], {"$bytes": "dGV4dA=="})
    expect(b("raw_declare_queue", queue=name, passive=True)["consumers"], 1)
    b("raw_cancel", queue=name, tag=tag)
    expect_error("ChannelNotFoundEntity", a, "raw_declare_queue", queue="none-" + exchange, passive=True)
    b("raw_delete", queue=name)
    for peer in (a, b):
        peer("raw_close")


def malformed_bodies_reach_kiwipy(a, b):
    options = names()
    a("close")
    a("connect", url=URL, **options)
    a("add_rpc_subscriber", identifier="echo")
    b("raw_connect", url=URL)
    body = {"$bytes": "e3t7"}
    expect(
        b("raw_publish", exchange=options["message_exchange"], routing_key="[rpc].echo", body=body,
          properties={"reply_to": "nowhere", "correlation_id": "c"}, mandatory=True), "ack"
    )
    time.sleep(0.3)
    expect(a("heard", log="echo"), [])
    b("raw_close")


def the_connection_of_a_peer(a, _b):
    expect(a("server_properties")["product"], "RabbitMQ")
    expect(a("ping")["kiwipy"], "0.9.0")
    expect_error("ValueError", a, "no_such_command")
    expect_error("ValueError", a, "echo", value={"$nonsense": 1})
    a("close")
    expect_error("CommunicatorClosed", a, "broadcast_send", body=1)


TESTS = [
    values_pass_through, rpc_behaviours, rpc_cancelled_hangs_the_caller, rpc_hold_and_release,
    rpc_unroutable_and_duplicate, task_behaviours, task_without_reply, task_hold_in_a_named_queue, pulled_tasks,
    a_crash_gives_the_task_back, broadcasts, unknown_tags_are_carried, json_codec, raw_access,
    malformed_bodies_reach_kiwipy, the_connection_of_a_peer
]


def run(test):
    peers = [Peer(), Peer()]
    try:
        options = names()
        for peer in peers:
            peer("connect", url=URL, **options)
        test(*peers)
        return None
    except Exception:  # pylint: disable=broad-except
        for peer in peers:
            if peer.process.poll() is None:
                peer.process.kill()
        time.sleep(0.2)
        said = "".join(line for peer in peers for line in peer.errors[-30:])
        return f"{traceback.format_exc()}--- what the peers said ---\n{said}"
    finally:
        for peer in peers:
            if peer.process.poll() is None:
                peer.end()


def main(wanted):
    if not URL:
        print("HOMING_TEST_AMQP is not set: run tests/run", file=sys.stderr)
        return 1
    tests = [test for test in TESTS if not wanted or test.__name__ in wanted]
    failed = 0
    for test in tests:
        reason = run(test)
        print(f"test {test.__name__} ... {'ok' if reason is None else 'FAILED'}", flush=True)
        if reason is not None:
            failed += 1
            print(reason, flush=True)
    word = "ok" if failed == 0 and tests else "FAILED"
    print(f"test result: {word}. {len(tests) - failed} passed; {failed} failed; 0 ignored")
    return 0 if word == "ok" else 1


sys.exit(main(sys.argv[1:]))
