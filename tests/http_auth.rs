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
use tower_sqlite_sync::{AuthRequest, Denied, Grant, Origins, SyncConfig, SyncLayer};

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

/// What a request with these headers gets, for `localhost`.
async fn from_page(config: SyncConfig, fields: &[(&str, &str)]) -> Answer {
    let layer = SyncLayer::new(config);
    let head = fields.iter().fold(upgrade("/sync", "room=test"), |head, (name, value)| head.header(*name, *value));
    ask(serve(layer.layer(service_fn(teapot))), head.body(empty()).unwrap()).await
}

fn origins(text: &str) -> SyncConfig {
    config().with_origins(text.parse().unwrap())
}

#[tokio::test]
async fn pages_of_other_hosts_are_refused_unless_they_are_admitted() {
    let evil = [("origin", "https://evil.example")];
    let answer = from_page(config(), &evil).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.text.contains("`origins`"), "{}", answer.text);
    for page in ["null", "https://localhost.evil.example", "https://evil.example/localhost", "localhost"] {
        assert_eq!(from_page(config(), &[("origin", page)]).await.status, StatusCode::FORBIDDEN, "{page}");
    }
    let twice = [("origin", "http://localhost"), ("origin", "https://evil.example")];
    assert_eq!(from_page(config(), &twice).await.status, StatusCode::FORBIDDEN);

    for page in ["http://localhost", "https://localhost", "http://localhost:5173"] {
        let answer = from_page(config(), &[("origin", page)]).await;
        assert_eq!(answer.status, StatusCode::SWITCHING_PROTOCOLS, "{page}");
    }
    for config in [origins("any"), origins("https://evil.example"), config().with_origins(Origins::Any)] {
        assert_eq!(from_page(config, &evil).await.status, StatusCode::SWITCHING_PROTOCOLS);
    }
    let listed = || origins("https://app.example");
    assert_eq!(from_page(listed(), &[("origin", "http://localhost")]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(from_page(listed(), &[]).await.status, StatusCode::SWITCHING_PROTOCOLS, "it is no page");
}

#[tokio::test]
async fn a_page_that_may_not_connect_is_not_shown_to_the_hook() {
    let layer = layer().authorize(async |_request: AuthRequest| Err(Denied::unauthorized("asked")));
    let head = upgrade("/sync", "room=test").header("origin", "https://evil.example");
    let answer = ask(serve(layer.layer(service_fn(teapot))), head.body(empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}
