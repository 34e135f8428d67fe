//! A broker in memory, for trying: `cargo run -p homing-broker --features server --example run -- 127.0.0.1:5672 [SOCKET]`.
//! It stops when its input ends.

use homing_broker::server::Server;
use std::io::Read;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:5672".to_owned()).parse()?;
    let mut builder = Server::builder().listen(address);
    if let Some(path) = arguments.next() {
        builder = builder.listen_unix(path);
    }
    let server = builder.start()?;
    for address in server.addresses() {
        println!("listening on {address}");
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let stopped = server.shutdown(Duration::from_secs(5));
    println!("stopped, {} clients abandoned", stopped.abandoned);
    Ok(())
}
