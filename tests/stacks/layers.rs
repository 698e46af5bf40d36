//! Among other layers, outside and inside of ours.

use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use http::header::{COOKIE, HeaderMap};
use http::{Request, StatusCode};
use tower::util::MapRequestLayer;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncLayer};
use tower_sqlite_sync_wire::Value;

use crate::axum::serve;
use crate::fixture::{Client, ClientOptions, cell, cells};
use crate::session::{exchange, memory, page, sync, syncs};

/// What the application's own layer found out about a request.
#[derive(Clone)]
struct User(String);

/// Knows who sent a request by its cookie.
fn identify<B>(mut request: Request<B>) -> Request<B> {
    if let Some(user) = user(request.headers()) {
        request.extensions_mut().insert(user);
    }
    request
}

fn user(headers: &HeaderMap) -> Option<User> {
    let name = headers.get(COOKIE)?.to_str().ok()?.strip_prefix("user=")?;
    Some(User(name.to_owned()))
}

const TIMEOUT: Duration = Duration::from_secs(1);

fn time_limit() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, TIMEOUT)
}

/// A page that is large enough to be worth compressing, and one that takes too long.
fn router() -> Router {
    Router::new().route("/", get(async || "hello ".repeat(100))).route("/slow", get(std::future::pending::<()>))
}

#[tokio::test]
async fn sync_works_inside_and_outside_of_the_usual_layers_and_they_do_their_work() {
    let (_folder, config) = memory();
    let sync = SyncLayer::new(config);
    let usual = || {
        ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(CorsLayer::permissive())
            .layer(time_limit())
            .layer(CompressionLayer::new())
    };
    for app in [router().layer(sync.clone()).layer(usual()), router().layer(usual()).layer(sync)] {
        let address = serve(app).await;
        syncs(address, ClientOptions::default()).await;
        let (head, _compressed) =
            exchange(address, "GET / HTTP/1.1\r\nAccept-Encoding: gzip\r\nOrigin: http://a.example\r\n").await;
        assert!(head.contains("content-encoding: gzip"), "{head}");
        assert!(head.contains("access-control-allow-origin: *"), "{head}");
        assert_eq!(page(address, "/slow").await.0, 504);
    }
}

#[tokio::test]
async fn sync_works_inside_the_usual_layers_on_plain_hyper() {
    let (_folder, config) = memory();
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CorsLayer::permissive())
        .layer(time_limit())
        .layer(CompressionLayer::new())
        .layer(SyncLayer::new(config))
        .service(service_fn(crate::hyper::hello));
    let address = crate::hyper::serve(service).await;
    syncs(address, ClientOptions::default()).await;
    let (head, body) = exchange(address, "GET / HTTP/1.1\r\nOrigin: http://a.example\r\n").await;
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    assert_eq!(body, "hello");
}

#[tokio::test]
async fn a_time_limit_for_requests_is_none_for_sessions() {
    let (_folder, config) = memory();
    let address = serve(router().layer(SyncLayer::new(config)).layer(time_limit())).await;
    let mut author = Client::connect_with(address, "r", 1, ClientOptions::default()).await;
    let mut reader = Client::connect_with(address, "r", 2, ClientOptions::default()).await;
    sync(&mut author, &mut reader).await;
    tokio::time::sleep(2 * TIMEOUT).await;
    author.push(1, &[cell(2, "b", Value::Text("still here"), 2)]).await;
    assert_eq!(cells(&reader.changes().await), ["2.b='still here'"]);
}

#[tokio::test]
async fn the_hook_knows_whom_an_outer_layer_recognised() {
    let (_folder, config) = memory();
    let sync =
        SyncLayer::new(config).authorize(async |request: AuthRequest| match request.extensions().get::<User>() {
            Some(User(name)) if name == request.room().as_str() => Ok(Grant::read_write()),
            Some(User(name)) => Err(Denied::forbidden(format!("this is not the room of {name}"))),
            None => Err(Denied::unauthorized("log in first")),
        });
    let hello = get(async |Extension(User(name)): Extension<User>| format!("hello {name}"));
    let on_axum =
        Router::new().route("/", hello).layer(sync.clone()).layer(MapRequestLayer::new(identify::<axum::body::Body>));
    let on_hyper = MapRequestLayer::new(identify).layer(sync.layer(service_fn(crate::hyper::hello)));

    for address in [serve(on_axum).await, crate::hyper::serve(on_hyper).await] {
        let enter = async |room, headers| {
            let options = ClientOptions { headers, ..Default::default() };
            Client::try_connect(address, room, 1, options).await.map_err(|refused| refused.to_string())
        };
        assert!(enter("ada", &[("cookie", "user=ada")]).await.is_ok());
        assert!(enter("bob", &[("cookie", "user=ada")]).await.err().unwrap().contains("403"));
        assert!(enter("ada", &[]).await.err().unwrap().contains("401"));
        let (_head, body) = exchange(address, "GET / HTTP/1.1\r\nCookie: user=ada\r\n").await;
        assert!(body.starts_with("hello"), "{body}");
    }
}
