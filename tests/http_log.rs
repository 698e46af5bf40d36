//! What the log says of requests for rooms: which room, what became of it and why; and never a token.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod http_fixture;

use std::io::Write;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use http_fixture::{ask, empty, layer, serve, subprotocol, teapot, upgrade};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tower::{Layer, service_fn};
use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncLayer};
use tracing::Level;
use tracing::subscriber::DefaultGuard;

/// Everything that is logged on this thread, where the runtime of a test runs all its tasks.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture(level: Level) -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Lets the other tasks run until the log holds a text.
    async fn wait_for(&self, text: &str) {
        while !self.text().contains(text) {
            tokio::task::yield_now().await;
        }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn enter(layer: &SyncLayer, text: &str) -> StatusCode {
    let head = upgrade("/sync?key=s3cret", text).header("cookie", "s3cret");
    ask(serve(layer.layer(service_fn(teapot))), head.body(empty()).unwrap()).await.status
}

#[tokio::test]
async fn no_token_header_or_query_is_logged_at_any_level() {
    let (log, _guard) = Log::capture(Level::TRACE);
    let layer = layer().authorize(async |request: AuthRequest| match request.room().as_str() {
        "panic" => panic!("the hook falls over"),
        "denied" => Err(Denied::forbidden("not you")),
        _ => {
            tracing::info!(?request, "a hook that logs what it got");
            Ok(Grant::read_write())
        }
    });
    for (room, status) in [
        ("open", StatusCode::SWITCHING_PROTOCOLS),
        ("denied", StatusCode::FORBIDDEN),
        ("panic", StatusCode::INTERNAL_SERVER_ERROR),
        ("a/b", StatusCode::BAD_REQUEST),
        ("", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(enter(&layer, &format!("auth=s3cret,room={room}")).await, status, "{room}");
    }
    let text = log.text();
    for said in ["room=denied", "not you", "room=panic", "a/b", "names no room", "a hook that logs"] {
        assert!(text.contains(said), "{said} is missing in:\n{text}");
    }
    // Whole groups of three bytes only: their letters do not depend on what follows.
    let encoded = subprotocol("auth=s3cret,roo");
    for secret in ["s3cret", &encoded] {
        assert!(!text.contains(secret), "{secret} is in:\n{text}");
    }
}

#[tokio::test]
async fn a_line_break_in_a_room_name_forges_no_log_line() {
    let (log, _guard) = Log::capture(Level::TRACE);
    assert_eq!(enter(&layer(), "room=a\nINFO room=b all is well").await, StatusCode::BAD_REQUEST);
    let text = log.text();
    assert!(text.contains(r"a\nINFO room=b"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("INFO")), "{text}");
}

#[tokio::test]
async fn a_server_that_keeps_its_connections_is_named_in_the_log() {
    let (log, _guard) = Log::capture(Level::WARN);
    let (here, there) = tokio::io::duplex(16 << 10);
    let service = TowerToHyperService::new(layer().layer(service_fn(teapot)));
    // No `with_upgrades`, as in tonic's own server.
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(there), service));
    let answer = ask(here, upgrade("/sync", "room=lobby").body(empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::SWITCHING_PROTOCOLS);
    log.wait_for("the HTTP server kept the connection").await;
    let text = log.text();
    assert!(text.contains("room=lobby") && text.contains("axum::serve") && text.contains("tonic"), "{text}");
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_is_not_said_to_have_sent_something_wrong() {
    let (log, _guard) = Log::capture(Level::INFO);
    let io = serve(layer().layer(service_fn(teapot)));
    let mut request = "ws://localhost/sync".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", subprotocol("room=lobby").parse().unwrap());
    drop(client_async(request, io).await.unwrap());
    log.wait_for("room=lobby}").await;
    let text = log.text();
    assert!(text.contains("connection lost") && !text.contains("broken"), "{text}");
}
