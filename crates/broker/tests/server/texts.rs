//! Every error with its code, its text and the method that it blames, as RabbitMQ 3.10.8 has them.
//!
//! The texts were taken from that server by sending the same frames to it; where this one differs on purpose, a comment
//! gives the reason.

use crate::raw::{Got, Raw, declare, frame_of, message_of};
use crate::server;
use homing_broker::protocol::{
    Method, Properties, Table, TableWriter, Value,
    methods::{basic, channel, confirm, connection, exchange, queue, tx},
};
use std::net::SocketAddr;

/// Bytes to be sent.
type Step = Vec<u8>;

/// A name, what is sent, and the code, the text and the blamed method of the close.
type Case<'a> = (&'a str, Vec<Step>, u16, &'a str, (u16, u16));

fn method<'a>(method: impl Into<Method<'a>>) -> Step {
    on(1, method)
}

fn on<'a>(channel: u16, method: impl Into<Method<'a>>) -> Step {
    let mut out = Vec::new();
    method.into().write(&mut out, channel);
    out
}

fn publish(exchange: &str, key: &str, properties: Properties<'_>) -> Step {
    message_of(1, exchange, key, false, properties, b"x")
}

fn declare_exchange<'a>(name: &'a str, kind: &'a str) -> exchange::Declare<'a> {
    exchange::Declare {
        exchange: name,
        kind,
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        no_wait: false,
        arguments: Table::EMPTY,
    }
}

fn consume<'a>(name: &'a str, tag: &'a str) -> basic::Consume<'a> {
    basic::Consume {
        queue: name,
        consumer_tag: tag,
        no_local: false,
        no_ack: false,
        exclusive: false,
        no_wait: false,
        arguments: Table::EMPTY,
    }
}

fn bind<'a>(name: &'a str, exchange: &'a str) -> queue::Bind<'a> {
    queue::Bind { queue: name, exchange, routing_key: "k", no_wait: false, arguments: Table::EMPTY }
}

fn bind_exchange<'a>(destination: &'a str, source: &'a str) -> exchange::Bind<'a> {
    exchange::Bind { destination, source, routing_key: "k", no_wait: false, arguments: Table::EMPTY }
}

/// A declaration with one argument.
fn with(argument: &str, value: &Value<'_>) -> Step {
    let mut bytes = Vec::new();
    TableWriter::new(&mut bytes).field(argument.as_bytes(), value);
    method(queue::Declare { arguments: Table::unchecked(&bytes), ..declare("q") })
}

fn with_text(argument: &str, value: &str) -> Step {
    with(argument, &Value::String(value.as_bytes()))
}

/// A commit with a message that its queue has no room for.
fn tx_of_a_full_queue() -> Step {
    let mut bytes = Vec::new();
    let mut table = TableWriter::new(&mut bytes);
    table.field(b"x-max-length", &Value::I32(0));
    table.field(b"x-overflow", &Value::String(b"reject-publish"));
    let declare = queue::Declare { arguments: Table::unchecked(&bytes), ..declare("q") };
    let steps =
        [method(declare), method(tx::Select {}), publish("", "q", Properties::default()), method(tx::Commit {})];
    steps.concat()
}

fn expiration(text: &str) -> Step {
    let mut properties = Properties::default();
    properties.expiration = Some(text.as_bytes());
    publish("", "q", properties)
}

/// Runs steps on channel 1 of a connection of their own and compares what closes the channel or the connection.
fn check(address: SocketAddr, name: &str, steps: &[Step], channel: u16, code: u16, text: &str, blamed: (u16, u16)) {
    let mut raw = Raw::channel(address);
    steps.iter().for_each(|step| raw.bytes(step));
    let expected = if channel == 0 {
        let close = connection::Close { reply_code: code, reply_text: text, class_id: blamed.0, method_id: blamed.1 };
        format!("{:?}", Method::from(close))
    } else {
        let close = channel::Close { reply_code: code, reply_text: text, class_id: blamed.0, method_id: blamed.1 };
        format!("{:?}", Method::from(close))
    };
    assert_eq!(raw.closed(), expected, "{name}");
    if channel == 0 {
        raw.send(0, connection::CloseOk {});
        assert_eq!(raw.next(), Got::End, "{name}: the socket is closed after the connection");
    } else {
        // The rest of the connection is untouched, and the channel can be opened again.
        raw.send(1, channel::CloseOk {});
        raw.send(1, channel::Open {});
        raw.expect("ChannelOpenOk");
    }
}

