//! TLS, as the example serves it: `wss://` over HTTP/1.1 and over HTTP/2.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::fixture::{Client, ClientOptions, SCHEMA, soon};
use crate::http2::Browser;
use crate::process::Example;
use crate::session::sync;

/// What a client says that it speaks (RFC 7301).
const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// Shakes hands with a server whose certificate is in that file.
async fn connect(example: &Example, certificate: &Path, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let socket = TcpStream::connect(example.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    soon("the handshake", TlsConnector::from(Arc::new(config)).connect(name, socket)).await
}

async fn client(example: &Example, n: u8) -> Client<TlsStream<TcpStream>> {
    let io = connect(example, &example.folder().join("cert.pem"), HTTP_1).await.unwrap();
    soon("the upgrade", Client::over(io, "localhost", "r", n, ClientOptions::default())).await.unwrap()
}

#[tokio::test]
async fn the_example_serves_its_page_and_its_rooms_over_http_1() {
    let example = Example::start("tls", SCHEMA).await;
    let (mut author, mut reader) = (client(&example, 1).await, client(&example, 2).await);
    sync(&mut author, &mut reader).await;

    let mut io = connect(&example, &example.folder().join("cert.pem"), HTTP_1).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    soon("the page", io.read_to_string(&mut response)).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\nhello"), "{response}");
}

#[tokio::test]
async fn the_example_serves_its_page_and_its_rooms_over_http_2() {
    let example = Example::start("tls", SCHEMA).await;
    let io = connect(&example, &example.folder().join("cert.pem"), HTTP_2).await.unwrap();
    let mut browser = Browser::over(io, "https://localhost".to_owned()).await;
    assert_eq!(browser.get("/").await.text, "hello");
    let mut author = browser.open("r", 1, ClientOptions::default()).await;
    let mut reader = client(&example, 2).await;
    sync(&mut author, &mut reader).await;
}

#[tokio::test]
async fn the_example_takes_a_certificate_of_its_users() {
    let own = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (own.path().join("chain.pem"), own.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();

    let example = Example::start_with("tls", SCHEMA, &[&certificate, &key]).await;
    connect(&example, &certificate, HTTP_1).await.unwrap();

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, other.cert.pem()).unwrap();
    assert!(connect(&example, &certificate, HTTP_1).await.is_err(), "a certificate that the client doesn't trust");
}
