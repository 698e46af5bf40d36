//! A good request for a room becomes a WebSocket, under every server that can hand over its connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod http_fixture;

use std::convert::Infallible;
use std::future::{IntoFuture, pending};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use http_fixture::{ACCEPT, KEY, ask, config, empty, layer, serve, subprotocol, teapot, upgrade};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tower::{Layer, ServiceExt, service_fn};
use tower_sqlite_sync::{SyncConfig, SyncLayer};

/// A request as a client writes it.
fn request_bytes(subprotocol: &str) -> Vec<u8> {
    let request = format!(
        "GET /sync HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n",
    );
    request.into_bytes()
}

/// The bytes of a response, up to the empty line.
async fn response_head(mut io: impl AsyncRead + Unpin) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Opens a WebSocket as a client does, and closes it: the server must be there to answer the close.
async fn open_and_close(io: impl AsyncRead + AsyncWrite + Unpin, path: &str) {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", subprotocol("room=test").parse().unwrap());
    let (mut socket, response) = client_async(request, io).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    socket.close(None).await.unwrap();
    let mut closed = false;
    while let Some(message) = socket.next().await {
        closed |= message.unwrap().is_close();
    }
    assert!(closed, "the server answered the close");
}

#[tokio::test]
async fn the_response_holds_what_rfc_6455_asks_for_and_no_body_length() {
    let router = Router::new().route("/", get(async || "inner")).layer(layer());
    for mut io in [serve(layer().layer(service_fn(teapot))), serve(router)] {
        io.write_all(&request_bytes("cm9vbT10ZXN0")).await.unwrap();
        let head = response_head(&mut io).await.to_ascii_lowercase();
        let mut lines: Vec<_> = head.trim_end().lines().filter(|line| !line.starts_with("date:")).collect();
        lines.sort_unstable();
        let accept = format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase());
        assert_eq!(
            lines,
            [
                "connection: upgrade",
                "http/1.1 101 switching protocols",
                &accept,
                "sec-websocket-protocol: cm9vbt10zxn0",
                "upgrade: websocket"
            ]
        );
    }
}

