//! A request for a room that is not let in gets a status, a reason that says what to do, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod http_fixture;

use std::future::pending;
use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use http::{Request, StatusCode};
use http_fixture::{Answer, ask, config, empty, layer, serve, subprotocol, teapot, upgrade};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};
use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncLayer};

/// The answer to a request, which must be the same from a hyper service and an axum router.
async fn answer(layer: &SyncLayer, head: impl Fn() -> http::request::Builder) -> Answer {
    let hyper = ask(serve(layer.layer(service_fn(teapot))), head().body(empty()).unwrap()).await;
    let router = Router::new().route("/other", any(async || "inner")).layer(layer.clone());
    let axum = ask(serve(router), head().body(empty()).unwrap()).await;
    assert_eq!((hyper.status, &hyper.text), (axum.status, &axum.text));
    hyper
}

/// A layer without a free place: somebody who has the only one waits for the hook, for as long as the test takes.
async fn full() -> SyncLayer {
    let layer = SyncLayer::new(config().with_max_connections(1));
    let arrived = Arc::new(Notify::new());
    let at_the_door = arrived.clone();
    let waiting = layer.clone().authorize(move |_request: AuthRequest| {
        at_the_door.notify_one();
        pending::<Result<Grant, Denied>>()
    });
    let guest = upgrade("/sync", "room=test").body(empty()).unwrap();
    tokio::spawn(ask(serve(waiting.layer(service_fn(teapot))), guest));
    arrived.notified().await;
    layer
}

/// Checks a refusal's form; its text.
fn text(answer: &Answer, status: StatusCode) -> &str {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.headers["content-length"], answer.text.len().to_string());
    assert!(answer.text.len() > 10 && answer.text.ends_with('\n'), "{:?}", answer.text);
    &answer.text
}

fn with(name: &'static str, value: Option<&str>) -> http::request::Builder {
    let mut head = upgrade("/sync", "room=test");
    let headers = head.headers_mut().unwrap();
    headers.remove(name);
    if let Some(value) = value {
        headers.insert(name, value.parse().unwrap());
    }
    head
}

#[tokio::test]
async fn a_request_without_a_readable_subprotocol_is_told_what_to_send() {
    let layer = layer();
    for (value, reason) in [
        (None, "say which room"),
        (Some("cm9vbT10ZXN0, cm9vbT10ZXN0"), "exactly one"),
        (Some("!"), "does not decode"),
        (Some("YXV0aD0x"), "names no room"),
    ] {
        let answer = answer(&layer, || with("sec-websocket-protocol", value)).await;
        let text = text(&answer, StatusCode::BAD_REQUEST);
        assert!(text.contains(reason) && text.contains("`auth=<token>,room=<room>`"), "{value:?}: {text}");
    }
}

#[tokio::test]
async fn a_room_name_that_could_be_another_file_is_refused_before_the_upgrade() {
    let layer = layer();
    for (room, reason) in [
        ("../secrets", "starts with '.'"),
        ("a/b", "contains '/'"),
        ("a-wal", "ends in `-wal`"),
        (".primary", "starts with '.'"),
        ("é", "contains 'é'"),
        (":memory:", "contains ':'"),
    ] {
        let answer = answer(&layer, || upgrade("/sync", &format!("room={room}"))).await;
        let text = text(&answer, StatusCode::BAD_REQUEST);
        assert!(text.contains(reason), "{room}: {text}");
    }
}

#[tokio::test]
async fn wide_room_names_still_stay_in_the_folder() {
    let layer = SyncLayer::new(config().with_wide_room_names(true));
    for room in ["../secrets", "a/b", "a\\b", "a..b", "a-wal", ".primary"] {
        text(&answer(&layer, || upgrade("/sync", &format!("room={room}"))).await, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn another_version_of_the_protocol_is_answered_with_the_one_we_speak() {
    let layer = layer();
    for version in [None, Some("8"), Some("13, 8")] {
        let answer = answer(&layer, || with("sec-websocket-version", version)).await;
        assert!(text(&answer, StatusCode::UPGRADE_REQUIRED).contains("version 13"));
        assert_eq!(answer.headers["sec-websocket-version"], "13");
        assert_eq!(answer.headers["upgrade"], "websocket");
        assert_eq!(answer.headers["connection"], "Upgrade");
    }
}

#[tokio::test]
async fn a_key_that_is_no_nonce_is_refused() {
    let layer = layer();
    for key in [None, Some("c2hvcnQ=")] {
        let answer = answer(&layer, || with("sec-websocket-key", key)).await;
        assert!(text(&answer, StatusCode::BAD_REQUEST).contains("Sec-WebSocket-Key"));
    }
}

#[tokio::test]
async fn over_the_connection_limit_a_client_is_told_to_come_back() {
    let answer = answer(&full().await, || upgrade("/sync", "room=test")).await;
    assert!(text(&answer, StatusCode::SERVICE_UNAVAILABLE).contains("try again"));
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
}

#[tokio::test]
async fn a_refused_request_gives_its_place_back() {
    let layer = SyncLayer::new(config().with_max_connections(1))
        .authorize(async |_request: AuthRequest| Err(Denied::forbidden("nobody may enter")));
    for _ in 0..3 {
        let answer = answer(&layer, || upgrade("/sync", "room=test")).await;
        assert!(text(&answer, StatusCode::FORBIDDEN).contains("nobody may enter"));
    }
}

#[tokio::test]
async fn a_server_without_upgrades_is_named_as_the_cause() {
    let request = upgrade("/sync", "room=test").body(empty()).unwrap();
    let inner = service_fn(async |_: Request<http_body_util::Full<bytes::Bytes>>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(empty()))
    });
    let response = layer().layer(inner).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let reason = String::from_utf8(body.to_vec()).unwrap();
    assert!(reason.contains("axum::serve") && reason.contains("tonic"), "{reason}");
}

#[tokio::test]
async fn refusals_come_in_order_form_name_place_hook() {
    let full = full().await;
    let closed = layer().authorize(async |_request: AuthRequest| Err::<Grant, _>(Denied::unauthorized("who are you")));
    let bad_name = || upgrade("/sync", "room=a/b").header("x", "y");
    let bad_form = || {
        let mut head = bad_name();
        head.headers_mut().unwrap().remove("sec-websocket-key");
        head
    };
    assert!(answer(&closed, bad_form).await.text.contains("Sec-WebSocket-Key"));
    assert!(answer(&closed, bad_name).await.text.contains("contains '/'"));
    assert!(answer(&full, bad_name).await.text.contains("contains '/'"));
    let full = full.authorize(async |_request: AuthRequest| Err(Denied::unauthorized("who are you")));
    assert_eq!(answer(&full, || upgrade("/sync", "room=a")).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_connection_lives_on_after_a_refusal() {
    let io = serve(layer().layer(service_fn(teapot)));
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    for (path, status) in [("/sync", StatusCode::BAD_REQUEST), ("/other", StatusCode::IM_A_TEAPOT)] {
        client.ready().await.unwrap();
        let request = upgrade(path, &format!("auth={}", subprotocol("x"))).body(empty()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    }
}
