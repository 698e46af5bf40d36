//! Server code that takes part in a room: a task writes into it through a [`SyncHandle`], and a hook sees what clients write.
//!
//! `cargo run --example server_side_writes`, or with another address than 127.0.0.1:8080 as its argument. Clients of the room `news` see
//! two rows live: `clock`, which changes every second, and `clients`, which counts what they wrote.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tower_sqlite_sync::{AppliedChangeset, Error, SyncConfig, SyncHandle, SyncLayer};

const ROOM: &str = "news";

/// Writes a row of `schemas/main.sql`.
const PUT: &str = "INSERT INTO todo (id, title) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET title = excluded.title";

/// Changesets that may wait to be counted.
const MAX_UNCOUNTED: usize = 1024;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (seen, uncounted) = mpsc::channel(MAX_UNCOUNTED);
    let sync = SyncLayer::new(SyncConfig::default()).on_applied(move |applied| {
        let AppliedChangeset { room, site, changes, db_version, .. } = applied;
        tracing::info!(%room, %site, changes, db_version, "a client wrote");
        // The room's writer waits for this closure, so it waits for nothing itself.
        if seen.try_send(applied.clone()).is_err() {
            tracing::warn!(%room, "too much to count");
        }
    });
    let rooms = sync.handle();
    rooms.create_room(ROOM, "main.sql").await?;
    tokio::spawn(report(rooms.clone(), uncounted));

    let app = Router::new().route("/", get(async || "hello")).layer(sync);
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("can't listen on {address}: {error}; give another address as the argument"))?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::signal::ctrl_c().await.ok();
            rooms.shutdown().await;
        })
        .await?;
    Ok(())
}

/// Keeps both rows up to date until the rooms are closed.
async fn report(rooms: SyncHandle, mut applied: mpsc::Receiver<AppliedChangeset>) {
    let start = Instant::now();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut total = 0_u64;
    loop {
        let written = tokio::select! {
            _ = second.tick() => put(&rooms, "clock", format!("up for {} s", start.elapsed().as_secs())).await,
            Some(changeset) = applied.recv() => {
                total = total.saturating_add(changeset.changes);
                put(&rooms, "clients", format!("{total} changes by clients")).await
            }
        };
        match written {
            Ok(()) => {}
            Err(Error::GoingAway) => return,
            Err(error) => tracing::error!(%error, "not written"),
        }
    }
}

/// Writes as any client does: by the time this returns, the row is durable and on its way to everybody in the room.
async fn put(rooms: &SyncHandle, id: &'static str, title: String) -> Result<(), Error> {
    rooms.write(ROOM, move |tx| tx.execute(PUT, [id, &title])).await?;
    Ok(())
}
