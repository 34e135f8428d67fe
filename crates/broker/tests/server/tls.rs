//! TLS: what a client gets by it, whose certificate counts, which files are refused, and those who mean harm.

use crate::Directory;
use crate::certificates::{Authority, Issued, Valid};
use crate::raw::{Got, Raw, consume, declare, message_of};
use homing_broker::protocol::{
    Properties,
    methods::{basic, channel, confirm, connection},
};
use homing_broker::server::{Limits, Server, ServerBuilder, Tls, TlsFiles};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

type Stream = StreamOwned<ClientConnection, TcpStream>;

struct World {
    authority: Authority,
    directory: Directory,
}

impl World {
    fn new(name: &str) -> Self {
        let directory = Directory::new(name);
        std::fs::create_dir_all(&directory.0).expect("a directory");
        Self { authority: Authority::new().expect("an authority"), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// The files of a server with a certificate of its own.
    fn files(&self) -> TlsFiles {
        let issued = self.authority.issue(Valid::Now).expect("a certificate");
        issued.write(&self.path("server.pem"), &self.path("server.key")).expect("written");
        TlsFiles::new(self.path("server.pem"), self.path("server.key"))
    }

    fn server(&self, builder: ServerBuilder) -> (Server, SocketAddr) {
        server(builder, &Tls::load(self.files()).expect("the files are good"))
    }

    /// Somebody who trusts the authority.
    fn client(&self, address: SocketAddr) -> io::Result<Stream> {
        connect(address, &self.authority, None)
    }
}

fn server(builder: ServerBuilder, tls: &Tls) -> (Server, SocketAddr) {
    let server = builder.listen_tls(SocketAddr::from(([127, 0, 0, 1], 0)), tls).start().expect("it starts");
    let address = server.tls_addresses()[0];
    (server, address)
}

/// A client as far as the first byte that the server sends by AMQP.
fn connect(address: SocketAddr, trusted: &Authority, own: Option<&Issued>) -> io::Result<Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).expect("PEM")).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM");
            config.with_client_auth_cert(chain, key).expect("a client's certificate")
        }
    };
    let name = "localhost".try_into().expect("a name");
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(client, socket);
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    // A server refuses a client's certificate after its own handshake: only what it sends then shows that it has not.
    let mut first = [0; 1];
    stream.read_exact(&mut first)?;
    assert_eq!(first, [1], "the frame of connection.start");
    Ok(stream)
}

/// An open connection with channel 1.
fn opened(stream: Stream) -> Raw<Stream> {
    let mut raw = Raw::on(stream, &[1]);
    raw.expect("ConnectionStart(");
    raw.enter(2047, 131_072, 0);
    raw.send(1, channel::Open {});
    raw.expect("ChannelOpenOk");
    raw
}

fn is_well(world: &World, address: SocketAddr) {
    let mut raw = opened(world.client(address).expect("it is let in"));
    raw.send(1, declare(""));
    raw.expect("QueueDeclareOk");
}

#[test]
fn what_goes_over_tls_comes_as_it_was_sent() {
    let world = World::new("tls-whole");
    let (_server, address) = world.server(Server::builder());
    let mut raw = opened(world.client(address).expect("it is let in"));
    raw.send(1, confirm::Select { no_wait: false });
    raw.expect("ConfirmSelectOk");
    raw.send(1, declare("q"));
    raw.expect("QueueDeclareOk");
    // Longer than a record of TLS, than a frame, and than what TLS keeps for a socket that takes nothing.
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    raw.publish(1, "", "q", true, Properties::default(), &body);
    raw.expect("BasicAck");
    raw.send(1, basic::Get { queue: "q", no_ack: true });
    raw.expect("BasicGetOk");
    assert!(matches!(raw.next(), Got::Header(1, 3_000_000, _)));
    let mut got = Vec::new();
    while got.len() < body.len() {
        match raw.next() {
            Got::Body(1, piece) => got.extend(piece),
            other => panic!("a body was expected, and not {other:?}"),
        }
    }
    assert!(got == body, "it is the same");
}

