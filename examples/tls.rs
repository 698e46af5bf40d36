//! TLS with rustls: pages over https, sync over wss, both in HTTP/1.1 and HTTP/2.
//!
//! `cargo run --example tls`, or with another address than 127.0.0.1:8080 as its argument, and behind it the files of a certificate
//! chain and its key, in PEM. Without these it makes a certificate for localhost and leaves it in `cert.pem`, for clients to trust.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tower_sqlite_sync::{SyncConfig, SyncLayer};

/// How long a client may take to shake hands, and then for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a client of HTTP/2 that is silent is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let sync = SyncLayer::new(SyncConfig::default());
    let rooms = sync.handle();
    let app = Router::new().route("/", get(async || "hello")).layer(sync);

    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let (certificates, key) = match (arguments.next(), arguments.next()) {
        (Some(certificates), Some(key)) => read_certificates(&certificates, &key)?,
        _ => make_certificate()?,
    };
    let tls = TlsAcceptor::from(Arc::new(tls_config(certificates, key)?));

    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("can't listen on {address}: {error}; give another address as the argument"))?;
    println!("listening on https://{}", listener.local_addr()?);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _peer)) => drop(tokio::spawn(serve(socket, tls.clone(), app.clone()))),
                Err(error) => {
                    tracing::error!(%error, "can't take a connection");
                    // Most likely too many files are open. Some will be closed.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    rooms.shutdown().await;
    Ok(())
}

/// Serves one connection. Shaking hands takes the client's time, so it is done here and not where connections are accepted.
async fn serve(socket: TcpStream, tls: TlsAcceptor, app: Router) {
    // Changes are small and urgent: they don't wait for more to fill a packet.
    socket.set_nodelay(true).ok();
    let stream = match timeout(PATIENCE, tls.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
        Err(_elapsed) => return tracing::debug!("no TLS in time"),
    };
    let (_socket, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let (io, service) = (TokioIo::new(stream), TowerToHyperService::new(app));
    let served = if http2 {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL);
        // Browsers open WebSockets over HTTP/2 only if the server says that it takes them (RFC 8441).
        server.enable_connect_protocol();
        server.serve_connection(io, service).await
    } else {
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        server.serve_connection(io, service).with_upgrades().await
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection broken");
    }
}

fn tls_config(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Box<dyn Error>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_certificates(certificates: &str, key: &str) -> Result<Identity, Box<dyn Error>> {
    let unreadable =
        |file, error| format!("{file} can't be read: {error}; give the PEM files of a certificate chain and its key");
    let chain = CertificateDer::pem_file_iter(certificates).and_then(Iterator::collect);
    let chain: Vec<_> = chain.map_err(|error| unreadable(certificates, error))?;
    Ok((chain, PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?))
}

fn make_certificate() -> Result<Identity, Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    std::fs::write("cert.pem", made.cert.pem())
        .map_err(|error| format!("can't write cert.pem: {error}; start in a folder of yours, or give a certificate"))?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    Ok((vec![made.cert.der().clone()], key))
}
