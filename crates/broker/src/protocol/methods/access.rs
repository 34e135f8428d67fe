//! Class access (30), of AMQP 0-8: old clients still ask for tickets, which mean nothing.

class! { "access" = 30 {
    /// Asks for a ticket.
    Request<'a> ("request", 10) { realm: &'a str, exclusive: bool, passive: bool, active: bool, write: bool, read: bool };
    /// A ticket.
    RequestOk ("request-ok", 11) { ticket: u16 };
} }
