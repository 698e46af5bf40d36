//! Plain hyper, without a framework.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{Layer, Service, service_fn};
use tower_sqlite_sync::SyncLayer;

use crate::fixture::ClientOptions;
use crate::session::{memory, page, syncs};

/// An application that knows one page.
pub(crate) async fn hello(_request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello")))
}

/// Serves HTTP/1.1 and HTTP/2 on a free port, both with WebSockets.
pub(crate) async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _peer) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let mut server = auto::Builder::new(TokioExecutor::new());
                server.http2().enable_connect_protocol();
                server.serve_connection_with_upgrades(TokioIo::new(socket), service).await.ok()
            });
        }
    });
    address
}

#[tokio::test]
async fn clients_sync_and_the_application_answers() {
    let (_folder, config) = memory();
    let address = serve(SyncLayer::new(config).layer(service_fn(hello))).await;
    syncs(address, ClientOptions::default()).await;
    assert_eq!(page(address, "/").await, (200, "hello".into()));
}
