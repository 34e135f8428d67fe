//! What each method does, one file a class or a theme.

mod confirm;
mod consume;
mod exchange;
mod publish;
mod queue;
mod reply_to;
mod settle;
mod transaction;

pub(super) use reply_to::is_address;

/// Names that begin so are the server's to give.
const RESERVED: &str = "amq.";

/// RabbitMQ takes line ends out of the names of what is declared.
fn without_line_ends(name: &str) -> String {
    name.replace(['\r', '\n'], "")
}
