//! Peers that are no broker: what the error says, and that nothing stays behind.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::*;
use crate::error::{Error, ErrorKind};

/// Accepts one connection after the other and does this with each.
fn peer(each: impl Fn(std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(each));
    port
}

async fn refusal(port: u16, limit: Duration) -> Error {
    let options = ConnectOptions { connect_timeout: limit, ..options() };
    let started = Instant::now();
    let Err(error) = connect(&endpoint(port), &options).await else { panic!("that is no broker") };
    assert!(started.elapsed() < limit + Duration::from_secs(5), "took {:?}", started.elapsed());
    error
}

#[test]
fn a_port_where_nothing_listens_is_named() {
    on_communicator_thread(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let error = refusal(port, Duration::from_secs(5)).await;
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(error.to_string().contains(&format!("nothing listens at 127.0.0.1:{port}")), "{error}");
    });
}

#[test]
fn a_silent_peer_is_given_up_in_time() {
    on_communicator_thread(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let error = refusal(listener.local_addr().expect("an address").port(), Duration::from_millis(200)).await;
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(error.to_string().contains("did not answer the AMQP handshake within 200ms"), "{error}");
    });
}

#[test]
fn a_peer_that_is_not_amqp_is_quoted() {
    on_communicator_thread(async {
        let port = peer(|mut stream| {
            let _ = stream.read(&mut [0; 8]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            std::thread::sleep(Duration::from_millis(300));
        });
        let error = refusal(port, Duration::from_secs(5)).await;
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(error.to_string().contains("it answered \"HTTP/1.1 400 Bad Request\""), "{error}");
    });
}

#[test]
fn a_tls_port_is_recognised() {
    on_communicator_thread(async {
        let port = peer(|mut stream| {
            let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 70]);
            std::thread::sleep(Duration::from_millis(300));
        });
        let error = refusal(port, Duration::from_secs(5)).await;
        assert!(error.to_string().contains("speaks TLS: use an amqps:// URL"), "{error}");
    });
}

#[test]
fn a_peer_that_hangs_up_is_named() {
    on_communicator_thread(async {
        let error = refusal(peer(drop), Duration::from_secs(5)).await;
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(error.to_string().contains("closed the connection during the AMQP handshake"), "{error}");
    });
}

/// A frame of a method of the connection.
fn connection_method(method: u8, arguments: &[u8]) -> Vec<u8> {
    let payload = [&[0, 10, 0, method][..], arguments].concat();
    let size = u32::try_from(payload.len()).expect("a short one").to_be_bytes();
    [&[1, 0, 0][..], &size, &payload, &[0xCE]].concat()
}

#[test]
fn a_peer_that_goes_while_its_last_word_is_handled_is_an_error_long_before_the_deadline() {
    fn start(stream: &mut std::net::TcpStream) {
        let _ = stream.read_exact(&mut [0; 8]);
        let arguments = [&[0, 9, 0, 0, 0, 0][..], b"\0\0\0\x05PLAIN", b"\0\0\0\x05en_US"].concat();
        let _ = stream.write_all(&connection_method(10, &arguments));
    }
    fn tune(stream: &mut std::net::TcpStream) {
        start(stream);
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&connection_method(30, &[0, 64, 0, 2, 0, 0, 0, 60]));
    }
    on_communicator_thread(async {
        // Guards: lapin handles what came on this thread, and notices the end of the connection on its own. This one is slow, so
        // that the other has ended when the answer is ready, which then nobody takes.
        tokio::task::spawn_local(async {
            loop {
                std::thread::sleep(Duration::from_millis(20));
                tokio::task::yield_now().await;
            }
        });
        for goes_after in [start, tune] {
            let port = peer(move |mut stream| goes_after(&mut stream));
            let options = ConnectOptions { connect_timeout: Duration::from_secs(600), ..options() };
            let endpoint = endpoint(port);
            let connecting = tokio::time::timeout(Duration::from_secs(60), connect(&endpoint, &options));
            let Err(error) = connecting.await.expect("connecting hangs") else { panic!("that is no broker") };
            assert!(matches!(error.kind(), ErrorKind::Connection | ErrorKind::AccessRefused), "{error}");
        }
    });
}

#[test]
fn another_version_of_amqp_is_named() {
    on_communicator_thread(async {
        let port = peer(|mut stream| {
            let _ = stream.write_all(b"AMQP\x00\x01\x00\x00");
            std::thread::sleep(Duration::from_millis(300));
        });
        let error = refusal(port, Duration::from_secs(5)).await;
        assert!(error.to_string().contains("homing speaks AMQP 0-9-1"), "{error}");
    });
}

#[cfg(not(feature = "tls"))]
#[test]
fn tls_that_is_not_built_in_is_refused_and_nothing_goes_out_in_the_clear() {
    on_communicator_thread(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let endpoint = Endpoint { transport: Transport::Tls, ..endpoint(port) };
        let Err(error) = connect(&endpoint, &options()).await else { panic!("that is no broker") };
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let mut said = Vec::new();
        let (mut stream, _) = listener.accept().expect("the connection");
        stream.read_to_end(&mut said).expect("its bytes");
        assert!(said.is_empty(), "said {said:?}");
    });
}

#[test]
fn connects_that_fail_leave_no_thread_and_no_descriptor() {
    in_own_process("offline::connects_that_fail_leave_no_thread_and_no_descriptor", || {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let silent_port = silent.local_addr().expect("an address").port();
        let garbage = peer(|mut stream| {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n");
            let _ = stream.read(&mut [0; 8]);
        });
        on_communicator_thread(async {
            let attempts = async |count: usize| {
                for _ in 0..count {
                    let error = refusal(silent_port, Duration::from_millis(20)).await;
                    assert_eq!(error.kind(), ErrorKind::Connection);
                    // The other end's descriptor is not ours to count.
                    drop(silent.accept());
                    refusal(garbage, Duration::from_secs(5)).await;
                }
            };
            attempts(1).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let before = threads_and_descriptors();
            attempts(20).await;
            // A thread that has let go of everything is still counted for some microseconds.
            for _ in 0..100 {
                if threads_and_descriptors() == before {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(threads_and_descriptors(), before, "threads and descriptors before and after");
        });
    });
}

#[test]
fn an_endpoint_shows_no_password() {
    let endpoint = Endpoint { password: "s3cret".to_owned(), ..endpoint(1) };
    assert!(!format!("{endpoint:?}").contains("s3cret"));
}
