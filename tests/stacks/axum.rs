//! axum: wherever `Router::layer` may stand.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{OriginalUri, State};
use axum::routing::{any, get};
use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncLayer};
use tower_sqlite_sync_wire::Value;

use crate::fixture::{Client, ClientOptions, cell, cells, folder};
use crate::session::{memory, page, sync, syncs};

/// Serves an application on a free port.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn at(path: &'static str) -> ClientOptions {
    ClientOptions { path, ..Default::default() }
}

/// Pairs of the path that a hook saw and the one that the client asked for.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// A layer whose hook writes down what it sees.
fn listening(layer: SyncLayer) -> (SyncLayer, Seen) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let seen = seen.clone();
        move |request: AuthRequest| {
            let OriginalUri(original) = request.extensions().get().cloned().unwrap();
            seen.lock().unwrap().push((request.path().to_owned(), original.path().to_owned()));
            async { Ok::<_, Denied>(Grant::read_write()) }
        }
    };
    (layer.authorize(hook), seen)
}

#[tokio::test]
async fn clients_sync_and_the_routes_of_the_application_answer() {
    let (_folder, config) = memory();
    let app = Router::new().route("/", get(async || "hello")).layer(SyncLayer::new(config));
    let address = serve(app).await;
    syncs(address, ClientOptions::default()).await;
    assert_eq!(page(address, "/").await, (200, "hello".into()));
    assert_eq!(page(address, "/none").await.0, 404);
    assert_eq!(page(address, "/sync").await.0, 404, "no upgrade, so it is the application's");
}

#[tokio::test]
async fn handlers_keep_their_state_whether_it_is_given_before_or_after_the_layer() {
    let router = || Router::new().route("/", get(async |State(name): State<&'static str>| name));
    let (_folder, config) = memory();
    let layer = || SyncLayer::new(config.clone());
    for app in [router().with_state("state").layer(layer()), router().layer(layer()).with_state("state")] {
        let address = serve(app).await;
        syncs(address, ClientOptions::default()).await;
        assert_eq!(page(address, "/").await, (200, "state".into()));
    }
}

#[tokio::test]
async fn around_nested_and_merged_routers_the_layer_sees_whole_paths() {
    let (_folder, config) = memory();
    let (layer, seen) = listening(SyncLayer::new(config.with_path("^/api/v1/sync$".parse().unwrap())));
    let api = Router::new().nest("/v1", Router::new().route("/status", get(async || "fine")));
    let app = Router::new().nest("/api", api).merge(Router::new().route("/", get(async || "hello"))).layer(layer);
    let address = serve(app).await;
    syncs(address, at("/api/v1/sync")).await;
    let whole = ("/api/v1/sync".to_owned(), "/api/v1/sync".to_owned());
    assert_eq!(*seen.lock().unwrap(), [whole.clone(), whole]);
    assert_eq!(page(address, "/api/v1/status").await, (200, "fine".into()));
    assert_eq!(page(address, "/").await, (200, "hello".into()));
}

#[tokio::test]
async fn inside_a_nested_router_the_layer_sees_the_rest_of_the_path_and_original_uri_tells_the_whole() {
    let (_folder, config) = memory();
    let (layer, seen) = listening(SyncLayer::new(config));
    let nested = Router::new().route("/sync", any(async || "a page")).layer(layer);
    let address = serve(Router::new().nest("/api", nested)).await;
    syncs(address, at("/api/sync")).await;
    let stripped = ("/sync".to_owned(), "/api/sync".to_owned());
    assert_eq!(*seen.lock().unwrap(), [stripped.clone(), stripped]);
    assert_eq!(page(address, "/api/sync").await, (200, "a page".into()));
}

#[tokio::test]
async fn a_layer_for_routes_only_needs_a_route_at_its_path() {
    let (_folder, config) = memory();
    let layer = || SyncLayer::new(config.clone());
    let with_route = Router::new().route("/sync", any(async || "a page")).route_layer(layer());
    syncs(serve(with_route).await, ClientOptions::default()).await;

    let without = Router::new().route("/", get(async || "hello")).route_layer(layer());
    let refused = Client::try_connect(serve(without).await, "r", 1, ClientOptions::default()).await.err().unwrap();
    assert!(refused.to_string().contains("404"), "{refused}");
}

#[tokio::test]
async fn several_layers_keep_their_paths_and_their_rooms_apart() {
    let (notes_folder, notes) = folder();
    let (tasks_folder, tasks) = folder();
    let notes = SyncLayer::new(notes.with_path("^/notes$".parse().unwrap()));
    let tasks = SyncLayer::new(tasks.with_path("^/tasks$".parse().unwrap()));
    let (rooms_of_notes, rooms_of_tasks) = (notes.handle(), tasks.handle());
    let echo = any(async || "the application's own");
    let app = Router::new().route("/chat", echo).layer(notes).layer(tasks);
    let address = serve(app).await;

    let mut author = Client::connect_with(address, "r", 1, at("/notes")).await;
    let mut reader = Client::connect_with(address, "r", 2, at("/notes")).await;
    sync(&mut author, &mut reader).await;
    let mut other = Client::connect_with(address, "r", 1, at("/tasks")).await;
    other.enter().await;
    assert_ne!(other.server, author.server, "a room of the same name elsewhere");
    other.push(0, &[cell(2, "b", Value::Text("buy milk"), 1)]).await;
    let mut third = Client::connect_with(address, "r", 2, at("/tasks")).await;
    third.enter().await;
    assert_eq!(cells(&third.changes().await), ["2.b='buy milk'"]);

    let refused = Client::try_connect(address, "r", 1, at("/chat")).await.err().unwrap();
    assert!(refused.to_string().contains("200"), "a path of neither layer is the application's: {refused}");
    assert_eq!(page(address, "/chat").await, (200, "the application's own".into()));

    rooms_of_notes.shutdown().await;
    rooms_of_tasks.write("r", |tx| tx.execute("INSERT INTO foo VALUES (3, 'still there')", [])).await.unwrap();
    assert_eq!(cells(&third.changes().await), ["3.b='still there'"]);
    for folder in [notes_folder, tasks_folder] {
        assert!(folder.path().join("dbs/r").is_file());
    }
}