#[tokio::test]
async fn the_subprotocol_comes_back_byte_for_byte() {
    let wide = SyncLayer::new(config().with_wide_room_names(true));
    for subprotocol in [
        "cm9vbT10ZXN0",
        "YXV0aD0xMjMscm9vbT10ZXN0",
        "cm9vbT0+Pj4", // room `>>>`: a `+`
        "cm9vbT0-Pj4", // the same in the URL-safe alphabet
        "cm9vbT3p",    // room `é`, one byte in Latin-1
        "cm9vbT1hYg==",
    ] {
        let mut io = serve(wide.layer(service_fn(teapot)));
        io.write_all(&request_bytes(subprotocol)).await.unwrap();
        let head = response_head(&mut io).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("\r\nsec-websocket-protocol: {subprotocol}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn a_frame_that_comes_with_the_request_is_not_lost() {
    let mut io = serve(layer().layer(service_fn(teapot)));
    let mut bytes = request_bytes("cm9vbT10ZXN0");
    // Close with code 1000, masked with zeros (RFC 6455 §5.2).
    bytes.extend([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
    io.write_all(&bytes).await.unwrap();
    response_head(&mut io).await;
    assert_eq!(io.read_u8().await.unwrap(), 0x88, "the close is answered with a close");
}

#[tokio::test]
async fn a_socket_is_served_behind_plain_hyper() {
    open_and_close(serve(layer().layer(service_fn(teapot))), "/sync").await;
}

#[tokio::test]
async fn a_socket_is_served_behind_hyper_util_that_detects_the_version() {
    let (here, there) = tokio::io::duplex(16 << 10);
    tokio::spawn(async move {
        let service = TowerToHyperService::new(layer().layer(service_fn(teapot)));
        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection_with_upgrades(TokioIo::new(there), service)
            .await
            .ok()
    });
    open_and_close(here, "/sync").await;
}

#[tokio::test]
async fn a_socket_is_served_behind_axum_on_a_port() {
    let router = Router::new().route("/", get(async || "inner")).layer(layer());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    open_and_close(TcpStream::connect(address).await.unwrap(), "/sync").await;
    assert_eq!(page(address).await, "inner");
    server.abort();
}

/// What a browser gets at `/`.
async fn page(address: std::net::SocketAddr) -> String {
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    io.read_to_string(&mut response).await.unwrap();
    response.split("\r\n\r\n").nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn the_path_is_what_the_pattern_says() {
    let config = SyncConfig::default().with_memory(true).with_path("^/v[12]/rooms$".parse().unwrap());
    let layer = SyncLayer::new(config);
    for (path, status) in [
        ("/v1/rooms", StatusCode::SWITCHING_PROTOCOLS),
        ("/v2/rooms?x=/v3", StatusCode::SWITCHING_PROTOCOLS),
        ("/v3/rooms", StatusCode::IM_A_TEAPOT),
        ("/sync", StatusCode::IM_A_TEAPOT),
    ] {
        let io = serve(layer.layer(service_fn(teapot)));
        let answer = ask(io, upgrade(path, "room=test").body(empty()).unwrap()).await;
        assert_eq!(answer.status, status, "{path}");
    }
}

#[tokio::test]
async fn routes_of_an_axum_router_share_one_hub() {
    let router = Router::new()
        .route("/sync", get(async || "inner"))
        .route("/sync/{room}", any(async || "inner"))
        .layer(SyncLayer::new(config().with_max_connections(1)));

    let mut request = "ws://localhost/sync".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", subprotocol("room=test").parse().unwrap());
    let (_open, _response) = client_async(request, serve(router.clone())).await.unwrap();

    // The first route holds the only place; the second route and the fallback know.
    for path in ["/sync/a", "/sync/none/of/the/routes"] {
        let answer = ask(serve(router.clone()), upgrade(path, "room=test").body(empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
}

#[tokio::test]
async fn inside_nest_the_pattern_meets_what_is_left_of_the_path() {
    let nested = Router::new().route("/sync", get(async || "inner")).layer(layer());
    let router = Router::new().nest("/api", nested);
    let answer = ask(serve(router), upgrade("/api/sync", "room=test").body(empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::SWITCHING_PROTOCOLS);
}

#[tokio::test]
async fn a_connection_that_the_server_never_hands_over_gives_its_place_back() {
    let layer = SyncLayer::new(config().with_max_connections(1).with_upgrade_timeout(Duration::from_millis(20)));

    // A server that takes the 101 response and sits on it.
    let (taken, is_taken) = tokio::sync::oneshot::channel();
    let taken = Arc::new(Mutex::new(Some(taken)));
    let service = layer.layer(service_fn(teapot));
    let keeper = service_fn(move |request: Request<Incoming>| {
        let (service, taken) = (service.clone(), Arc::clone(&taken));
        async move {
            let response = service.oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            taken.lock().unwrap().take().unwrap().send(()).unwrap();
            pending::<Result<Response<Full<Bytes>>, Infallible>>().await
        }
    });
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(serve(keeper))).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let kept = tokio::spawn(client.send_request(upgrade("/sync", "room=test").body(empty()).unwrap()));
    is_taken.await.unwrap();

    let enter = || ask(serve(layer.layer(service_fn(teapot))), upgrade("/sync", "room=test").body(empty()).unwrap());
    while enter().await.status != StatusCode::SWITCHING_PROTOCOLS {}
    assert!(!kept.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_server_may_take_until_its_time_is_over_to_hand_over_a_connection() {
    let (limit, moment) = (Duration::from_secs(10), Duration::from_millis(10));
    let layer = SyncLayer::new(config().with_upgrade_timeout(limit));
    for (takes, serves) in [(limit - moment, true), (limit + moment, false)] {
        let service = layer.layer(service_fn(teapot));
        let slow = service_fn(move |request: Request<Incoming>| {
            let service = service.clone();
            async move {
                let response = service.oneshot(request).await;
                tokio::time::sleep(takes).await;
                response
            }
        });
        let mut request = "ws://localhost/sync".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", subprotocol("room=test").parse().unwrap());
        let (mut socket, _response) = client_async(request, serve(slow)).await.unwrap();
        let is_answered =
            socket.close(None).await.is_ok() && socket.next().await.is_some_and(|message| message.is_ok());
        assert_eq!(is_answered, serves, "after {takes:?}");
    }
}
