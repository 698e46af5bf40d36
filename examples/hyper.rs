//! Plain hyper, without a framework: HTTP/1.1 and HTTP/2 on one port, sync over both, and no waiting for clients that ask for nothing.
//!
//! `cargo run --example hyper`, or with another address than 127.0.0.1:8080 as its argument.

use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sqlite_sync::{SyncBody, SyncConfig, SyncLayer};

/// How long a client may take for the head of a request. Sessions have time limits of their own.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

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
    let service = sync.layer(service_fn(pages));

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("can't listen on {address}: {error}; give another address as the argument"))?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _peer)) => drop(tokio::spawn(serve(socket, service.clone()))),
                Err(error) => {
                    tracing::error!(%error, "can't take a connection");
                    // Most likely too many files are open. Some will be closed.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    // Requests that are still running are cut off; `hyper_util::server::graceful` would wait for them.
    rooms.shutdown().await;
    Ok(())
}

/// The application.
async fn pages(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match request.uri().path() {
        "/" => Response::new(Full::from("hello")),
        _ => {
            let mut response = Response::new(Full::from("there is no such page"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}

/// Serves one connection: until it ends, becomes a WebSocket, or turns out to have nothing to ask.
async fn serve<S>(socket: TcpStream, service: S)
where
    S: Service<Request<Incoming>, Response = Response<SyncBody<Full<Bytes>>>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    // Changes are small and urgent: they don't wait for more to fill a packet.
    socket.set_nodelay(true).ok();

    let mut server = auto::Builder::new(TokioExecutor::new());
    // hyper has no time limits without a timer.
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    // Browsers open WebSockets over HTTP/2 only if the server says that it takes them (RFC 8441).
    server.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).enable_connect_protocol();

    // hyper's time limit begins when it knows which HTTP the client speaks; this one holds until there is a request.
    let (asked, mut is_asked) = watch::channel(false);
    let service = service.map_request(move |request| {
        asked.send_replace(true);
        request
    });
    let silence = async {
        if timeout(HEAD_TIMEOUT, is_asked.wait_for(|asked| *asked)).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let connection = server.serve_connection_with_upgrades(TokioIo::new(socket), TowerToHyperService::new(service));
    tokio::select! {
        served = connection => {
            if let Err(error) = served {
                tracing::debug!(%error, "connection broken");
            }
        }
        () = silence => tracing::debug!("connection without a request"),
    }
}
