//! A sync server of its own: an axum application with nothing but the layer and a page that says what is here.
//!
//! `cargo run --release --example server -- --help` lists the flags. Settings come, each overriding the one before, from the defaults,
//! the file given with `--config`, environment variables such as `TOWER_SQLITE_SYNC_HEARTBEAT=20`, and the flags.

use std::error::Error;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::{Extension, Router};
use clap::Parser;
use clap::builder::NonEmptyStringValueParser;
use http::StatusCode;
use http::request::Parts;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_sqlite_sync::{AuthRequest, Denied, Grant, PathPattern, SyncConfig, SyncLayer};

/// How long a client may take for the head of a request. Sessions have time limits of their own.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that are no sessions, or not yet. Further ones wait in the system's queue.
const MAX_ASKING: usize = 1024;

/// How often what was timed is summed up.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// How many the system may queue: after a restart all clients come at once, and one whose first packet finds the queue full comes again
/// after a second. Linux takes no more than `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// How long requests may go on once all rooms are closed.
const REQUESTS_GRACE: Duration = Duration::from_secs(5);

/// A sync server for cr-sqlite clients (@vlcn.io/ws-client and friends).
#[derive(Debug, Parser)]
#[command(
    after_help = "Every setting can also come from --config, or from the environment: TOWER_SQLITE_SYNC_HEARTBEAT=20. \
    `cargo doc --open` lists them under tower_sqlite_sync::config."
)]
struct Args {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// The folder of the room databases [default: ./dbs].
    #[arg(long, value_name = "DIR", conflicts_with = "memory")]
    db_folder: Option<PathBuf>,

    /// Keep rooms in memory; they are gone when nobody uses them.
    #[arg(long)]
    memory: bool,

    /// The folder of the schema files [default: ./schemas].
    #[arg(long, value_name = "DIR")]
    schema_folder: Option<PathBuf>,

    /// Which request paths are for sync [default: ^/sync(/|$)].
    #[arg(long, value_name = "REGEX")]
    path: Option<PathPattern>,

    /// Let in only clients with this `authToken`.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    token: Option<String>,

    /// Before clients are let in, make this room another site to them, because its file is an earlier one than they knew: a backup
    /// that was put back. May be given several times. For one start only.
    #[arg(long, value_name = "ROOM", conflicts_with = "memory")]
    fork: Vec<String>,

    /// Count clients by the last address in `X-Forwarded-For`, which the proxy in front adds, and not by the proxy's own.
    #[arg(long)]
    behind_proxy: bool,

    /// Serve metrics for Prometheus at http://ADDR/metrics. Whoever reaches it can read them. (/healthz of the server itself says
    /// whether new clients are welcome.)
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,

