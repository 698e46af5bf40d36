//! Seeing what goes on: metrics, spans, log events, and what each of them means.
//!
//! # Metrics
//!
//! The layer counts through the [`metrics`](https://docs.rs/metrics) facade: install a recorder of your choice *before*
//! [`SyncLayer::new`](crate::SyncLayer::new), as `examples/server.rs` does with Prometheus for `--metrics`. Without one, counting costs
//! nothing.
//!
//! | name | kind | unit | what |
//! |---|---|---|---|
//! | `sqlite_sync_connections` | gauge | 1 | WebSockets that are open |
//! | `sqlite_sync_rooms` | gauge | 1 | rooms that are open |
//! | `sqlite_sync_rooms_awake` | gauge | 1 | those of them whose databases are open, because of work now or [not long ago](crate::SyncConfig::with_awake_rooms) |
//! | `sqlite_sync_changes_in_total` | counter | changes | changes of clients that had an effect, and are durable |
//! | `sqlite_sync_changes_out_total` | counter | changes | changes sent to clients, each client counted |
//! | `sqlite_sync_feed_hits_total` | counter | messages | messages of changes that were sent from memory |
//! | `sqlite_sync_catch_ups_total` | counter | messages | messages of changes that were read from a database for one client |
//! | `sqlite_sync_batch_changesets` | histogram | changesets | how many were committed together |
//! | `sqlite_sync_commit_seconds` | histogram | seconds | merging and committing a batch, with syncing |
//! | `sqlite_sync_queue_seconds` | histogram | seconds | how long a changeset waited for its room's writer |
//! | `sqlite_sync_refused_total` | counter, by `reason` | 1 | `http 401` and the like: a request got no WebSocket; `close 1008` and the like: the server closed a connection, 1001 at a shutdown too; `changeset`: the room's database refused one |
//!
//! Worth an alarm: `sqlite_sync_commit_seconds` that grows (the disk), `sqlite_sync_queue_seconds` beyond a second (a room with too much
//! work), `sqlite_sync_refused_total` with `close 1011` (the server's fault: its log says more) or `changeset` (a client that can't get rid
//! of what it wrote). Many catch-ups beside few feed hits say that `feed_window_bytes` is small for what is written.
//!
//! How a histogram is shown is the recorder's affair: Prometheus gets buckets from the example server.
//!
//! # Spans
//!
//! A connection has a span `connection` with `room`, `identity` (as the [`Grant`](crate::Grant) names it) and `site`, once it has
//! announced itself. A room's own events have the field `room`. No event at any level holds a token, a key or a value of a cell.
//!
//! # Log events
//!
//! At `info`, a connection's whole story:
//!
//! | event | means |
//! |---|---|
//! | `refused`, `handshake of a page refused` | a request got no WebSocket, with the status and the reason that it got instead |
//! | `site announced` | a client has said who it is, and with which schema |
//! | `room opened`, `room closed` | the first client came, or server code, for whom it may have been made (`is_new`); nobody is there now |
//! | `schema applied` | it was run in a new room; most begin as a copy of one in which it was, and don't say so |
//! | `migrating the room`, `migration step`, `room migrated` | the first client came with a newer schema, and the server has it |
//! | `changes don't continue what is here, asking for them again` | something between was lost or refused; the client sends it again |
//! | `client asks for changes again` | it could not apply what it was sent |
//! | `changes of this site were refused, asking for them later` | it would send what was refused before; the wait doubles each time |
//! | `changes of a read-only client dropped` | it wrote all the same |
//! | `changes reverted: …` | its copy returns to what the room has |
//! | `this site's database is, or may be, an earlier one: …` | a client was restored from a backup; it is asked for everything and sent its own |
//! | `a file that is to be the room has become another site`, `a file took the place of the room's database` | you called [`restore`](crate::SyncHandle::restore) |
//! | `the room was not closed: …` | the process was killed; db_versions go on above what may have been shown |
//! | `connection closed`, `connection closed by the client`, `connection lost` | how it ended: by us with a code and a reason, by it, or by the network |
//!
//! At `warn`, what someone should look at when there is time:
//!
//! | event | means |
//! |---|---|
//! | `announce refused` | mostly schemas that don't match: the error says which |
//! | `changes not applied` | a changeset was refused, with table and column; see [`SyncHandle::refused_sites`](crate::SyncHandle::refused_sites) |
//! | `the guard objects to changes` | your [`ChangeGuard`](crate::ChangeGuard) did |
//! | `a transaction of a client can't be applied and is set aside` | as you ordered; it is in the file that you named |
//! | `the room's database is an earlier one than its clients knew: …` | a file went back, or you called [`fork`](crate::SyncHandle::fork); the room became another site, and clients bring back what is missing |
//! | `the log is damaged: …` | a disk or a power loss took the end of the room's log; clients are asked for what they have |
//! | `another process has made the room another site` | somebody forked or restored it, beside this server |
//! | `client claims to have seen more than there is` | it knew a later file; it gets everything |
//! | `giving up what could not be committed in time …`, `connections did not close in time …` | raise `shutdown_grace`, or find out what was slow |
//! | `a hook took too long`, `the HTTP server …` | your code, or the server that the layer is in |
//!
//! At `error`, what can't wait: `room failed` with the cause and, for a file or a disk, what to do (`the disk is full`, `the file is
//! damaged` and the like); `room closed, but its log is not written back`; `a hook panicked`.
//!
//! `debug` has each message with its counts, and `room asleep` and `room awake`; `trace` more of the same.
