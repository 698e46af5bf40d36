//! What the application's hook sees, and what becomes of its answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod http_fixture;

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use http::header::{RETRY_AFTER, SET_COOKIE};
use http::{HeaderValue, StatusCode};
use http_fixture::{Answer, ask, config, empty, layer, serve, subprotocol, teapot, upgrade};
use hyper::upgrade::OnUpgrade;
use tower::{Layer, service_fn};
use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncLayer};

#[derive(Clone, Debug, PartialEq)]
struct Mark(u32);

async fn enter(layer: &SyncLayer, text: &str) -> Answer {
    ask(serve(layer.layer(service_fn(teapot))), upgrade("/sync", text).body(empty()).unwrap()).await
}

#[tokio::test]
async fn the_hook_sees_room_token_path_query_headers_and_extensions() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let seen = Arc::clone(&seen);
        move |request: AuthRequest| {
            seen.lock().unwrap().push((
                request.room().to_string(),
                request.token().map(str::to_owned),
                request.path().to_owned(),
                request.uri().query().map(str::to_owned),
                request.headers().get("cookie").cloned(),
                request.extensions().get::<Mark>().cloned(),
                request.extensions().get::<OnUpgrade>().is_some(),
            ));
            async { Ok(Grant::read_write()) }
        }
    };
    let router = Router::new()
        .route("/other", any(async || "inner"))
        .layer(layer().authorize(hook))
        .layer(axum::Extension(Mark(5)));

    let head = upgrade("/sync/notes?v=2", "auth=s3cret=,room=team-7").header("cookie", "id=1");
    let answer = ask(serve(router.clone()), head.body(empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::SWITCHING_PROTOCOLS);
    let plain = ask(serve(router), upgrade("/sync", "auth=,room=team-7").body(empty()).unwrap()).await;
    assert_eq!(plain.status, StatusCode::SWITCHING_PROTOCOLS);

    let cookie = HeaderValue::from_static("id=1");
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (
                "team-7".to_owned(),
                Some("s3cret=".to_owned()),
                "/sync/notes".to_owned(),
                Some("v=2".to_owned()),
                Some(cookie),
                Some(Mark(5)),
                false
            ),
            ("team-7".to_owned(), None, "/sync".to_owned(), None, None, Some(Mark(5)), false),
        ]
    );
}

#[tokio::test]
async fn a_refusal_becomes_the_response() {
    let layer = layer().authorize(async |request: AuthRequest| {
        Err(match request.token() {
            None => Denied::unauthorized("log in first"),
            Some("guest") => Denied::forbidden("guests stay out"),
            Some(_) => Denied::new(StatusCode::TOO_MANY_REQUESTS, "slow down")
                .with_header(RETRY_AFTER, HeaderValue::from_static("60"))
                .with_header(SET_COOKIE, HeaderValue::from_static("a=1"))
                .with_header(SET_COOKIE, HeaderValue::from_static("b=2")),
        })
    });

    let answer = enter(&layer, "room=test").await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::UNAUTHORIZED, "log in first\n"));
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");

    let answer = enter(&layer, "auth=guest,room=test").await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::FORBIDDEN, "guests stay out\n"));

    let answer = enter(&layer, "auth=other,room=test").await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::TOO_MANY_REQUESTS, "slow down\n"));
    assert_eq!(answer.headers["retry-after"], "60");
    assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn a_panic_in_the_hook_ends_that_request_only() {
    let layer = layer().authorize(async |request: AuthRequest| {
        assert_eq!(request.room().as_str(), "good", "the hook falls over other rooms");
        Ok(Grant::read_only())
    });
    let answer = enter(&layer, "auth=s3cret,room=bad").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!answer.text.contains("s3cret") && !answer.text.contains("falls over"), "{}", answer.text);
    assert_eq!(enter(&layer, "room=good").await.status, StatusCode::SWITCHING_PROTOCOLS);
}

#[tokio::test]
async fn a_hook_that_never_answers_is_given_up() {
    let layer = SyncLayer::new(config().with_upgrade_timeout(Duration::from_millis(20)).with_max_connections(1))
        .authorize(async |_request: AuthRequest| pending().await);
    for _ in 0..2 {
        let answer = enter(&layer, "room=test").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.text.contains("too long"), "{}", answer.text);
        assert!(answer.headers.contains_key("retry-after"));
    }
}

#[tokio::test]
async fn hooks_of_two_clones_guard_the_same_rooms_each_in_its_own_way() {
    let open = SyncLayer::new(config().with_max_connections(1));
    let closed = open.clone().authorize(async |_request: AuthRequest| Err(Denied::forbidden("staff only")));
    assert_eq!(enter(&closed, "room=test").await.status, StatusCode::FORBIDDEN);
    let first = serve(open.layer(service_fn(teapot)));
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(first)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let response = client.send_request(upgrade("/sync", "room=test").body(empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let _socket = hyper::upgrade::on(response).await.unwrap();
    assert_eq!(enter(&closed, "room=test").await.status, StatusCode::SERVICE_UNAVAILABLE, "the one place is taken");
}

#[tokio::test]
async fn the_hook_is_not_asked_about_requests_of_others() {
    let layer = layer().authorize(async |_request: AuthRequest| Err(Denied::forbidden("asked")));
    let io = serve(layer.layer(service_fn(teapot)));
    let head = http::Request::get("/sync").header("sec-websocket-protocol", subprotocol("room=test"));
    assert_eq!(ask(io, head.body(empty()).unwrap()).await.status, StatusCode::IM_A_TEAPOT);
}
