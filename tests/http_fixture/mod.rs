//! Real hyper servers and clients, joined by a pipe in memory instead of a port.
#![allow(dead_code, reason = "shared by several test binaries, and none uses all of it")]

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::{Ready, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::DuplexStream;
use tower::Service;
use tower_sqlite_sync::{SyncConfig, SyncLayer};

/// The key of RFC 6455 §1.3, and what a server makes of it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A layer whose rooms need no folder.
pub(crate) fn layer() -> SyncLayer {
    SyncLayer::new(config())
}

pub(crate) fn config() -> SyncConfig {
    SyncConfig::default().with_memory(true)
}

/// Stands where the application is: answers 418, so that an answer from it is not mistaken for one of the layer.
pub(crate) fn teapot(_request: Request<Incoming>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    let mut response = Response::new(Full::from("inner"));
    *response.status_mut() = StatusCode::IM_A_TEAPOT;
    ready(Ok(response))
}

/// The subprotocol that vlcn's clients make of a text, whose characters all have to be Latin-1.
pub(crate) fn subprotocol(text: &str) -> String {
    let latin1: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    STANDARD_NO_PAD.encode(latin1)
}

/// The head of a good request for the room or token that the text names.
pub(crate) fn upgrade(path: &str, text: &str) -> request::Builder {
    Request::get(path)
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY)
        .header("sec-websocket-protocol", subprotocol(text))
}

/// Serves one connection with hyper, upgrades on; the other end of it.
pub(crate) fn serve<S, B>(service: S) -> DuplexStream
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let (here, there) = tokio::io::duplex(16 << 10);
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(there), TowerToHyperService::new(service))
        .with_upgrades();
    // Its error is the client's to see, as a broken pipe.
    tokio::spawn(async move { connection.await.ok() });
    here
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// Sends one request over a connection of its own.
pub(crate) async fn ask<B>(io: DuplexStream, request: Request<B>) -> Answer
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(async move { connection.with_upgrades().await.ok() });
    let (head, body) = client.send_request(request).await.unwrap().into_parts();
    // A response without a body ends with its head; after a 101, the connection is no longer HTTP.
    let text = match head.status {
        StatusCode::SWITCHING_PROTOCOLS => String::new(),
        _ => String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap(),
    };
    Answer { status: head.status, headers: head.headers, text }
}

/// No body at all.
pub(crate) fn empty() -> Full<Bytes> {
    Full::default()
}
