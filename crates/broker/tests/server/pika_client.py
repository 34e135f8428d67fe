"""What a program with pika does, against a broker on a local port: usage: pika_client.py PORT. Exits 1 where it fails."""

import sys
import threading
import time

import pika
from pika import exceptions

port = int(sys.argv[1])


def connect(**options):
    parameters = pika.ConnectionParameters("127.0.0.1", port, blocked_connection_timeout=20, socket_timeout=20, **options)
    return pika.BlockingConnection(parameters)


def raises(kind, code, action):
    try:
        action()
    except kind as error:
        assert error.reply_code == code, error
        return error
    raise AssertionError(f"{code} was expected")


def publishes_and_gets():
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    name = channel.queue_declare("", exclusive=True).method.queue
    properties = pika.BasicProperties(
        content_type="text/plain", headers={"a": 1, "b": [1, None, {"c": "d"}], "e": True, "f": 1 << 40}, delivery_mode=2, priority=1
    )
    for body in (b"", b"x", b"y" * 200_000, b"z" * 15_000_000):
        channel.basic_publish("", name, body, properties, mandatory=True)
        method, header, got = channel.basic_get(name)
        assert got == body and header == properties, (len(got), header)
        channel.basic_ack(method.delivery_tag)
    assert channel.basic_get(name) == (None, None, None)
    try:
        channel.basic_publish("", "nowhere", b"x", mandatory=True)
        raise AssertionError("nobody was there")
    except exceptions.UnroutableError as error:
        assert error.messages[0].method.reply_text == "NO_ROUTE"
    connection.close()


def consumes():
    connection = connect()
    channel = connection.channel()
    name = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_qos(prefetch_count=3)
    for number in range(10):
        channel.basic_publish("", name, str(number).encode())
    got = []
    for method, _, body in channel.consume(name, inactivity_timeout=20):
        assert method is not None, "nothing comes"
        got.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(got) == 10:
            break
    assert got == [str(number).encode() for number in range(10)], got
    assert channel.cancel() == 0
    connection.close()


def sees_errors():
    connection = connect()
    channel = connection.channel()
    error = raises(exceptions.ChannelClosedByBroker, 404, lambda: channel.queue_declare("nope", passive=True))
    assert error.reply_text == "NOT_FOUND - no queue 'nope' in vhost '/'"
    channel = connection.channel()
    channel.queue_declare("differs", exclusive=True)
    raises(exceptions.ChannelClosedByBroker, 406, lambda: channel.queue_declare("differs", exclusive=True, auto_delete=True))
    other = connect()
    raises(exceptions.ChannelClosedByBroker, 405, lambda: other.channel().queue_declare("differs", passive=True))
    other.close()
    connection.close()
    try:
        connect(credentials=pika.PlainCredentials("guest", "wrong"))
        raise AssertionError("it was let in")
    except exceptions.ProbableAuthenticationError as error:
        assert "403" in str(error), error
    try:
        connect(virtual_host="nope")
        raise AssertionError("it was let in")
    except exceptions.ProbableAccessDeniedError as error:
        assert "(530) 'NOT_ALLOWED - vhost nope not found'" in str(error), error


def hears_cancellations():
    connection, other = connect(), connect()
    channel = connection.channel()
    channel.queue_declare("goes")
    cancelled = []
    channel.add_on_cancel_callback(cancelled.append)
    channel.basic_consume("goes", lambda *_: None)
    other.channel().queue_delete("goes")
    end = time.time() + 20
    while not cancelled and time.time() < end:
        connection.process_data_events(0.1)
    assert cancelled
    connection.close()
    other.close()


def transacts():
    connection = connect()
    channel = connection.channel()
    name = channel.queue_declare("", exclusive=True).method.queue
    channel.tx_select()
    channel.basic_publish("", name, b"one")
    channel.tx_rollback()
    channel.basic_publish("", name, b"two")
    assert channel.queue_declare(name, passive=True).method.message_count == 0
    channel.tx_commit()
    assert channel.basic_get(name, auto_ack=True)[2] == b"two"
    connection.close()


def replies_directly():
    connection = connect()
    channel = connection.channel()
    requests = channel.queue_declare("", exclusive=True).method.queue
    got = []
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *delivery: got.append(delivery[3]), auto_ack=True)
    channel.basic_publish("", requests, b"question", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    _, header, _ = channel.basic_get(requests, auto_ack=True)
    channel.basic_publish("", header.reply_to, b"answer")
    end = time.time() + 20
    while not got and time.time() < end:
        connection.process_data_events(0.1)
    assert got == [b"answer"]
    connection.close()


def publishes_from_many_threads():
    keeper = connect()
    channel = keeper.channel()
    channel.queue_declare("many", auto_delete=True)

    def work(number):
        connection = connect()
        own = connection.channel()
        own.confirm_delivery()
        for count in range(200):
            own.basic_publish("", "many", f"{number} {count}".encode(), mandatory=True)
        connection.close()

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    last = {}
    for _ in range(1600):
        number, count = map(int, channel.basic_get("many", auto_ack=True)[2].split())
        assert last.get(number, -1) == count - 1, "in the order of each publisher"
        last[number] = count
    assert channel.basic_get("many")[0] is None
    channel.queue_delete("many")
    keeper.close()


for check in (
    publishes_and_gets, consumes, sees_errors, hears_cancellations, transacts, replies_directly, publishes_from_many_threads
):
    check()
    print(check.__name__, "ok")
