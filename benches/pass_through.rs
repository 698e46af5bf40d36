//! What the layer costs requests that are not its own: requests per second of an axum and a hyper service, with and
//! without it, over loopback sockets with keep-alive. `cargo bench --bench pass_through`
//!
//! In each round, the bare and the layered server take many short turns, so that whatever else the machine does meets
//! both alike. A round gives one ratio; the median of ten is printed.
//!
//! axum boxes the future and the body of every layer given to `Router::layer`, for each request. The line "axum, idle layer"
//! has a layer there that does nothing: more than that can't be reached in that place. The last line compares a server with
//! its like: what it is off 1 is the noise of the day.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::indexing_slicing, missing_docs)]

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::{Ready, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{Route, get};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::layer::layer_fn;
use tower::{Layer, Service, service_fn};
use tower_sqlite_sync::{SyncConfig, SyncLayer};

const ROUNDS: usize = 10;
const TURNS: usize = 16;
const CONNECTIONS: usize = 8;
const REQUESTS_PER_TURN: usize = 250;

/// What the layer has to reach, as a share of the bare service's requests per second.
const GOAL: f64 = 0.97;

/// As a browser sends it: the layer has some headers to look through.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: pass_through\r\nAccept: text/html,*/*\r\n\
    Accept-Language: en\r\nAccept-Encoding: gzip, br\r\nConnection: keep-alive\r\nCookie: session=0123456789\r\n\r\n";

#[tokio::main]
async fn main() {
    let layer = SyncLayer::new(SyncConfig::default().with_memory(true));
    let router = Router::new().route("/", get(async || "hello"));
    // As `axum::serve` does: otherwise handlers are made into services, and layers put around them, anew for each request.
    let ready = |router: Router| router.with_state(());
    let hyper = service_fn(hello);

    let requests = TURNS * CONNECTIONS * REQUESTS_PER_TURN;
    println!("{ROUNDS} rounds of {requests} requests to each server, over {CONNECTIONS} connections");
    let idle = layer_fn(|route: Route| route);
    let (plain, bare) = (serve(ready(router.clone())).await, serve(hyper).await);
    compare("axum, Router::layer", plain, serve(ready(router.clone().layer(layer.clone()))).await).await;
    compare("axum, idle layer", plain, serve(ready(router.clone().layer(idle))).await).await;
    compare("axum, around the router", plain, serve(layer.layer(ready(router))).await).await;
    compare("hyper", bare, serve(layer.layer(hyper)).await).await;
    compare("noise", bare, serve(hyper).await).await;
}

fn hello(_request: Request<Incoming>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Full::from("hello"))))
}

/// Prints requests per second of both servers, and their ratio.
async fn compare(name: &str, bare: SocketAddr, layered: SocketAddr) {
    let mut bare = Clients::connect(bare).await;
    let mut layered = Clients::connect(layered).await;
    let (mut bare_rates, mut layered_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (mut bare_time, mut layered_time) = (Duration::ZERO, Duration::ZERO);
        for turn in 0..TURNS {
            // Who goes first alternates too: the second of a pair may find the machine warmer.
            if turn % 2 == 0 {
                bare_time += bare.take_turn().await;
                layered_time += layered.take_turn().await;
            } else {
                layered_time += layered.take_turn().await;
                bare_time += bare.take_turn().await;
            }
        }
        // The first round is to warm up.
        if round > 0 {
            let requests = (TURNS * CONNECTIONS * REQUESTS_PER_TURN) as f64;
            bare_rates.push(requests / bare_time.as_secs_f64());
            layered_rates.push(requests / layered_time.as_secs_f64());
            ratios.push(bare_time.as_secs_f64() / layered_time.as_secs_f64());
        }
    }
    let (bare, layered, ratio) = (median(bare_rates), median(layered_rates), median(ratios));
    let verdict = if ratio >= GOAL { "met" } else { "missed" };
    println!("{name:>23}: bare {bare:.0}/s, with the layer {layered:.0}/s, ratio {ratio:.3} (goal {GOAL}: {verdict})");
}

/// The clients of one server, which send their requests at the same time.
struct Clients(Vec<Client>);

impl Clients {
    async fn connect(server: SocketAddr) -> Self {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Client::connect(server).await);
        }
        Self(clients)
    }

    /// Has every client send its requests of one turn; how long they took.
    async fn take_turn(&mut self) -> Duration {
        let start = Instant::now();
        let turns: JoinSet<Client> = self.0.drain(..).map(Client::take_turn).collect();
        self.0 = turns.join_all().await;
        start.elapsed()
    }
}

/// One connection, which sends its requests one after the other.
struct Client {
    socket: TcpStream,
    // As long as every response.
    response: Vec<u8>,
}

impl Client {
    async fn connect(server: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(server).await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(REQUEST).await.unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\nhello") {
            response.push(socket.read_u8().await.unwrap());
        }
        Self { socket, response }
    }

    async fn take_turn(mut self) -> Self {
        for _ in 0..REQUESTS_PER_TURN {
            self.socket.write_all(REQUEST).await.unwrap();
            self.socket.read_exact(&mut self.response).await.unwrap();
        }
        assert!(self.response.starts_with(b"HTTP/1.1 200 OK\r\n") && self.response.ends_with(b"\r\n\r\nhello"));
        self
    }
}

/// Serves connections on a free port for as long as the program runs.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _peer) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service.clone()))
                .with_upgrades();
            tokio::spawn(async move { connection.await.ok() });
        }
    });
    address
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    let lower = (values.len() - 1) / 2;
    f64::midpoint(values[lower], values[upper])
}