#[test]
fn a_client_that_reads_late_gets_all_of_it() {
    let world = World::new("tls-late");
    let (_server, address) = world.server(Server::builder());
    let mut raw = opened(world.client(address).expect("it is let in"));
    raw.send(1, declare("q"));
    raw.expect("QueueDeclareOk");
    let message = message_of(1, "", "q", false, Properties::default(), &[b'x'; 10_000]);
    for _ in 0..2_000 {
        raw.bytes(&message);
    }
    raw.send(1, consume("q"));
    // The sockets are full by then, and TLS has taken more than they have.
    std::thread::sleep(Duration::from_millis(300));
    let mut bodies = 0;
    while bodies < 2_000 {
        match raw.next() {
            Got::Body(..) => bodies += 1,
            Got::End => panic!("the end, after {bodies} messages"),
            Got::Method(..) | Got::Header(..) | Got::ProtocolHeader => {}
        }
    }
}

#[test]
fn a_client_needs_a_certificate_where_one_is_asked_for() {
    let world = World::new("tls-mutual");
    std::fs::write(world.path("ca.pem"), world.authority.pem()).expect("written");
    let tls = Tls::load(world.files().client_ca(world.path("ca.pem"))).expect("the files are good");
    let (_server, address) = server(Server::builder(), &tls);
    let issue = |by: &Authority, valid| by.issue(valid).expect("a certificate");
    let own = issue(&world.authority, Valid::Now);
    opened(connect(address, &world.authority, Some(&own)).expect("it is let in"));
    let stranger = issue(&Authority::new().expect("an authority"), Valid::Now);
    let expired = issue(&world.authority, Valid::Before);
    for (who, own) in [("none", None), ("a stranger's", Some(&stranger)), ("an expired one", Some(&expired))] {
        let let_in = connect(address, &world.authority, own).is_ok();
        assert!(!let_in, "a client was let in with this certificate: {who}");
    }
    opened(connect(address, &world.authority, Some(&own)).expect("it is let in"));
}

#[test]
fn a_new_certificate_counts_for_those_who_connect_from_then_on() {
    let world = World::new("tls-reload");
    let tls = Tls::load(world.files()).expect("the files are good");
    let (_server, address) = server(Server::builder(), &tls);
    let mut before = opened(world.client(address).expect("it is let in"));
    let next = Authority::new().expect("an authority");
    let (certificate, key) = (world.path("server.pem"), world.path("server.key"));
    // Half of the change: the key is not there yet.
    let issued = next.issue(Valid::Now).expect("a certificate");
    std::fs::write(&certificate, &issued.certificate).expect("written");
    let error = tls.reload().expect_err("the key is another one's").to_string();
    assert!(error.contains("server.key is not the one of the certificate"), "{error}");
    is_well(&world, address);
    issued.write(&certificate, &key).expect("written");
    tls.reload().expect("the files are good");
    opened(connect(address, &next, None).expect("it is let in"));
    assert!(world.client(address).is_err(), "the old certificate is still there");
    before.send(1, declare(""));
    before.expect("QueueDeclareOk");
}

