"""kiwipy's defaults. Times are in milliseconds."""

from functools import partial

import yaml

from homing.kiwipy.rmq import MESSAGE_EXCHANGE, TASK_EXCHANGE, TASK_FETCH_TIMEOUT, TASK_QUEUE

BROADCAST_TOPIC = "[broadcast]"
RPC_TOPIC = "[rpc]"
MESSAGE_TTL = 66_000
TEST_QUEUE_EXPIRES = 10_000
QUEUE_EXPIRES = 60_000
REPLY_QUEUE_EXPIRES = 60_000
TASK_MESSAGE_TTL = 7 * 24 * 60 * 60_000
TASK_PREFETCH_SIZE = 0
TASK_PREFETCH_COUNT = 0

#: What a communicator does without an encoder and a decoder, which is faster.
ENCODER = partial(yaml.dump, encoding="utf-8")
DECODER = partial(yaml.load, Loader=yaml.FullLoader)
