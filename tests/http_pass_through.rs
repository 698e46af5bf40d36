//! What is not a request for a room reaches the application as if the layer were not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod http_fixture;

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::routing::{any, get};
use bytes::Bytes;
use http::{Extensions, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use http_fixture::{ask, empty, layer, serve, upgrade};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, Service, ServiceExt, service_fn};

/// A body that can only be handed on: it is no `Body`, not `Send` and not `Clone`, and is known by its address.
struct Opaque(Rc<()>);

/// Marks a request in its extensions.
#[derive(Clone, Debug, PartialEq)]
struct Mark(u32);

/// Sends a request through the layer; what the application got.
async fn received(request: Request<Opaque>) -> Option<Request<Opaque>> {
    let received = RefCell::new(None);
    let application = service_fn(async |request: Request<Opaque>| {
        received.replace(Some(request));
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    layer().layer(application).oneshot(request).await.unwrap();
    received.into_inner()
}

fn requests_of_others() -> Vec<(&'static str, http::request::Builder)> {
    let room = "room=test";
    vec![
        ("a page", Request::get("/")),
        ("a page at the sync path", Request::get("/sync")),
        ("a form at the sync path", Request::post("/sync?room=test")),
        ("an upgrade elsewhere", upgrade("/chat", room)),
        ("an upgrade whose query looks like the sync path", upgrade("/chat?/sync", room)),
        ("an upgrade below a path that only starts alike", upgrade("/synchronise", room)),
        ("an upgrade by POST", upgrade("/sync", room).method(Method::POST)),
        ("an upgrade in HTTP/1.0", upgrade("/sync", room).version(Version::HTTP_10)),
        (
            "an upgrade to another protocol",
            Request::get("/sync").header("connection", "upgrade").header("upgrade", "h2c"),
        ),
        ("an Upgrade that Connection does not name", Request::get("/sync").header("upgrade", "websocket")),
        ("a preflight", Request::options("*").header("origin", "https://example.org")),
        ("a tunnel", Request::connect("example.org:443")),
        ("HTTP/2", Request::get("/sync").version(Version::HTTP_2)),
        ("an unknown method", Request::get("/sync").method("PURGE")),
        ("odd header values", Request::get("/sync").header("x", HeaderValue::from_bytes(b"\xff,\"=;").unwrap())),
    ]
}

#[tokio::test]
async fn requests_of_others_arrive_with_head_body_and_extensions_as_they_were() {
    for (what, head) in requests_of_others() {
        let body = Rc::new(());
        let request = head.header("twice", "1").header("twice", "2").extension(Mark(7)).body(Opaque(Rc::clone(&body)));
        let sent = request.unwrap();
        let (method, uri, version, headers) =
            (sent.method().clone(), sent.uri().clone(), sent.version(), sent.headers().clone());

        let received = received(sent).await.expect(what);

        assert_eq!(received.method(), method, "{what}");
        assert_eq!(received.uri(), &uri, "{what}");
        assert_eq!(received.version(), version, "{what}");
        assert_eq!(received.headers(), &headers, "{what}");
        assert_eq!(received.extensions().get(), Some(&Mark(7)), "{what}");
        assert_eq!(received.extensions().len(), 1, "{what}");
        assert!(Rc::ptr_eq(&received.body().0, &body), "{what}");
    }
}

#[tokio::test]
async fn a_request_for_a_room_does_not_arrive() {
    let request = upgrade("/sync", "room=test").body(Opaque(Rc::new(()))).unwrap();
    assert!(received(request).await.is_none());
}

#[tokio::test]
async fn the_response_of_the_application_comes_back_as_it_was() {
    let application = service_fn(async |_request: Request<()>| {
        let frames = [Frame::data(Bytes::from("one")), Frame::data(Bytes::from("two"))].map(Ok::<_, Infallible>);
        let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
        *response.status_mut() = StatusCode::ACCEPTED;
        response.headers_mut().insert("x", HeaderValue::from_static("y"));
        response.extensions_mut().insert(Mark(9));
        Ok::<_, Infallible>(response)
    });
    let response = layer().layer(application).oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()["x"], "y");
    assert_eq!(response.extensions().get(), Some(&Mark(9)));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "onetwo");
}

#[tokio::test]
async fn an_error_of_the_application_comes_back_as_it_was() {
    let application = service_fn(async |_request: Request<()>| Err::<Response<Full<Bytes>>, _>("broken"));
    assert_eq!(layer().layer(application).oneshot(Request::new(())).await.err(), Some("broken"));
}

/// An application that is as ready as it says.
#[derive(Debug)]
struct Gate(Poll<Result<(), &'static str>>);

impl Service<Request<()>> for Gate {
    type Response = Response<Full<Bytes>>;
    type Error = &'static str;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0
    }

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::default()))
    }
}

#[test]
fn the_layer_is_ready_when_the_application_is() {
    for readiness in [Poll::Pending, Poll::Ready(Ok(())), Poll::Ready(Err("broken"))] {
        let mut service = layer().layer(Gate(readiness));
        let context = &mut Context::from_waker(Waker::noop());
        assert_eq!(service.poll_ready(context), readiness);
    }
}

/// What a handler sees, as text.
async fn describe(request: Request<axum::body::Body>) -> String {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    format!("{} {} {} {}", head.method, head.uri, mark(&head.extensions), String::from_utf8_lossy(&body))
}

fn mark(extensions: &Extensions) -> u32 {
    extensions.get::<Mark>().map_or(0, |mark| mark.0)
}

#[tokio::test]
async fn axum_handlers_get_their_requests_over_a_real_connection() {
    let router = Router::new()
        .route("/", get(describe).post(describe))
        .route("/sync", any(describe))
        .layer(layer())
        .layer(axum::Extension(Mark(3)));
    let chunked = StreamBody::new(futures_util::stream::iter(
        ["a", "b"].map(|s| Ok::<_, Infallible>(Frame::data(Bytes::from(s)))),
    ));

    let page = ask(serve(router.clone()), Request::get("/").body(empty()).unwrap()).await;
    assert_eq!(page.text, "GET / 3 ");
    let form = ask(serve(router.clone()), Request::post("/?q=1").body(Full::<Bytes>::from("form")).unwrap()).await;
    assert_eq!(form.text, "POST /?q=1 3 form");
    let stream = ask(serve(router.clone()), Request::put("/sync").body(chunked).unwrap()).await;
    assert_eq!(stream.text, "PUT /sync 3 ab");
    let head = ask(serve(router.clone()), Request::head("/").body(empty()).unwrap()).await;
    assert_eq!((head.status, &*head.text), (StatusCode::OK, ""));
    assert_eq!(head.headers["content-length"], "9");
    let missing = ask(serve(router), Request::get("/missing").body(empty()).unwrap()).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_application_can_upgrade_connections_of_its_own() {
    let application = service_fn(async |mut request: Request<Incoming>| {
        let on_upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut socket = TokioIo::new(on_upgrade.await.unwrap());
            socket.write_all(b"hello").await.unwrap();
        });
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
        Ok::<_, Infallible>(response)
    });
    let io = serve(layer().layer(application));
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let response = client.send_request(upgrade("/chat", "room=test").body(empty()).unwrap()).await.unwrap();
    let mut greeting = String::new();
    TokioIo::new(hyper::upgrade::on(response).await.unwrap()).read_to_string(&mut greeting).await.unwrap();
    assert_eq!(greeting, "hello");
}