#[test]
fn files_that_a_server_cannot_use_are_refused_with_what_is_wrong() {
    let world = World::new("tls-files");
    let _good = world.files();
    for (name, valid) in [("expired", Valid::Before), ("later", Valid::Later)] {
        let issued = world.authority.issue(valid).expect("a certificate");
        issued.write(&world.path(&format!("{name}.pem")), &world.path(&format!("{name}.key"))).expect("written");
    }
    let key = std::fs::read_to_string(world.path("server.key")).expect("a key");
    for (name, text) in [
        ("empty", ""),
        ("text", "no PEM at all\n"),
        ("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB"),
        ("wrong.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("cut.key", &key[..key.len() / 2]),
        ("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"),
        ("wrong.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
    ] {
        std::fs::write(world.path(name), text).expect("written");
    }
    std::fs::write(world.path("long"), vec![b'\n'; (1 << 20) + 1]).expect("written");
    std::fs::create_dir(world.path("directory")).expect("a directory");
    for (certificate, key_file, ca, expected) in [
        ("nowhere", "server.key", None, "nowhere cannot be read: No such file"),
        ("directory", "server.key", None, "directory cannot be read: Is a directory"),
        ("long", "server.key", None, "long is longer than 1048576 bytes"),
        ("empty", "server.key", None, "empty has no certificate in it; PEM is expected"),
        ("text", "server.key", None, "text has no certificate in it"),
        ("server.key", "server.key", None, "server.key has no certificate in it"),
        ("cut.pem", "server.key", None, "cut.pem is no PEM"),
        ("wrong.pem", "server.key", None, "wrong.pem has what is no certificate"),
        ("expired.pem", "expired.key", None, "expired.pem has expired"),
        ("later.pem", "later.key", None, "later.pem is not valid before"),
        ("server.pem", "nowhere", None, "nowhere cannot be read"),
        ("server.pem", "server.pem", None, "server.pem has no private key in it"),
        ("server.pem", "cut.key", None, "cut.key is no PEM, or was cut"),
        ("server.pem", "locked.key", None, "locked.key has a password"),
        ("server.pem", "wrong.key", None, "wrong.key cannot be used"),
        ("server.pem", "expired.key", None, "expired.key is not the one of the certificate"),
        ("server.pem", "server.key", Some("nowhere"), "nowhere cannot be read"),
        ("server.pem", "server.key", Some("server.key"), "server.key has no certificate in it"),
        ("server.pem", "server.key", Some("wrong.pem"), "wrong.pem has what is no certificate"),
    ] {
        let files = TlsFiles::new(world.path(certificate), world.path(key_file));
        let files = match ca {
            None => files,
            Some(ca) => files.client_ca(world.path(ca)),
        };
        let error = Tls::load(files).map(drop).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected:?} was expected, and not {error:?}");
        assert!(!key.lines().any(|line| error.contains(line)), "a part of the key: {error}");
    }
}

#[test]
fn who_does_not_finish_tls_is_let_go_within_the_time_of_a_handshake() {
    let mut limits = Limits::default();
    limits.handshake = Duration::from_secs(3);
    limits.connections = 4;
    let world = World::new("tls-slow");
    let (_server, address) = world.server(Server::builder().limits(limits));
    let begun = Instant::now();
    let mut slow: Vec<_> = (0..4).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    // The beginning of a ClientHello that announces more; one sends nothing at all.
    for stream in &mut slow[1..] {
        stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).expect("sent");
    }
    // They count among the connections. Where this machine is so slow that they are gone by now, that cannot be seen.
    let fifth = world.client(address).is_ok();
    assert!(!fifth || begun.elapsed() >= Duration::from_secs(3), "a fifth is let in while four are on their way");
    // An octet now and then buys no time.
    while slow[1].write_all(&[1]).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "a client may take as long as it likes");
        std::thread::sleep(Duration::from_millis(50));
    }
    for mut stream in slow {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let ended = stream.read_to_end(&mut Vec::new());
        let stays = ended.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(!stays, "a client that sends nothing may stay");
    }
    while world.client(address).is_err() {
        assert!(begun.elapsed() < PATIENCE, "nobody is let in any more");
    }
}

#[test]
fn a_client_that_does_not_speak_tls_costs_itself_only() {
    let world = World::new("tls-plain");
    let (_server, address) = world.server(Server::builder());
    for input in [
        b"AMQP\x00\x00\x09\x01".as_slice(),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x04\xff\xff\xff\xff",
        b"\x16\x03\x01",
        b"",
    ] {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(input).expect("sent");
        stream.shutdown(Shutdown::Write).expect("the end");
        let mut answer = Vec::new();
        // What comes is an alert of TLS at most; a reset is an answer too.
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.is_empty() || answer[0] == 21, "{answer:?}"),
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{input:?} is never answered"),
        }
    }
    is_well(&world, address);
}

#[test]
fn a_server_that_stops_does_not_wait_for_a_handshake() {
    let mut limits = Limits::default();
    limits.handshake = Duration::from_secs(3600);
    let world = World::new("tls-stop");
    let (server, address) = world.server(Server::builder().limits(limits));
    let _silent = TcpStream::connect(address).expect("it listens");
    let mut open = opened(world.client(address).expect("it is let in"));
    let stopping = std::thread::spawn(move || server.shutdown(PATIENCE));
    assert!(open.closed().contains("320"), "the reason arrives");
    open.send(0, connection::CloseOk {});
    assert_eq!(open.next(), Got::End);
    assert_eq!(stopping.join().expect("it stops").abandoned, 0, "it waits for a client that has not begun");
}

#[test]
fn an_address_of_other_machines_has_to_be_allowed_with_tls_too() {
    let world = World::new("tls-reach");
    let tls = Tls::load(world.files()).expect("the files are good");
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let error = Server::builder().listen_tls(any, &tls).start().map(drop).expect_err("it is not allowed");
    assert!(error.to_string().contains("other machines"), "{error}");
    let server = Server::builder().allow_other_machines().listen_tls(any, &tls).start().expect("it is allowed");
    let port = server.tls_addresses()[0].port();
    is_well(&world, SocketAddr::from(([127, 0, 0, 1], port)));
}
