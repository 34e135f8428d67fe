//! Class exchange (40), with RabbitMQ's bindings from exchange to exchange.

class! { "exchange" = 40 {
    /// Makes an exchange or checks that it is there.
    Declare<'a> ("declare", 10) skip u16 { exchange: &'a str, kind: &'a str, passive: bool, durable: bool, auto_delete: bool, internal: bool, no_wait: bool, arguments: Table<'a> };
    /// It is there.
    DeclareOk ("declare-ok", 11) {};
    /// Deletes an exchange.
    Delete<'a> ("delete", 20) skip u16 { exchange: &'a str, if_unused: bool, no_wait: bool };
    /// It is gone.
    DeleteOk ("delete-ok", 21) {};
    /// Binds an exchange to another.
    Bind<'a> ("bind", 30) skip u16 { destination: &'a str, source: &'a str, routing_key: &'a str, no_wait: bool, arguments: Table<'a> };
    /// It is bound.
    BindOk ("bind-ok", 31) {};
    /// Removes such a binding.
    Unbind<'a> ("unbind", 40) skip u16 { destination: &'a str, source: &'a str, routing_key: &'a str, no_wait: bool, arguments: Table<'a> };
    /// It is gone.
    UnbindOk ("unbind-ok", 51) {};
} }
