"""dramatiq against a broker: messages, retries, messages for later, priorities, and dead letters.

usage: dramatiq_client.py PORT
"""

import logging
import sys
import threading
import time

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker

# Longer than anything here takes.
PATIENCE = 60

logging.getLogger("dramatiq").setLevel(logging.CRITICAL)
logging.getLogger("pika").setLevel(logging.CRITICAL)
port = int(sys.argv[1])
broker = RabbitmqBroker(url=f"amqp://guest:guest@127.0.0.1:{port}/%2f", max_priority=10, confirm_delivery=True)
dramatiq.set_broker(broker)

seen = []
attempts = []
lock = threading.Lock()


@dramatiq.actor
def note(number):
    with lock:
        seen.append(number)


@dramatiq.actor(min_backoff=50, max_backoff=200, max_retries=5)
def again():
    with lock:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise ValueError("once more")


@dramatiq.actor(max_retries=0, queue_name="fails")
def fail():
    raise ValueError("as it should")


def count(queue):
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)) as connection:
        return connection.channel().queue_declare(queue, passive=True).method.message_count


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


# Without a worker: the most urgent go first.
for number in range(5):
    note.send_with_options(args=(number,), broker_priority=number)
worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
worker.start()
try:
    until("all that was sent is done", lambda: len(seen) == 5)
    assert sorted(seen) == list(range(5)) and seen.index(4) < seen.index(0), seen
    begun = time.monotonic()
    note.send_with_options(args=("later",), delay=1000)
    again.send()
    fail.send()
    for number in range(50):
        note.send(number)
    until("retries", lambda: len(attempts) == 3)
    until("what was for later", lambda: "later" in seen)
    assert time.monotonic() - begun >= 0.9, "it came too early"
    broker.join("default", timeout=PATIENCE * 1000)
    assert len(seen) == 56 and len(attempts) == 3, (len(seen), attempts)
    until("what fails is with the dead letters", lambda: count("fails.XQ") == 1)
    assert count("default") == 0 and count("default.DQ") == 0
finally:
    worker.stop()
    broker.close()
