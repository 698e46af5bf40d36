//! The smallest server: an axum application, and a layer around it.
//!
//! `cargo run --example axum`, or with another address than 127.0.0.1:8080 as its argument.

use std::error::Error;
use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tower_sqlite_sync::{SyncConfig, SyncLayer};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let sync = SyncLayer::new(SyncConfig::default());
    let rooms = sync.handle();
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