    /// A JSON or TOML file with settings of `SyncConfig`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Threads that may wait for disks and locks at the same time, for each processor, and at least. They take turns: of hundreds, as tokio
/// allows, each would come to its turn with cold caches and wait for the others at the file system's locks. A thousand rooms that begin at
/// once begin a tenth sooner with fewer. Where syncs are slow and many rooms are written to, more are better.
const BLOCKING_THREADS: usize = 12;
const LEAST_BLOCKING_THREADS: usize = 24;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(wants_colours())
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .init();
    match start(Args::parse()) {
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

/// Runs the server on as many threads as there is something to do for.
fn start(args: Args) -> Result<(), Box<dyn Error>> {
    let blocking =
        available_parallelism().map_or(1, usize::from).saturating_mul(BLOCKING_THREADS).max(LEAST_BLOCKING_THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(blocking).build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let mut stop = stop_requests()?;
    let config = settings(&args)?;
    raise_file_limit(&config);
    // Before the layer, which asks for its counters once.
    if let Some(address) = args.metrics {
        tokio::spawn(show_metrics(address)?);
    }

    let layer = SyncLayer::new(config.clone());
    let mut layer = if args.behind_proxy { layer.remote_address(forwarded) } else { layer.remote_address(peer) };
    if let Some(token) = args.token {
        layer = layer.authorize(move |request: AuthRequest| {
            let allowed = same(request.token().unwrap_or_default(), &token);
            async move {
                if allowed {
                    Ok(Grant::read_write())
                } else {
                    Err(Denied::unauthorized("the token is missing or wrong"))
                }
            }
        });
    }
    let rooms = layer.handle();
    for room in &args.fork {
        rooms.fork(room).await.map_err(|error| format!("--fork {room}: {error}"))?;
    }
    let app = Router::new()
        .route("/", get(async || "This is a sync server; what it prints at its start says how to connect.\n"))
        .route("/healthz", get(health))
        .layer(layer)
        .layer(Extension(stop.clone()));

    let listener = listen(args.listen, "--listen")?;
    introduce(listener.local_addr()?, &config);
    let (closed, rooms_closed) = oneshot::channel();
    let last_stop = stop.clone();
    let serving = serve(listener, app, async move {
        stop.changed().await.ok();
        tracing::info!("shutting down");
        tokio::select! {
            () = rooms.shutdown() => {}
            _ = stop.changed() => tracing::warn!("asked again, not waiting for the rooms to close"),
        }
        closed.send(()).ok();
    });
    tokio::select! {
        () = serving => {}
        () = overtime(rooms_closed, last_stop) => tracing::warn!("requests that didn't end in time are cut off"),
    }
    tracing::info!("bye");
    Ok(())
}

/// As `TcpListener::bind` does, but with a longer queue.
fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener, String> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Not on Windows, where it lets others listen to the same port.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error: std::io::Error| {
        format!("can't listen on {address}: {error}; choose another address with {flag}")
    })
}

/// For load balancers: whether new clients are welcome.
async fn health(Extension(stop): Extension<watch::Receiver<()>>) -> (StatusCode, &'static str) {
    match stop.has_changed() {
        Ok(false) => (StatusCode::OK, "ok\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
    }
}

/// Has everything counted from now on, and serves it until the process ends.
fn show_metrics(address: SocketAddr) -> Result<impl Future<Output = ()>, Box<dyn Error>> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Suffix("_seconds".to_owned()),
            &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
        )?
        .set_buckets_for_metric(Matcher::Suffix("_changesets".to_owned()), &[1.0, 3.0, 10.0, 30.0, 100.0, 300.0])?
        .install_recorder()?;
    let listener = listen(address, "--metrics")?;
    println!("metrics on http://{}/metrics", listener.local_addr()?);
    let shown = metrics.clone();
    let app = Router::new().route("/metrics", get(async move || shown.render()));
    let upkeep = async move {
        // Otherwise what is timed piles up until somebody asks.
        let mut times = tokio::time::interval(METRICS_UPKEEP);
        loop {
            times.tick().await;
            metrics.run_upkeep();
        }
    };
    Ok(serve(listener, app, upkeep))
}

/// As `axum::serve` does, in HTTP/1.1, but with limits for those who connect and ask for nothing. Takes connections until `closing` is
/// over, and then waits for those that are there.
async fn serve(listener: TcpListener, app: Router, closing: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_ASKING));
    let (connections, closed) = (TaskTracker::new(), CancellationToken::new());
    let accept_all = async {
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    let connection = converse(socket, app.clone().layer(Extension(ConnectInfo(peer))), closed.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "can't take a connection");
                    // Most likely too many files are open. Some will be closed.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept_all => {}
        () = closing => {}
    }
    drop(listener);
    closed.cancel();
    connections.close();
    connections.wait().await;
}

/// Serves one connection, until it ends or becomes a WebSocket. Once all is closed, it may only end the request that it is in.
async fn converse(socket: TcpStream, app: Router, closed: CancellationToken) {
    // Changes are small and urgent: they don't wait for more to fill a packet.
    socket.set_nodelay(true).ok();
    let mut server = http1::Builder::new();
    // hyper has no time limits without a timer.
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(app)).with_upgrades();
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = closed.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection broken");
    }
}

/// The other end of the connection.
fn peer(head: &Parts) -> Option<IpAddr> {
    Some(head.extensions.get::<ConnectInfo<SocketAddr>>()?.ip())
}

