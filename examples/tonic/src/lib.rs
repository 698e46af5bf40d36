//! A gRPC service over the rooms that clients sync: whatever a call writes, the clients see, and the other way round.

use axum::Router;
use axum::routing::get;
use tokio_stream::Iter;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tower_sqlite_sync::{Error, SyncHandle, SyncLayer};

/// What `build.rs` made of `proto/todos.proto`.
#[allow(missing_docs, reason = "the comments in the .proto file are all there is")]
pub mod todos {
    tonic::include_proto!("todos");
}

use todos::todos_server::{Todos, TodosServer};
use todos::{AddRequest, ListRequest, Todo};

/// The name of the schema of all rooms, which is a file in the schema folder.
const SCHEMA: &str = "main.sql";

/// gRPC, a page and sync, for `axum::serve`.
///
/// tonic's own `Server` can't serve it: it never hands over a connection that becomes a WebSocket. So tonic's routes become an axum
/// router, and the layer goes around that.
pub fn app(sync: SyncLayer) -> Router {
    let service = TodosServer::new(Service { rooms: sync.handle() });
    Routes::new(service).prepare().into_axum_router().route("/", get(async || "hello")).layer(sync)
}

struct Service {
    rooms: SyncHandle,
}

#[tonic::async_trait]
impl Todos for Service {
    async fn add(&self, request: Request<AddRequest>) -> Result<Response<Todo>, Status> {
        let AddRequest { room, title } = request.into_inner();
        self.rooms.create_room(&room, SCHEMA).await.map_err(status)?;
        let insert = "INSERT INTO todo (id, title) VALUES (lower(hex(randomblob(16))), ?1) RETURNING id, title, done";
        let added = self.rooms.write(&room, move |tx| tx.query_row(insert, [title], todo)).await;
        Ok(Response::new(added.map_err(status)?))
    }

    type ListStream = Iter<std::vec::IntoIter<Result<Todo, Status>>>;

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let ListRequest { room } = request.into_inner();
        let read = self.rooms.read(&room, |conn| {
            let mut select = conn.prepare("SELECT id, title, done FROM todo ORDER BY title")?;
            select.query_map([], todo)?.map(|row| row.map(Ok)).collect::<Result<Vec<_>, _>>()
        });
        Ok(Response::new(tokio_stream::iter(read.await.map_err(status)?)))
    }
}

fn todo(row: &tower_sqlite_sync::rusqlite::Row<'_>) -> Result<Todo, tower_sqlite_sync::rusqlite::Error> {
    Ok(Todo { id: row.get(0)?, title: row.get(1)?, done: row.get(2)? })
}

/// What a caller is told of a failure.
fn status(error: Error) -> Status {
    match error {
        Error::RoomName(_) => Status::invalid_argument(error.to_string()),
        Error::NoSuchRoom { .. } => Status::not_found(error.to_string()),
        Error::TooManyRooms { .. } | Error::Busy { .. } | Error::GoingAway => Status::unavailable(error.to_string()),
        error => Status::internal(error.to_string()),
    }
}
