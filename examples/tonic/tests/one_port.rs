//! gRPC calls, pages and sync sessions on one port; and what tonic's own server does to sync.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use example_tonic::todos::todos_client::TodosClient;
use example_tonic::todos::{AddRequest, ListRequest, Todo};
use futures_util::{SinkExt, StreamExt};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tonic::Code;
use tonic::transport::{Channel, Server};
use tower_sqlite_sync::{SyncConfig, SyncLayer};
use tower_sqlite_sync_wire::{AnnouncePresence, Change, Changes, Message, Position, SiteId, Value, schema_version};

const SCHEMA: &str = include_str!("../../../schemas/main.sql");

/// The example as a process of its own, in a folder with the schema.
struct Example {
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Example {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("schemas")).unwrap();
        std::fs::write(folder.path().join("schemas/main.sql"), SCHEMA).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_example-tonic"))
            .arg("127.0.0.1:0")
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").unwrap().parse().unwrap();
        Self { address, child, _folder: folder }
    }

    async fn calls(&self) -> TodosClient<Channel> {
        soon("gRPC", TodosClient::connect(format!("http://{}", self.address))).await.unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client that syncs a room.
struct Session {
    site: SiteId,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Session {
    /// Connects, announces itself, and is told to start.
    async fn join(address: SocketAddr, room: &str) -> Self {
        let socket = soon("the upgrade", upgrade(address, room)).await;
        let mut session = Self { site: SiteId::from_bytes([7; 16]), socket };
        session
            .send(Message::AnnouncePresence(AnnouncePresence {
                sender: session.site,
                last_seens: Vec::new(),
                schema_name: "main.sql".to_owned(),
                schema_version: schema_version(SCHEMA),
            }))
            .await;
        match session.next().await {
            Message::StartStreaming(_) => session,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&mut self, message: Message) {
        self.socket.send(Frame::Binary(message.encode())).await.unwrap();
    }

    async fn next(&mut self) -> Message {
        loop {
            match soon("a message", self.socket.next()).await.unwrap().unwrap() {
                Frame::Binary(bytes) => return Message::decode(bytes).unwrap(),
                Frame::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until it has been sent a title.
    async fn sees(&mut self, title: &str) {
        loop {
            if let Message::Changes(changes) = self.next().await
                && changes.changes.iter().any(|change| change.val == Value::Text(title))
            {
                return;
            }
        }
    }

    /// Adds an entry, as an application with a database of its own does.
    async fn add(&mut self, id: &str, title: &str) {
        // One key column of a type and length that fit one byte each, then the text.
        let mut pk = vec![1, 0x0b, u8::try_from(id.len()).unwrap()];
        pk.extend(id.bytes());
        let cell = Change {
            table: "todo",
            pk: &pk,
            cid: "title",
            val: Value::Text(title),
            col_version: 1,
            db_version: 1,
            site: None,
            cl: 1,
            seq: 0,
        };
        let changes = [cell].into_iter().collect();
        self.send(Message::Changes(Changes { sender: self.site, since: Position::START, changes })).await;
    }
}

async fn upgrade(address: SocketAddr, room: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let mut request = format!("ws://{address}/sync").into_client_request().unwrap();
    let subprotocol = STANDARD_NO_PAD.encode(format!("room={room}"));
    request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().unwrap());
    connect_async(request).await.unwrap().0
}

async fn titles(calls: &mut TodosClient<Channel>, room: &str) -> Vec<String> {
    let request = ListRequest { room: room.to_owned() };
    let list = soon("the list", calls.list(request)).await.unwrap().into_inner();
    list.map(|todo: Result<Todo, _>| todo.unwrap().title).collect().await
}

/// Awaits what must come; the limit only says that a test hangs.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

fn add(room: &str, title: &str) -> AddRequest {
    AddRequest { room: room.to_owned(), title: title.to_owned() }
}

#[tokio::test]
async fn what_a_call_writes_a_client_sees_and_what_a_client_writes_a_call_reads() {
    let example = Example::start().await;
    let mut calls = example.calls().await;
    let mut session = Session::join(example.address, "home").await;

    let added = calls.add(add("home", "buy milk")).await.unwrap().into_inner();
    assert_eq!((added.title.as_str(), added.done, added.id.len()), ("buy milk", false, 32));
    session.sees("buy milk").await;

    session.add("a1", "call mum").await;
    soon("the entry", async { while titles(&mut calls, "home").await != ["buy milk", "call mum"] {} }).await;
}

#[tokio::test]
async fn a_call_starts_a_list_and_one_for_a_list_that_is_not_there_says_so() {
    let example = Example::start().await;
    let mut calls = example.calls().await;
    let missing = calls.list(ListRequest { room: "work".to_owned() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    let bad = calls.add(add("a/b", "x")).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument, "{bad}");

    calls.add(add("work", "write a test")).await.unwrap();
    assert_eq!(titles(&mut calls, "work").await, ["write a test"]);
    Session::join(example.address, "work").await.sees("write a test").await;
}

/// Everything that is logged on this thread, where the runtime of a test runs all its tasks.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
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

#[tokio::test]
async fn under_tonics_own_server_no_session_opens_and_the_log_says_what_to_do() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sync = SyncLayer::new(SyncConfig::default().with_memory(true));
    let routes = tonic::service::Routes::from(axum::Router::new());
    let server = Server::builder().accept_http1(true).layer(sync).add_routes(routes);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let mut socket = soon("the upgrade", upgrade(address, "home")).await;
    let ended = soon("the end", socket.next()).await;
    assert!(!matches!(ended, Some(Ok(_))), "the server dropped the connection: {ended:?}");
    soon("the log", async {
        while !log.text().contains("WARN") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let text = log.text();
    for said in ["room=home", "tonic's own `Server`", "into_axum_router"] {
        assert!(text.contains(said), "{said} is missing in:\n{text}");
    }
}