/// Where the proxy says that a request comes from. What stands before that, the client may have made up.
fn forwarded(head: &Parts) -> Option<IpAddr> {
    head.headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

/// Ends when requests that are no concern of the rooms have had their time since these were closed. One that is never sent to
/// its end must not keep the process.
async fn overtime(rooms_closed: oneshot::Receiver<()>, mut stop: watch::Receiver<()>) {
    match rooms_closed.await {
        Ok(()) => {
            stop.mark_unchanged();
            tokio::select! {
                () = tokio::time::sleep(REQUESTS_GRACE) => {}
                _ = stop.changed() => {}
            }
        }
        Err(_) => std::future::pending().await,
    }
}

/// Defaults, then the file, then the environment, then the flags.
fn settings(args: &Args) -> Result<SyncConfig, Box<dyn Error>> {
    let mut sources = config::Config::builder();
    if let Some(file) = &args.config {
        sources = sources.add_source(config::File::from(file.as_path()));
    }
    let environment = config::Environment::with_prefix("TOWER_SQLITE_SYNC").prefix_separator("_").try_parsing(true);
    // A variable without a value, as service managers make of what isn't filled in, is none: an empty `path` would match every path.
    let mut config: SyncConfig = sources.add_source(environment.ignore_empty(true)).build()?.try_deserialize()?;
    if let Some(folder) = &args.db_folder {
        config = config.with_db_folder(folder);
    }
    if args.memory {
        config = config.with_memory(true);
    }
    if let Some(folder) = &args.schema_folder {
        config = config.with_schema_folder(folder);
    }
    if let Some(path) = &args.path {
        config = config.with_path(path.clone());
    }
    Ok(config)
}

/// A room takes about five file descriptors and a connection one; the usual soft limit of 1,024 is soon met.
fn raise_file_limit(config: &SyncConfig) {
    let connections = config.max_connections().saturating_add(MAX_ASKING);
    let wanted = config.max_rooms().saturating_mul(5).saturating_add(connections).saturating_add(64);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit >= wanted => {}
        Ok(limit) => {
            tracing::warn!(
                limit,
                wanted,
                "too few file descriptors for max_rooms and max_connections: raise `ulimit -n`, or lower them"
            );
        }
        Err(error) => tracing::warn!(%error, wanted, "the limit of file descriptors can't be raised"),
    }
}

/// The first thing that a newcomer sees.
fn introduce(address: SocketAddr, config: &SyncConfig) {
    let usual = config.path() == &PathPattern::default();
    // A path that the pattern matches can't be told from a pattern in general.
    let url = format!("ws://{address}{}", if usual { "/sync" } else { "/YOUR-PATH" });
    let rooms = if config.memory() {
        "in memory, gone when nobody uses them".to_owned()
    } else {
        format!("one file each in {}", config.db_folder().display())
    };
    let schemas = config.schema_folder();
    println!("listening on http://{address}");
    println!("  sync URL   {url}");
    if !usual {
        println!("             where /YOUR-PATH is a path that matches {}", config.path().as_str());
    }
    println!("  rooms      {rooms}; a client chooses one with `room`");
    println!(
        "  schemas    files in {schemas}; a client brings the name and the text of one",
        schemas = schemas.display()
    );
    if !schemas.is_dir() {
        println!("             There is no such folder yet: new rooms need one, with a file such as main.sql in it.");
    }
    println!();
    println!("Next, in a client, with the text of {}:", schemas.join("main.sql").display());
    println!("  await db.automigrateTo(\"main.sql\", text)");
    println!("  await createSyncedDB(config, dbname, {{ url: \"{url}\", room: \"my-room\" }})");
    println!("Ctrl-C stops the server; clients reconnect by themselves.");
}

/// Tells of Ctrl-C, and of SIGTERM from a service manager, that come from now on: also of one that comes before anybody waits.
fn stop_requests() -> std::io::Result<watch::Receiver<()>> {
    let (asked, requests) = watch::channel(());
    #[cfg(unix)]
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    tokio::spawn(async move {
        loop {
            #[cfg(unix)]
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            #[cfg(not(unix))]
            if tokio::signal::ctrl_c().await.is_err() {
                return;
            }
            asked.send_replace(());
        }
    });
    Ok(requests)
}

/// Compares without telling, by the time it takes, how much of a guess was right.
fn same(given: &str, wanted: &str) -> bool {
    let differences = given.bytes().zip(wanted.bytes()).fold(0, |differences, (a, b)| differences | (a ^ b));
    given.len() == wanted.len() && differences == 0
}
