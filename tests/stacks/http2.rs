//! HTTP/2: WebSockets over extended CONNECT (RFC 8441), beside requests on the same connection.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::{any, get};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tower::{Layer, service_fn};
use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncLayer};
use tower_sqlite_sync_wire::Value;

use crate::axum::serve;
use crate::fixture::{Client, ClientOptions, cell, soon};
use crate::session::{memory, sync};

/// An HTTP/2 connection, as a browser keeps one for all its requests to a server.
pub(crate) struct Browser {
    origin: String,
    connection: SendRequest<Empty<Bytes>>,
}

/// A response, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Browser {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), format!("http://{address}")).await
    }

    /// Speaks HTTP/2 over a connection to the server with this origin.
    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, origin: String) -> Self {
        let (connection, driver) = handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        tokio::spawn(driver);
        let mut browser = Self { origin, connection };
        // The server's settings, which say that it takes extended CONNECT, come before its first response.
        browser.get("/").await;
        browser
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{}{path}", self.origin)).version(Version::HTTP_2)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask(self.request(Method::GET, path)).await
    }

    async fn ask(&mut self, request: http::request::Builder) -> Answer {
        let exchange = async {
            let response = self.connection.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: head.status, headers: head.headers, text: String::from_utf8(body.to_vec()).unwrap() }
        };
        soon("the response", exchange).await
    }

    /// A request for a WebSocket, as yet without what the client has to say about it.
    fn extended_connect(&self, path: &str) -> http::request::Builder {
        self.request(Method::CONNECT, path).extension(Protocol::from_static("websocket"))
    }

    fn handshake(&self, room: &str, options: ClientOptions) -> http::request::Builder {
        self.extended_connect(options.path)
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", options.subprotocol(room))
    }

    /// Opens a WebSocket in a stream of this connection.
    pub(crate) async fn open(&mut self, room: &str, n: u8, options: ClientOptions) -> Client<TokioIo<Upgraded>> {
        let request = self.handshake(room, options).body(Empty::new()).unwrap();
        let response = soon("the response", self.connection.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["sec-websocket-protocol"], options.subprotocol(room));
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        let upgraded = soon("the stream", hyper::upgrade::on(response)).await.unwrap();
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
        Client::of(socket, n, options)
    }
}

#[tokio::test]
async fn sessions_and_pages_share_one_connection_on_axum_and_on_hyper() {
    let (_folder, config) = memory();
    let app = Router::new().route("/", get(async || "hello")).layer(SyncLayer::new(config.clone()));
    let service = SyncLayer::new(config).layer(service_fn(crate::hyper::hello));
    for address in [serve(app).await, crate::hyper::serve(service).await] {
        let mut browser = Browser::connect(address).await;
        let mut author = browser.open("r", 1, ClientOptions::default()).await;
        let mut reader = browser.open("r", 2, ClientOptions::default()).await;
        sync(&mut author, &mut reader).await;
        assert_eq!(browser.get("/").await.text, "hello");
        reader.close().await;
        author.close().await;
        assert_eq!(browser.get("/").await.text, "hello");
    }
}

#[tokio::test]
async fn clients_of_http_1_and_of_http_2_meet_in_a_room() {
    let (_folder, config) = memory();
    let address = serve(Router::new().layer(SyncLayer::new(config))).await;
    let mut author = Browser::connect(address).await.open("r", 1, ClientOptions::default()).await;
    let mut reader = Client::connect_with(address, "r", 2, ClientOptions::default()).await;
    sync(&mut author, &mut reader).await;
}

#[tokio::test]
async fn messages_larger_than_the_window_of_a_stream_come_whole_both_ways() {
    let (_folder, config) = memory();
    let address = serve(Router::new().layer(SyncLayer::new(config))).await;
    let mut browser = Browser::connect(address).await;
    let mut author = browser.open("r", 1, ClientOptions::default()).await;
    let mut reader = browser.open("r", 2, ClientOptions::default()).await;
    author.enter().await;
    reader.enter().await;
    let text = "x".repeat(3 << 20);
    author.push(0, &[cell(1, "b", Value::Text(&text), 1)]).await;
    let received = reader.changes().await;
    let change = received.changes.iter().next().unwrap();
    assert!(change.val == Value::Text(&text));
}

