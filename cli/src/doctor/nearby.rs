//! Whether a server of AMQP is where RabbitMQ is found by habit, for who has not given a broker.

use std::time::Duration;

use homing::inspect::{Finding, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where a RabbitMQ on this machine is, unless it was set up otherwise.
pub(super) const RABBITMQ: &str = "127.0.0.1:5672";

/// A server here answers at once, or is busy with something else.
const LIMIT: Duration = Duration::from_secs(2);

/// The header with which a client of AMQP 0-9-1 begins.
const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// What is known of an address that was not looked at, where this was looked at instead.
pub(super) async fn look(instead: String, address: &str) -> Finding {
    const CHECK: &str = "broker";
    let speaks = speaks_amqp(address).await;
    let finding = if speaks {
        let text = format!("{instead}. A server of AMQP listens at {address}, and was not checked");
        Finding::new(CHECK, Verdict::Note, text).advice("`homing doctor --broker amqp://localhost` checks that one")
    } else {
        Finding::new(CHECK, Verdict::Ok, format!("{instead}. No server of AMQP listens at {address}"))
    };
    finding.fact("given", false).fact("amqp_address", address).fact("amqp_listens", speaks)
}

/// Whether a server answers as one of AMQP does: with the first method of the handshake, or with the header that it wants.
async fn speaks_amqp(address: &str) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(HEADER).await?;
        stream.read_u8().await
    };
    matches!(tokio::time::timeout(LIMIT, asked).await, Ok(Ok(1 | b'A')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// The finding about a server that begins its answer so.
    async fn about(answer: Option<&'static [u8]>) -> Finding {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let Some(answer) = answer else {
            drop(listener);
            return look("this is local:".to_owned(), &address).await;
        };
        let serving = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut header = [0; 8];
            stream.read_exact(&mut header).await.expect("a header");
            assert_eq!(&header, HEADER);
            stream.write_all(answer).await.expect("sent");
        };
        tokio::join!(look("this is local:".to_owned(), &address), serving).0
    }

    #[tokio::test]
    async fn a_server_of_amqp_is_named_and_nothing_else() {
        for answer in [b"\x01\x00\x00".as_slice(), b"AMQP\x00\x01\x00\x00"] {
            let finding = about(Some(answer)).await;
            assert_eq!(finding.verdict(), Verdict::Note);
            assert!(finding.text().contains("A server of AMQP listens at 127.0.0.1:"), "{}", finding.text());
            assert!(finding.what_to_do().is_some_and(|advice| advice.contains("--broker amqp://localhost")));
        }
        for answer in [Some(b"HTTP/1.1 400 Bad Request".as_slice()), Some(b""), None] {
            let finding = about(answer).await;
            assert_eq!(finding.verdict(), Verdict::Ok, "{answer:?}");
            assert!(finding.text().contains("No server of AMQP listens"), "{}", finding.text());
        }
    }
}
