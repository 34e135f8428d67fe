//! Class basic (60), with RabbitMQ's negative acknowledgement.

class! { "basic" = 60 {
    /// Limits what may be unacknowledged.
    Qos ("qos", 10) { prefetch_size: u32, prefetch_count: u16, global: bool };
    /// The limit stands.
    QosOk ("qos-ok", 11) {};
    /// Makes a consumer.
    Consume<'a> ("consume", 20) skip u16 { queue: &'a str, consumer_tag: &'a str, no_local: bool, no_ack: bool, exclusive: bool, no_wait: bool, arguments: Table<'a> };
    /// It stands.
    ConsumeOk<'a> ("consume-ok", 21) { consumer_tag: &'a str };
    /// Ends a consumer; the server sends it too, if the queue is gone.
    Cancel<'a> ("cancel", 30) { consumer_tag: &'a str, no_wait: bool };
    /// It has ended.
    CancelOk<'a> ("cancel-ok", 31) { consumer_tag: &'a str };
    /// A message follows for an exchange.
    Publish<'a> ("publish", 40) skip u16 { exchange: &'a str, routing_key: &'a str, mandatory: bool, immediate: bool };
    /// A message follows that could not be routed.
    Return<'a> ("return", 50) { reply_code: u16, reply_text: &'a str, exchange: &'a str, routing_key: &'a str };
    /// A message follows for a consumer.
    Deliver<'a> ("deliver", 60) { consumer_tag: &'a str, delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str };
    /// Asks for one message.
    Get<'a> ("get", 70) skip u16 { queue: &'a str, no_ack: bool };
    /// It follows.
    GetOk<'a> ("get-ok", 71) { delivery_tag: u64, redelivered: bool, exchange: &'a str, routing_key: &'a str, message_count: u32 };
    /// There is none.
    GetEmpty ("get-empty", 72) {} skip_after &str;
    /// Deliveries are done with; from the server: publishes are safe.
    Ack ("ack", 80) { delivery_tag: u64, multiple: bool };
    /// A delivery is refused.
    Reject ("reject", 90) { delivery_tag: u64, requeue: bool };
    /// Gives back what is unacknowledged, without an answer.
    RecoverAsync ("recover-async", 100) { requeue: bool };
    /// Gives back what is unacknowledged.
    Recover ("recover", 110) { requeue: bool };
    /// It is given back.
    RecoverOk ("recover-ok", 111) {};
    /// Deliveries are refused; from the server: publishes were not taken.
    Nack ("nack", 120) { delivery_tag: u64, multiple: bool, requeue: bool };
} }
