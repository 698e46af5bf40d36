//! Every scenario in its smallest size, against a real server and against one that loses a message.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use axum::Router;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tower_sqlite_sync::{SyncConfig, SyncLayer};

const LOAD: &str = env!("CARGO_BIN_EXE_load");

const SCENARIOS: [&str; 7] = ["ingest", "fanout", "catchup", "rooms", "idle", "storm", "mixed"];

/// A real server, on a free port and in a folder of its own.
async fn server() -> (SocketAddr, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("schemas")).unwrap();
    std::fs::write(folder.path().join("schemas/load.sql"), include_str!("../load.sql")).unwrap();
    let config = SyncConfig::default()
        .with_db_folder(folder.path().join("dbs"))
        .with_schema_folder(folder.path().join("schemas"));
    let app = Router::new().layer(SyncLayer::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, folder)
}

/// The floor, which loses the message with that number.
async fn lossy_server(lose: usize) -> (String, Child) {
    let mut floor = Command::new(LOAD);
    floor.args(["floor", "--lose", &lose.to_string()]).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = floor.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    (first.strip_prefix("listening on http://").unwrap().to_owned(), child)
}

async fn load(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(LOAD);
    command.args(arguments).args(["--scale", "tiny"]).arg("--folder").arg(folder.path()).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(300), command.output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_passes_against_a_real_server() {
    let (address, _folder) = server().await;
    let output = load(&["--url", &format!("ws://{address}/sync"), "--pid", &std::process::id().to_string()]).await;
    let (printed, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{printed}\n{log}");
    let runs: Vec<serde_json::Value> =
        printed.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    for scenario in SCENARIOS {
        let mine: Vec<_> = runs.iter().filter(|run| run["scenario"] == scenario).collect();
        assert!(!mine.is_empty(), "{scenario}");
        for run in mine {
            assert_eq!(run["correct"], true, "{run}");
            let figures = run["figures"].as_array().unwrap();
            assert!(!figures.is_empty(), "{run}");
            assert!(figures.iter().all(|figure| figure["value"].as_f64().is_some_and(f64::is_finite)), "{run}");
            assert!(figures.iter().any(|figure| figure["floor"].is_number()), "{run}");
        }
    }
}

#[tokio::test]
async fn every_scenario_fails_if_a_message_is_lost() {
    let mut runs = tokio::task::JoinSet::new();
    for scenario in SCENARIOS {
        runs.spawn(async move {
            let (authority, _floor) = lossy_server(2).await;
            let url = format!("ws://{authority}/sync");
            let output = load(&[scenario, "--url", &url, "--no-floor", "--patience", "3"]).await;
            let printed = text(&output.stdout);
            assert_eq!(output.status.code(), Some(1), "{scenario}: {printed}\n{}", text(&output.stderr));
            assert!(printed.contains(r#""correct":false"#), "{scenario}: {printed}");
            // The message is missed, and not an answer of the server.
            let missed = printed.contains("missing after 3s") && !printed.contains("StartStreaming");
            assert!(missed, "{scenario}: {printed}");
        });
    }
    while let Some(run) = runs.join_next().await {
        run.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_failure() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let output = load(&["rooms", "--url", &format!("ws://{address}/sync"), "--no-floor"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
}