#[tokio::test]
async fn the_hook_decides_as_over_http_1() {
    let (_folder, config) = memory();
    let layer = SyncLayer::new(config).authorize(async |request: AuthRequest| match request.token() {
        Some("writer") if request.path() == "/sync" => Ok(Grant::read_write()),
        _ => Err(Denied::unauthorized("log in first")),
    });
    let address = serve(Router::new().layer(layer)).await;
    let mut browser = Browser::connect(address).await;
    let refused = browser.ask(browser.handshake("r", ClientOptions::default())).await;
    assert_eq!((refused.status, &*refused.text), (StatusCode::UNAUTHORIZED, "log in first\n"));
    let options = ClientOptions { token: Some("writer"), ..Default::default() };
    browser.open("r", 1, options).await.enter().await;
}

#[tokio::test]
async fn a_bad_request_is_told_what_is_wrong_with_it() {
    let (_folder, config) = memory();
    let address = serve(Router::new().layer(SyncLayer::new(config.with_max_connections(1)))).await;
    let mut browser = Browser::connect(address).await;
    let options = ClientOptions::default();

    let roomless = browser.ask(browser.extended_connect("/sync").header("sec-websocket-version", "13")).await;
    assert_eq!(roomless.status, StatusCode::BAD_REQUEST);
    assert!(roomless.text.contains("say which room"), "{}", roomless.text);
    let bad_room = browser.ask(browser.handshake("a/b", options)).await;
    assert_eq!(bad_room.status, StatusCode::BAD_REQUEST);
    let old = browser.extended_connect("/sync").header("sec-websocket-version", "8");
    let old = browser.ask(old.header("sec-websocket-protocol", options.subprotocol("r"))).await;
    assert_eq!(old.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(old.headers["sec-websocket-version"], "13");

    let _only = browser.open("r", 1, options).await;
    let crowded = browser.ask(browser.handshake("r", options)).await;
    assert_eq!(crowded.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(crowded.headers["retry-after"], "5");
}

#[tokio::test]
async fn requests_of_others_reach_the_application() {
    let (_folder, config) = memory();
    let inner = any(async |request: axum::extract::Request| {
        let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
        (StatusCode::IM_A_TEAPOT, format!("{} {protocol:?}", request.method()))
    });
    let app = Router::new().route("/sync", inner.clone()).route("/chat", inner).layer(SyncLayer::new(config));
    let mut browser = Browser::connect(serve(app).await).await;
    let elsewhere = browser.ask(browser.extended_connect("/chat")).await;
    assert_eq!((elsewhere.status.as_u16(), &*elsewhere.text), (418, "CONNECT Some(\"websocket\")"));
    let tunnel = browser.request(Method::CONNECT, "/sync").extension(Protocol::from_static("connect-udp"));
    let tunnel = browser.ask(tunnel).await;
    assert_eq!((tunnel.status.as_u16(), &*tunnel.text), (418, "CONNECT Some(\"connect-udp\")"));
    assert_eq!(browser.get("/sync").await.text, "GET None");
}

#[tokio::test]
async fn a_shutdown_says_goodbye_in_every_stream_and_leaves_the_connection_to_the_application() {
    let (_folder, config) = memory();
    let layer = SyncLayer::new(config);
    let rooms = layer.handle();
    let address = serve(Router::new().route("/", get(async || "hello")).layer(layer)).await;
    let mut browser = Browser::connect(address).await;
    let mut client = browser.open("r", 1, ClientOptions::default()).await;
    client.enter().await;
    let shutdown = tokio::spawn(async move { rooms.shutdown().await });
    assert_eq!(client.closed().await.0, 1001);
    client.gone().await;
    soon("the shutdown", shutdown).await.unwrap();
    assert_eq!(browser.get("/").await.text, "hello");
}
