//! What the server tells about itself when a client connects.

use crate::protocol::{TableWriter, Value};

/// Clients decide by the product and its version what they may use, and all of them know RabbitMQ's. The version is the last
/// one that is known to work with everything: Celery's transport sets a limit for the whole channel with 3.x only, and AiiDA
/// warns of anything from 3.8.15 on.
const PRODUCT: &str = "RabbitMQ";
const VERSION: &str = "3.8.14";

/// What clients may use, as far as they ask.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// The ways to log in.
pub(super) const MECHANISMS: &str = "PLAIN AMQPLAIN";
/// The only language of texts.
pub(super) const LOCALES: &str = "en_US";

/// The table of `connection.start`.
pub(super) fn server_properties() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut table = TableWriter::new(&mut bytes);
    table.table(b"capabilities", |table| {
        for capability in CAPABILITIES {
            table.field(capability.as_bytes(), &Value::Bool(true));
        }
    });
    for (name, value) in [
        ("cluster_name", "homing"),
        ("information", "A broker of one machine that speaks as RabbitMQ does"),
        // kiwipy's tests ask for a platform that begins so.
        ("platform", concat!("Erlang/OTP is not needed by homing ", env!("CARGO_PKG_VERSION"))),
        ("product", PRODUCT),
        ("version", VERSION),
    ] {
        table.field(name.as_bytes(), &Value::String(value.as_bytes()));
    }
    bytes
}
