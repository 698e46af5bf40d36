//! The Autobahn cases, against a socket of ours that sends back what it receives.
//!
//! `cargo xtask autobahn` fetches the program with the cases and runs this; `tests/autobahn/README.md` has the results.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::SinkExt;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

use super::dialect::{frames, pieces};
use super::outbound::FRAGMENT;
use super::*;
use crate::handshake::{Handshake, Transport};

/// Cases of extensions that we don't negotiate: permessage-deflate (RFC 7692).
const NOT_APPLICABLE: [&str; 2] = ["12.*", "13.*"];

/// How many of the others there are.
const CASES: usize = 301;

/// Cases that may be passed by a frame that is refused only once it is there as a whole.
const LENIENT: [&str; 2] = ["6.4.3", "6.4.4"];

/// What the program says of a case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    behavior: String,
    behavior_close: String,
}

impl Verdict {
    fn is_good(&self, case: &str) -> bool {
        let behaved = match self.behavior.as_str() {
            "OK" | "INFORMATIONAL" => true,
            "NON-STRICT" => LENIENT.contains(&case),
            _ => false,
        };
        behaved && matches!(self.behavior_close.as_str(), "OK" | "INFORMATIONAL")
    }
}

#[ignore = "cargo xtask autobahn runs it"]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_socket_passes_the_autobahn_cases() {
    let [program, reports] = ["KOSOKU", "KOSOKU_REPORTS"].map(|name| {
        std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run this by `cargo xtask autobahn`"))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(listen(listener));
    tokio::task::spawn_blocking({
        let reports = reports.clone();
        move || run(program, &reports, &address)
    })
    .await
    .unwrap();
    serving.abort();

    let verdicts = verdicts(Path::new(&reports));
    let with = |behavior: &str| verdicts.values().filter(|verdict| verdict.behavior == behavior).count();
    let (passed, open, lenient) = (with("OK"), with("INFORMATIONAL"), with("NON-STRICT"));
    println!("{passed} passed, {open} informational, {lenient} passed not strictly");
    let failed: Vec<_> = verdicts.iter().filter(|(case, verdict)| !verdict.is_good(case)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(verdicts.len(), CASES, "cases that were run");
}

/// Runs the program against the server at `address`. Whatever its exit status means, the reports tell more.
fn run(program: OsString, reports: &OsString, address: &str) {
    let mut command = std::process::Command::new(program);
    command.arg("--outdir").arg(reports);
    for case in NOT_APPLICABLE {
        command.args(["--exclude", case]);
    }
    command.arg(address).status().unwrap();
}

/// The verdict on each case.
fn verdicts(reports: &Path) -> BTreeMap<String, Verdict> {
    let index = fs::read(reports.join("index.json")).unwrap();
    let of_agents: BTreeMap<String, BTreeMap<String, Verdict>> = serde_json::from_slice(&index).unwrap();
    of_agents.into_values().flatten().collect()
}

async fn listen(listener: TcpListener) {
    let hub = Hub::new(SyncConfig::default());
    loop {
        let (socket, _peer) = listener.accept().await.unwrap();
        tokio::spawn(answer(hub.clone(), socket));
    }
}

async fn answer(hub: Arc<Hub>, socket: TcpStream) {
    let service = service_fn(|request| let_in(hub.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    // A client that goes away is one of the cases.
    drop(connection.with_upgrades().await);
}

/// Answers as the product would, had the request named a room, which those of the cases don't.
async fn let_in(hub: Arc<Hub>, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let transport = Transport::of(&request).unwrap();
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("cm9vbT10ZXN0"));
    let Ok(handshake) = Handshake::parse(transport, request.headers()) else { panic!("{request:?} was refused") };
    let mut response = handshake.accepted;
    response.headers_mut().remove(SEC_WEBSOCKET_PROTOCOL);
    tokio::spawn(async move { echo(&hub, TokioIo::new(hyper::upgrade::on(request).await.unwrap())).await });
    Ok(response.map(Full::new))
}

/// Sends back what comes, in frames as the product sends them, and ends as a session does.
async fn echo<IO>(hub: &Hub, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let liveness = Arc::new(Liveness::new(hub.intake()));
    // The announce has come, so to say: before it, no more is taken than an announce may have.
    liveness.message_gone();
    let (mut sink, mut stream) = socket(io, &liveness, hub.config()).await.split();
    let end = loop {
        match inbound::receive(&mut stream, hub.config(), &liveness).await {
            Ok(message) => {
                liveness.message_gone();
                let kind = if message.is_text() { Data::Text } else { Data::Binary };
                for frame in frames(kind, pieces(message.into_data(), FRAGMENT)) {
                    if sink.send(frame).await.is_err() {
                        return;
                    }
                }
            }
            Err(end) => break end,
        }
    };
    part(end, hub, sink, stream).await;
}