#[test]
fn errors_that_close_a_channel() {
    let (_server, address) = server();
    let int = Value::I32(3);
    let user = with_user(b"other");
    let cc = |value: &Value<'_>| {
        let mut bytes = Vec::new();
        TableWriter::new(&mut bytes).field(b"CC", value);
        let mut properties = Properties::default();
        properties.headers = Some(Table::unchecked(&bytes));
        publish("", "q", properties)
    };
    let ack = |delivery_tag, multiple| method(basic::Ack { delivery_tag, multiple });
    let q = || method(declare("q"));
    #[rustfmt::skip]
    let cases: Vec<Case<'_>> = vec![
        ("passive, no queue", vec![method(queue::Declare { passive: true, ..declare("nope") })], 404, "NOT_FOUND - no queue 'nope' in vhost '/'", (50, 10)),
        ("passive without a name", vec![method(queue::Declare { passive: true, ..declare("") })], 404, "NOT_FOUND - no queue '' in vhost '/'", (50, 10)),
        ("passive, no exchange", vec![method(exchange::Declare { passive: true, ..declare_exchange("nope", "direct") })], 404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (40, 10)),
        ("reserved queue", vec![method(declare("amq.foo"))], 403, "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'", (50, 10)),
        ("reserved exchange", vec![method(declare_exchange("amq.foo", "direct"))], 403, "ACCESS_REFUSED - exchange name 'amq.foo' contains reserved prefix 'amq.*'", (40, 10)),
        ("default exchange", vec![method(declare_exchange("", "direct"))], 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (40, 10)),
        ("default exchange, passive", vec![method(exchange::Declare { passive: true, ..declare_exchange("", "direct") })], 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (40, 10)),
        ("default exchange deleted", vec![method(exchange::Delete { exchange: "", if_unused: false, no_wait: false })], 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (40, 20)),
        ("system exchange deleted", vec![method(exchange::Delete { exchange: "amq.direct", if_unused: false, no_wait: false })], 403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed", (40, 20)),
        ("another exchange type", vec![method(declare_exchange("x", "direct")), method(declare_exchange("x", "topic"))], 406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received 'topic' but current is 'direct'", (40, 10)),
        ("another exchange durability", vec![method(declare_exchange("x", "direct")), method(exchange::Declare { durable: true, ..declare_exchange("x", "direct") })], 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'x' in vhost '/': received 'true' but current is 'false'", (40, 10)),
        ("exchange in use", vec![method(declare_exchange("used", "direct")), q(), method(bind("q", "used")), method(exchange::Delete { exchange: "used", if_unused: true, no_wait: false })], 406, "PRECONDITION_FAILED - exchange 'used' in vhost '/' in use", (40, 20)),
        ("another queue durability", vec![q(), method(queue::Declare { durable: true, ..declare("q") })], 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'", (50, 10)),
        ("another queue auto-delete", vec![q(), method(queue::Declare { auto_delete: true, ..declare("q") })], 406, "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue 'q' in vhost '/': received 'true' but current is 'false'", (50, 10)),
        ("exclusive afterwards", vec![q(), method(queue::Declare { exclusive: true, ..declare("q") })], 405, LOCKED, (50, 10)),
        ("another argument", vec![q(), with("x-message-ttl", &Value::I32(5))], 406, "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '5' of type 'signedint' but current is none", (50, 10)),
        ("unknown queue type", vec![with_text("x-queue-type", "nope")], 406, "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'q' in vhost '/': \"unsupported queue type 'nope'\"", (50, 10)),
        ("time to live of text", vec![with_text("x-message-ttl", "x")], 406, "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue 'q' in vhost '/': \"expected integer, got longstr\"", (50, 10)),
        ("expires at once", vec![with("x-expires", &Value::I32(0))], 406, "PRECONDITION_FAILED - invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}", (50, 10)),
        ("dead-letter key alone", vec![with_text("x-dead-letter-routing-key", "x")], 406, "PRECONDITION_FAILED - invalid arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': routing_key_but_no_dlx_defined", (50, 10)),
        ("overflow", vec![with_text("x-overflow", "x")], 406, "PRECONDITION_FAILED - invalid arg 'x-overflow' for queue 'q' in vhost '/': invalid_overflow", (50, 10)),
        ("priority", vec![with("x-max-priority", &Value::I32(300))], 406, "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/': {max_value_exceeded,300}", (50, 10)),
        ("dead-letter exchange of a number", vec![with("x-dead-letter-exchange", &int)], 406, "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'", (50, 10)),
        ("argument of another type", vec![with("x-delivery-limit", &int)], 406, "PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type rabbit_classic_queue", (50, 10)),
        ("queue mode", vec![with_text("x-queue-mode", "busy")], 406, "PRECONDITION_FAILED - invalid arg 'x-queue-mode' for queue 'q' in vhost '/': \"unsupported queue mode 'busy'\"", (50, 10)),
        ("queue version", vec![with("x-queue-version", &int)], 406, "PRECONDITION_FAILED - invalid arg 'x-queue-version' for queue 'q' in vhost '/': \"unsupported queue version '3'\"", (50, 10)),
        ("refused in a transaction", vec![tx_of_a_full_queue()], 406, "PRECONDITION_FAILED - partial tx completion", (90, 20)),
        ("purge, no queue", vec![method(queue::Purge { queue: "nope", no_wait: false })], 404, "NOT_FOUND - no queue 'nope' in vhost '/'", (50, 30)),
        ("not empty", vec![method(declare("full")), publish("", "full", Properties::default()), method(queue::Delete { queue: "full", if_unused: false, if_empty: true, no_wait: false })], 406, "PRECONDITION_FAILED - queue 'full' in vhost '/' not empty", (50, 40)),
        ("in use", vec![q(), method(consume("q", "t")), method(queue::Delete { queue: "q", if_unused: true, if_empty: false, no_wait: false })], 406, "PRECONDITION_FAILED - queue 'q' in vhost '/' in use", (50, 40)),
        ("bind, no queue", vec![method(bind("nope", "amq.direct"))], 404, "NOT_FOUND - no queue 'nope' in vhost '/'", (50, 20)),
        ("bind, no exchange", vec![q(), method(bind("q", "nope"))], 404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (50, 20)),
        ("bind to the default exchange", vec![q(), method(bind("q", ""))], 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (50, 20)),
        ("unbind from the default exchange", vec![q(), method(queue::Unbind { queue: "q", exchange: "", routing_key: "k", arguments: Table::EMPTY })], 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (50, 50)),
        ("exchange bind, no destination", vec![method(bind_exchange("nope", "amq.direct"))], 404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (40, 30)),
        ("exchange bind, no source", vec![method(bind_exchange("amq.direct", "nope"))], 404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (40, 30)),
        ("exchange bind to the default", vec![method(bind_exchange("", "amq.direct"))], 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (40, 30)),
        ("no queue declared before", vec![method(basic::Get { queue: "", no_ack: false })], 404, "NOT_FOUND - no previously declared queue", (60, 70)),
        ("consume, no queue", vec![method(consume("nope", "t"))], 404, "NOT_FOUND - no queue 'nope' in vhost '/'", (60, 20)),
        ("exclusive consumer beside another", vec![q(), method(consume("q", "a")), method(basic::Consume { exclusive: true, ..consume("q", "b") })], 403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", (60, 20)),
        ("consumer beside an exclusive one", vec![q(), method(basic::Consume { exclusive: true, ..consume("q", "a") }), method(consume("q", "b"))], 403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", (60, 20)),
        ("get, no queue", vec![method(basic::Get { queue: "nope", no_ack: false })], 404, "NOT_FOUND - no queue 'nope' in vhost '/'", (60, 70)),
        ("publish, no exchange", vec![publish("nope", "k", Properties::default())], 404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (60, 40)),
        ("publish, internal", vec![method(exchange::Declare { internal: true, ..declare_exchange("inner", "direct") }), publish("inner", "k", Properties::default())], 403, "ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'", (60, 40)),
        ("expiration of letters", vec![expiration("abc")], 406, "PRECONDITION_FAILED - invalid expiration 'abc': no_integer", (60, 40)),
        ("expiration below zero", vec![expiration("-1")], 406, "PRECONDITION_FAILED - invalid expiration '-1': {value_negative,-1}", (60, 40)),
        ("expiration with letters", vec![expiration("12abc")], 406, "PRECONDITION_FAILED - invalid expiration '12abc': {leftover_string,\"abc\"}", (60, 40)),
        ("expiration of ten years and more", vec![expiration("315360000001")], 406, "PRECONDITION_FAILED - invalid expiration '315360000001': {value_too_large,315360000001}", (60, 40)),
        ("expiration of millennia", vec![expiration("99999999999999")], 406, "PRECONDITION_FAILED - invalid expiration '99999999999999': {value_too_large,99999999999999}", (60, 40)),
        ("another user", vec![publish("", "q", user)], 406, "PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'", (60, 40)),
        ("carbon copy to no list", vec![cc(&Value::String(b"a"))], 406, "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",longstr}", (60, 40)),
        ("ack of nothing", vec![ack(7, false)], 406, "PRECONDITION_FAILED - unknown delivery tag 7", (60, 80)),
        ("ack of nothing, multiple", vec![ack(7, true)], 406, "PRECONDITION_FAILED - unknown delivery tag 7", (60, 80)),
        ("ack of 0", vec![ack(0, false)], 406, "PRECONDITION_FAILED - unknown delivery tag 0", (60, 80)),
        ("nack of nothing", vec![method(basic::Nack { delivery_tag: 7, multiple: false, requeue: true })], 406, "PRECONDITION_FAILED - unknown delivery tag 7", (60, 120)),
        ("reject of nothing", vec![method(basic::Reject { delivery_tag: 7, requeue: true })], 406, "PRECONDITION_FAILED - unknown delivery tag 7", (60, 90)),
        ("tx after confirm", vec![method(confirm::Select { no_wait: false }), method(tx::Select {})], 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode", (90, 10)),
        ("confirm after tx", vec![method(tx::Select {}), method(confirm::Select { no_wait: false })], 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode", (85, 10)),
        ("commit without tx", vec![method(tx::Commit {})], 406, "PRECONDITION_FAILED - channel is not transactional", (90, 20)),
        ("rollback without tx", vec![method(tx::Rollback {})], 406, "PRECONDITION_FAILED - channel is not transactional", (90, 30)),
        ("publish in tx, no exchange", vec![method(tx::Select {}), publish("nope", "k", Properties::default())], 404, "NOT_FOUND - no exchange 'nope' in vhost '/'", (60, 40)),
        ("reply without a consumer", vec![publish("", "q", with_reply_to(b"amq.rabbitmq.reply-to"))], 406, "PRECONDITION_FAILED - fast reply consumer does not exist", (60, 40)),
        ("reply consumer that acknowledges", vec![method(consume("amq.rabbitmq.reply-to", "t"))], 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", (60, 20)),
        ("two reply consumers", vec![method(basic::Consume { no_ack: true, ..consume("amq.rabbitmq.reply-to", "t") }), method(basic::Consume { no_ack: true, ..consume("amq.rabbitmq.reply-to", "u") })], 406, "PRECONDITION_FAILED - reply consumer already set", (60, 20)),
        ("reply queue, get", vec![method(basic::Get { queue: "amq.rabbitmq.reply-to", no_ack: true })], 404, "NOT_FOUND - no queue 'amq.rabbitmq.reply-to' in vhost '/'", (60, 70)),
        ("error without an answer wanted", vec![method(queue::Declare { passive: true, no_wait: true, ..declare("nope") })], 404, "NOT_FOUND - no queue 'nope' in vhost '/'", (50, 10)),
    ];
    for (name, steps, code, text, blamed) in &cases {
        check(address, name, steps, 1, *code, text, *blamed);
        let mut clean = Raw::channel(address);
        for queue in ["q", "full"] {
            clean.send(1, queue::Delete { queue, if_unused: false, if_empty: false, no_wait: false });
            clean.expect("QueueDeleteOk");
        }
        clean.send(1, exchange::Delete { exchange: "x", if_unused: false, no_wait: false });
        clean.expect("ExchangeDeleteOk");
    }
}

#[test]
fn errors_that_close_the_connection() {
    let (_server, address) = server();
    let header_of = |class: u16| frame_of(2, 1, &[&class.to_be_bytes()[..], &[0; 12]].concat());
    let begin = || method(basic::Publish { exchange: "", routing_key: "q", mandatory: false, immediate: false });
    #[rustfmt::skip]
    let cases: Vec<Case<'_>> = vec![
        ("opened twice", vec![on(0, connection::Open { virtual_host: "/" })], 504, "CHANNEL_ERROR - unexpected method in connection state running", (10, 40)),
        ("queue on channel 0", vec![on(0, declare("q"))], 504, "CHANNEL_ERROR - unexpected method in connection state running", (50, 10)),
        ("channel 0 opened", vec![on(0, channel::Open {})], 504, "CHANNEL_ERROR - unexpected method in connection state running", (20, 10)),
        ("login again", vec![on(0, connection::StartOk { client_properties: Table::EMPTY, mechanism: "PLAIN", response: b"", locale: "" })], 504, "CHANNEL_ERROR - unexpected method in connection state running", (10, 11)),
        ("close-ok without a close", vec![on(0, connection::CloseOk {})], 504, "CHANNEL_ERROR - unexpected method in connection state running", (10, 51)),
        ("unopened channel", vec![on(5, declare("q"))], 504, "CHANNEL_ERROR - expected 'channel.open'", (50, 10)),
        ("unopened channel closed", vec![on(5, channel::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 })], 504, "CHANNEL_ERROR - expected 'channel.open'", (20, 40)),
        ("content on an unopened channel", vec![frame_of(3, 5, b"abc")], 505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", (0, 0)),
        ("channel opened twice", vec![method(channel::Open {})], 504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10)),
        ("connection method on a channel", vec![method(connection::TuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 })], 503, "COMMAND_INVALID - unimplemented method", (10, 31)),
        ("flow-ok", vec![method(channel::FlowOk { active: true })], 503, "COMMAND_INVALID - unimplemented method", (20, 21)),
        ("flow stopped", vec![method(channel::Flow { active: false })], 540, "NOT_IMPLEMENTED - active=false", (20, 20)),
        ("prefetch size", vec![method(basic::Qos { prefetch_size: 10, prefetch_count: 0, global: false })], 540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)", (60, 10)),
        ("immediate", vec![method(basic::Publish { exchange: "", routing_key: "", mandatory: false, immediate: true })], 540, "NOT_IMPLEMENTED - immediate=true", (60, 40)),
        ("recover elsewhere", vec![method(basic::Recover { requeue: false })], 540, "NOT_IMPLEMENTED - requeue=false", (60, 110)),
        ("exchange type of no letters", vec![method(declare_exchange("", ""))], 503, "COMMAND_INVALID - invalid exchange type ''", (40, 10)),
        ("unknown exchange type", vec![method(declare_exchange("x", "nope"))], 503, "COMMAND_INVALID - unknown exchange type 'nope'", (40, 10)),
        ("tag used twice", vec![method(declare("q")), method(consume("q", "t")), method(consume("q", "t"))], 530, "NOT_ALLOWED - attempt to reuse consumer tag 't'", (60, 20)),
        ("method in content", vec![begin(), method(declare("q"))], 505, "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead", (60, 40)),
        ("body before its header", vec![begin(), frame_of(3, 1, b"abc")], 505, "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead", (60, 40)),
        ("header of another class", vec![begin(), header_of(50)], 505, "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead", (60, 40)),
        ("header without a method", vec![header_of(60)], 505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", (0, 0)),
        ("body without a method", vec![frame_of(3, 1, b"abc")], 505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", (0, 0)),
        // RabbitMQ prints the frame, or closes the socket without a word; the codes are the specification's here.
        ("content on channel 0", vec![frame_of(3, 0, b"abc")], 505, "UNEXPECTED_FRAME - content on channel 0", (0, 0)),
        ("unknown frame type", vec![frame_of(4, 0, b"")], 501, "FRAME_ERROR - unknown frame type 4", (0, 0)),
        ("frame end", vec![b"\x01\0\0\0\0\0\x04\0\x0a\0\x32\xcd".to_vec()], 501, "FRAME_ERROR - invalid frame end marker 205", (0, 0)),
        ("frame too large", vec![b"\x01\0\0\0\x01\xff\xf9".to_vec()], 501, "FRAME_ERROR - frame with a payload of 131065 bytes, negotiated are at most 131064", (0, 0)),
        ("heartbeat with a payload", vec![frame_of(8, 0, b"x")], 501, "FRAME_ERROR - heartbeat with a payload or on a channel", (0, 0)),
        ("unknown method", vec![frame_of(1, 0, b"\0\x0a\0\x63")], 540, "NOT_IMPLEMENTED - unknown method 10, 99", (0, 0)),
        ("unknown method on a channel", vec![frame_of(1, 1, b"\0\x3c\0\x63")], 540, "NOT_IMPLEMENTED - unknown method 60, 99", (0, 0)),
        ("cut arguments", vec![frame_of(1, 0, b"\0\x0a\0\x32\0")], 501, "FRAME_ERROR - the payload of a frame is too short", (0, 0)),
        ("arguments and more", vec![frame_of(1, 0, b"\0\x0a\0\x33\0")], 501, "FRAME_ERROR - the payload of a frame is too long", (0, 0)),
        ("no UTF-8", vec![frame_of(1, 1, b"\0\x32\0\x0a\0\0\x02\xff\xfe\0\0\0\0\0")], 502, "SYNTAX_ERROR - a string is not valid UTF-8", (0, 0)),
        ("table of an unknown type", vec![frame_of(1, 1, b"\0\x32\0\x0a\0\0\x02ab\0\0\0\0\x03\x01a?")], 502, "SYNTAX_ERROR - unknown field type 63 in a table", (0, 0)),
        ("body larger than announced", vec![begin(), frame_of(2, 1, b"\0\x3c\0\0\0\0\0\0\0\0\0\x03\0\0"), frame_of(3, 1, b"abcd")], 501, "FRAME_ERROR - the body is larger than its header announced", (60, 40)),
    ];
    for (name, steps, code, text, blamed) in &cases {
        check(address, name, steps, 0, *code, text, *blamed);
    }
}

const LOCKED: &str = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared \
    on another connection or the exclusive property value does not match that of the original declaration.";

fn with_user(name: &[u8]) -> Properties<'_> {
    let mut properties = Properties::default();
    properties.user_id = Some(name);
    properties
}

fn with_reply_to(name: &[u8]) -> Properties<'_> {
    let mut properties = Properties::default();
    properties.reply_to = Some(name);
    properties
}

#[test]
fn another_connections_exclusive_queue_is_locked() {
    let (_server, address) = server();
    let mut owner = Raw::channel(address);
    owner.send(1, queue::Declare { exclusive: true, ..declare("q") });
    owner.expect("QueueDeclareOk");
    let cases: Vec<(&str, Step, (u16, u16))> = vec![
        ("declare", method(declare("q")), (50, 10)),
        ("declare exclusive", method(queue::Declare { exclusive: true, ..declare("q") }), (50, 10)),
        ("passive", method(queue::Declare { passive: true, ..declare("q") }), (50, 10)),
        ("bind", method(bind("q", "amq.direct")), (50, 20)),
        ("purge", method(queue::Purge { queue: "q", no_wait: false }), (50, 30)),
        ("delete", method(queue::Delete { queue: "q", if_unused: false, if_empty: false, no_wait: false }), (50, 40)),
        ("consume", method(consume("q", "t")), (60, 20)),
        ("get", method(basic::Get { queue: "q", no_ack: true }), (60, 70)),
    ];
    for (name, step, blamed) in cases {
        check(address, name, &[step], 1, 405, LOCKED, blamed);
    }
    // Publishing to it works.
    let mut other = Raw::channel(address);
    other.send(1, confirm::Select { no_wait: false });
    other.expect("ConfirmSelectOk");
    other.publish(1, "", "q", true, Properties::default(), b"x");
    other.expect("BasicAck");
    owner.send(1, basic::Get { queue: "q", no_ack: true });
    owner.expect("BasicGetOk");
}

#[test]
fn what_follows_an_error_on_its_channel_is_ignored() {
    let (_server, address) = server();
    let mut raw = Raw::channel(address);
    raw.send(1, queue::Declare { passive: true, ..declare("nope") });
    raw.send(1, declare("made"));
    raw.publish(1, "nope", "k", true, Properties::default(), b"x");
    raw.frame(3, 1, b"a body without a method");
    raw.closed();
    assert!(raw.is_silent(std::time::Duration::from_millis(100)));
    raw.send(1, channel::CloseOk {});
    raw.send(1, channel::Open {});
    raw.expect("ChannelOpenOk");
    raw.send(1, queue::Declare { passive: true, ..declare("made") });
    assert!(raw.closed().contains("no queue 'made'"));
}

#[test]
fn a_long_text_is_cut() {
    let (_server, address) = server();
    let name = "n".repeat(255);
    let text = format!("NOT_FOUND - no queue '{}...", "n".repeat(230));
    assert_eq!(text.len(), 255);
    let step = method(queue::Declare { passive: true, ..declare(&name) });
    check(address, "a long name", &[step], 1, 404, &text, (50, 10));
}

#[test]
fn a_recover_in_a_transaction_leaves_what_is_settled_in_it() {
    let (_server, address) = server();
    let mut raw = Raw::channel(address);
    raw.send(1, declare("q"));
    raw.expect("QueueDeclareOk");
    raw.publish(1, "", "q", false, Properties::default(), b"one");
    raw.send(1, tx::Select {});
    raw.expect("TxSelectOk");
    raw.send(1, basic::Get { queue: "q", no_ack: false });
    raw.expect("BasicGetOk");
    raw.next();
    raw.next();
    raw.send(1, basic::Reject { delivery_tag: 1, requeue: true });
    raw.send(1, basic::Recover { requeue: true });
    raw.expect("BasicRecoverOk");
    raw.send(1, basic::Get { queue: "q", no_ack: false });
    raw.expect("BasicGetEmpty");
    raw.send(1, tx::Commit {});
    raw.expect("TxCommitOk");
    raw.send(1, basic::Get { queue: "q", no_ack: false });
    raw.expect("BasicGetOk");
}

#[test]
fn a_quorum_queue_counts_for_gets_and_has_none_with_a_single_active_consumer() {
    let (_server, address) = server();
    let mut bytes = Vec::new();
    TableWriter::new(&mut bytes).field(b"x-queue-type", &Value::String(b"quorum"));
    let mut raw = Raw::channel(address);
    raw.send(1, queue::Declare { durable: true, arguments: Table::unchecked(&bytes), ..declare("q") });
    raw.expect("QueueDeclareOk");
    raw.publish(1, "", "q", false, Properties::default(), b"one");
    raw.send(1, basic::Get { queue: "q", no_ack: false });
    raw.expect("BasicGetOk");
    let Got::Header(_, _, properties) = raw.next() else { panic!("no header") };
    assert!(properties.contains("x-delivery-count"), "{properties}");
    TableWriter::new(&mut bytes).field(b"x-single-active-consumer", &Value::Bool(true));
    let declare = method(queue::Declare { durable: true, arguments: Table::unchecked(&bytes), ..declare("single") });
    let text = "RESOURCE_LOCKED - cannot obtain access to locked queue 'single' in vhost '/'. basic.get operations are not supported \
        by quorum queues with single active consumer";
    let get = method(basic::Get { queue: "single", no_ack: true });
    check(address, "a get", &[declare, get], 1, 405, text, (60, 70));
}
