//! A node of a cluster on LiteFS: every node serves clients, one of them writes, and the others forward to it.
//!
//! `cargo run --example litefs -- --help` lists the flags. `litefs.yml` and `fly.toml` in the folder `litefs` run it on Fly.io.

use std::error::Error;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use clap::Parser;
use clap::builder::NonEmptyStringValueParser;
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_sqlite_sync::{AuthRequest, Denied, Grant, LiteFs, LiteFsConfig, LiteFsSecret, SyncConfig, SyncLayer};

/// A sync server on one node of a LiteFS cluster.
#[derive(Debug, Parser)]
struct Args {
    /// The address to listen on for clients.
    #[arg(long, env = "LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// The address to listen on for other nodes, with the port that `litefs.port` says; only they should reach it.
    #[arg(long, env = "FORWARDS", value_name = "ADDR", default_value = "127.0.0.1:9000")]
    forwards: String,

    /// The folder that LiteFS mounts; rooms live there.
    #[arg(long, env = "LITEFS_FOLDER", value_name = "DIR", default_value = "/litefs")]
    folder: PathBuf,

    /// The folder of the schema files, which all nodes have alike. It is not in LiteFS.
    #[arg(long, env = "SCHEMA_FOLDER", value_name = "DIR", default_value = "schemas")]
    schema_folder: PathBuf,

    /// What all nodes know and nobody else, 16 bytes or more.
    #[arg(long, env = "CLUSTER_SECRET", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    secret: String,

    /// The Fly.io app in whose private network the nodes find each other by their ids.
    #[arg(long, env = "FLY_APP_NAME", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    app_name: Option<String>,

    /// Clients with this `authToken` may write and others only read. Without it, all may write.
    #[arg(long, env = "WRITE_TOKEN", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    write_token: Option<String>,

    /// A JSON or TOML file with settings of `SyncConfig` under `sync` and of `LiteFsConfig` under `litefs`.
    #[arg(long, env = "SYNC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    sync: SyncConfig,
    litefs: LiteFsConfig,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(wants_colours())
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Colours are for terminals, and for who wants them: <https://no-color.org>.
fn wants_colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let Settings { sync, litefs } = settings(&args)?;

    let litefs = LiteFs::start(&args.folder, litefs).await?;
    let mut layer = SyncLayer::with_store(sync.with_schema_folder(&args.schema_folder), litefs.clone());
    if let Some(token) = args.write_token {
        layer = layer.authorize(move |request: AuthRequest| {
            let may_write = request.token() == Some(&token);
            async move { Ok::<_, Denied>(if may_write { Grant::read_write() } else { Grant::read_only() }) }
        });
    }
    let rooms = layer.handle();
    let forwards = TcpListener::bind(&args.forwards).await.map_err(|error| {
        format!("can't listen on {}: {error}; choose another address with --forwards", args.forwards)
    })?;
    println!("taking writes of other nodes on {}", forwards.local_addr()?);
    litefs.join_on(rooms.clone(), forwards);
    let app = Router::new().route("/", get(async || "hello")).layer(layer);

    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| format!("can't listen on {}: {error}; choose another address with --listen", args.listen))?;
    println!("listening on http://{}", listener.local_addr()?);
    // Changes are small and urgent: they don't wait for more to fill a packet.
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            asked_to_stop().await;
            // Clients go to another node; what is queued is committed, so that LiteFS can hand the lease over.
            rooms.shutdown().await;
        })
        .await?;
    Ok(())
}

/// What the file says, and the flags over it.
fn settings(args: &Args) -> Result<Settings, Box<dyn Error>> {
    let mut sources = config::Config::builder();
    if let Some(file) = &args.config {
        sources = sources.add_source(config::File::from(file.as_path()));
    }
    let mut settings: Settings = sources.build()?.try_deserialize()?;
    settings.litefs =
        settings.litefs.with_secret(LiteFsSecret::new(&args.secret).map_err(|error| format!("--secret: {error}"))?);
    if let Some(app) = &args.app_name {
        settings.litefs = settings.litefs.with_app_name(app);
    }
    Ok(settings)
}

/// Ctrl-C, or SIGTERM, which LiteFS passes on.
async fn asked_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
            }
            Err(_) => drop(tokio::signal::ctrl_c().await),
        }
    }
    #[cfg(not(unix))]
    drop(tokio::signal::ctrl_c().await);
}
