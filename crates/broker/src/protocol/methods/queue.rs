//! Class queue (50).

class! { "queue" = 50 {
    /// Makes a queue or checks that it is there.
    Declare<'a> ("declare", 10) skip u16 { queue: &'a str, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, no_wait: bool, arguments: Table<'a> };
    /// It is there.
    DeclareOk<'a> ("declare-ok", 11) { queue: &'a str, message_count: u32, consumer_count: u32 };
    /// Binds a queue to an exchange.
    Bind<'a> ("bind", 20) skip u16 { queue: &'a str, exchange: &'a str, routing_key: &'a str, no_wait: bool, arguments: Table<'a> };
    /// It is bound.
    BindOk ("bind-ok", 21) {};
    /// Drops what waits in a queue.
    Purge<'a> ("purge", 30) skip u16 { queue: &'a str, no_wait: bool };
    /// It is dropped.
    PurgeOk ("purge-ok", 31) { message_count: u32 };
    /// Deletes a queue.
    Delete<'a> ("delete", 40) skip u16 { queue: &'a str, if_unused: bool, if_empty: bool, no_wait: bool };
    /// It is gone.
    DeleteOk ("delete-ok", 41) { message_count: u32 };
    /// Removes a binding.
    Unbind<'a> ("unbind", 50) skip u16 { queue: &'a str, exchange: &'a str, routing_key: &'a str, arguments: Table<'a> };
    /// It is gone.
    UnbindOk ("unbind-ok", 51) {};
} }
