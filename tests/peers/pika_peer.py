"""A client of another library, pika, that sends what few clients send: the peer of the tests in tests/reported.

One JSON object a line on standard input, one on standard output, as in kiwipy_peer.py; one after the other. Values are in the
form of values.py, with three more: {"$raw": "base64"} is the bytes of a string that is not UTF-8 (in the value of a property,
and as the name of a header in `odd_headers`), {"$decimal": "1.5"} and {"$epoch": seconds} are AMQP's decimals and timestamps.

connect   url
publish   exchange ("" is the default one), routing_key, body ({"$bytes"} or text), [count = 1], [properties: {correlation_id,
          reply_to, message_id, content_type, content_encoding, delivery_mode, priority, expiration, type, app_id, user_id,
          cluster_id, timestamp, headers}], [odd_headers: [[name, value], ...]]
          -> when the broker has confirmed it. "{n}" in the body is the number of the message.
get       queue -> {"body", "redelivered", "properties"} of a message taken off the queue, or null
depth     queue -> how many messages lie in it
close
"""
import base64
import datetime
import decimal
import json
import sys

import pika

from values import from_json, to_json

PROPERTIES = ("content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to", "expiration",
              "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id")


class OddText(str):
    """A string that pika writes as bytes which are not UTF-8."""

    def __new__(cls, raw):
        text = super().__new__(cls, "odd" + base64.b64encode(raw).decode())
        text.raw = raw
        return text

    def encode(self, *_arguments):
        return self.raw


def amqp(value):
    if isinstance(value, dict):
        if set(value) == {"$raw"}:
            return OddText(base64.b64decode(value["$raw"]))
        if set(value) == {"$decimal"}:
            return decimal.Decimal(value["$decimal"])
        if set(value) == {"$epoch"}:
            return datetime.datetime.fromtimestamp(value["$epoch"], datetime.timezone.utc)
        if not any(key.startswith("$") for key in value):
            return {key: amqp(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [amqp(inner) for inner in value]
    return from_json(value)


def plain(value):
    if isinstance(value, decimal.Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, datetime.datetime):
        return {"$epoch": int(value.replace(tzinfo=datetime.timezone.utc).timestamp())}
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    # pika reads 64 bits as a type of its own.
    return to_json(int(value) if isinstance(value, int) and not isinstance(value, bool) else value)


class Peer:

    def __init__(self):
        self.connection = self.channel = None

    def do_connect(self, url):
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def do_publish(self, exchange, routing_key, body, count=1, properties=None, odd_headers=()):
        values = {name: amqp(value) for name, value in (properties or {}).items()}
        if odd_headers:
            headers = values.setdefault("headers", {})
            headers.update({amqp(name): amqp(value) for name, value in odd_headers})
        body = from_json(body)
        for number in range(count):
            one = body.replace("{n}", str(number)).encode() if isinstance(body, str) else body
            self.channel.basic_publish(exchange, routing_key, one, pika.BasicProperties(**values))

    def do_get(self, queue):
        method, properties, body = self.channel.basic_get(queue, auto_ack=True)
        if method is None:
            return None
        return {
            "body": to_json(body),
            "redelivered": method.redelivered,
            "properties": {
                **{name: plain(getattr(properties, name)) for name in PROPERTIES if getattr(properties, name) is not None},
                "headers": plain(properties.headers or {}),
            },
        }

    def do_depth(self, queue):
        return self.channel.queue_declare(queue, passive=True).method.message_count

    def do_delete(self, queue):
        self.channel.queue_delete(queue)

    def do_close(self):
        self.connection.close()


def main():
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        number = request.pop("id", None)
        request.pop("timeout", None)
        try:
            answer = {"id": number, "ok": getattr(peer, "do_" + request.pop("do"))(**request)}
        except Exception as exception:  # pylint: disable=broad-except
            answer = {"id": number, "error": {"type": type(exception).__name__, "text": str(exception)}}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
