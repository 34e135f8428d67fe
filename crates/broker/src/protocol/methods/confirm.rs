//! Class confirm (85), RabbitMQ's.

class! { "confirm" = 85 {
    /// Publishes of this channel are confirmed from now on.
    Select ("select", 10) { no_wait: bool };
    /// They are.
    SelectOk ("select-ok", 11) {};
} }
