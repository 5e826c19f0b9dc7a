//! A proxy that ends TLS in front of a server, as one does in production, and says so to it.

#![allow(unreachable_pub, reason = "no test program uses all of it")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rcgen::{CertifiedKey, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::client::PATIENCE;

/// Listens for TLS under this name, with a self-signed certificate, and passes requests
/// on to the server. It goes on until the test program ends.
pub fn proxy(name: &str, server: SocketAddr) -> SocketAddr {
    let config = Arc::new(config(name));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            // A browser opens connections that it does not use, and gives up others.
            thread::spawn(move || pass_on(client, config, server));
        }
    });
    address
}

/// A self-signed certificate for this name, and its key.
pub fn self_signed(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap()
}

fn config(name: &str) -> ServerConfig {
    let made = self_signed(name);
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap()
}

/// One request and its answer; then both connections are closed, so that where the answer ends
/// need not be known.
fn pass_on(client: TcpStream, config: Arc<ServerConfig>, server: SocketAddr) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut client = BufReader::new(StreamOwned::new(tls, client));

    let mut head = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        client.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            head.extend(line.as_bytes());
            if line == "\r\n" {
                break;
            } else if line.is_empty() {
                return Ok(());
            }
            // The first line.
            head.extend(b"X-Forwarded-Proto: https\r\nConnection: close\r\n");
            continue;
        };
        if name.eq_ignore_ascii_case("Content-Length") {
            length = value.parse().map_err(io::Error::other)?;
        }
        if !name.eq_ignore_ascii_case("Connection") {
            head.extend(line.as_bytes());
        }
    }
    let mut server = TcpStream::connect(server)?;
    server.write_all(&head)?;
    io::copy(&mut client.by_ref().take(length), &mut server)?;
    let mut client = client.into_inner();
    io::copy(&mut server, &mut client)?;
    client.conn.send_close_notify();
    client.flush()
}
