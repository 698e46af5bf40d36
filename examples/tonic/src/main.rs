//! gRPC (unary and server streaming) and sync on one port.
//!
//! `cargo run -p example-tonic`, or with another address than 127.0.0.1:8080 as its argument.

use tokio::net::TcpListener;
use tower_sqlite_sync::{SyncConfig, SyncLayer};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let sync = SyncLayer::new(SyncConfig::default());
    let rooms = sync.handle();
    let app = example_tonic::app(sync);

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::signal::ctrl_c().await.ok();
            rooms.shutdown().await;
        })
        .await
}
