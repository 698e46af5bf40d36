//! Several servers over rooms that [LiteFS](https://fly.io/docs/litefs/) replicates: what for, how, what happens in each failure, and
//! what to look at.
//!
//! # What it is for
//!
//! LiteFS copies SQLite files from one server, the *primary*, to others, the *replicas*. With [`LiteFs`](crate::LiteFs) each of them
//! serves clients: those near a replica read from its copy, and if the primary dies another server goes on within seconds.
//!
//! It is not a way to write more: all writes of all rooms go through the primary. One server with this layer takes hundreds of
//! thousands of changes a second; take several for clients far away, and for a server that may die. If rooms don't all fit one
//! server, give each server rooms of its own, by name, before LiteFS comes into question.
//!
//! ```text
//!  clients ──ws──▶ primary: writer ──commit──▶ /litefs/room ─ ─ LiteFS copies pages ─ ─▶ /litefs/room
//!                     ▲                                                                     │ reads
//!                     └──────── link: changesets, verdicts ──────── replica ◀──ws── clients ┘
//! ```
//!
//! A replica doesn't write. It hands its clients' changesets to the primary over one TCP connection, and counts them as applied
//! once the primary has committed them. Its clients are shown what its copy has: also their own room's changes come to them the way
//! LiteFS brings them.
//!
//! # How
//!
//! 1. Let LiteFS mount a folder, here `/litefs`, on every server. LiteFS decides who is the primary, by a lease in Consul or by
//!    configuration, and shows it in the file `.primary`; nothing has to be said here. Only a folder that has no such file makes a primary: see to it that the
//!    server starts after LiteFS has mounted the folder.
//! 2. Give all servers the same secret, and a port that only they can reach ([`LiteFsConfig::port`](crate::LiteFsConfig::port)): what goes
//!    over the link is authenticated, but not encrypted. Fly.io's private network is both.
//! 3. Give all servers the same schema folder. It isn't replicated: bring a new schema to all of them, and the primary migrates a room
//!    when the first client comes with it. Until the primary has the file, such clients are closed with 4400.
//! 4. Start the layer over a [`LiteFs`](crate::LiteFs) store, and let it join: `examples/litefs.rs` is a whole server,
//!    `examples/litefs/litefs.yml` and `fly.toml` run it on Fly.io.
//!
//! # Two nodes on one machine, without LiteFS
//!
//! To see who does what, two plain folders will do. The file `b/.primary` makes the second node a replica of the node `a`, whose address
//! it has from `b.toml`:
//!
//! ```sh
//! export CLUSTER_SECRET='a long text that all nodes have'
//! mkdir a b
//! echo a > b/.primary
//! printf '[litefs.addresses]\na = "127.0.0.1:9000"\n' > b.toml
//! cargo run --example litefs -- --folder a &
//! cargo run --example litefs -- --folder b --listen 127.0.0.1:8081 --forwards 127.0.0.1:9001 --config b.toml
//! ```
//!
//! What LiteFS does besides has to be done by hand. A client that comes to the replica for a new room has it made at the primary, and then
//! waits for the copy, `sqlite3 a/my-room ".backup b/my-room"`, and for LiteFS's file that says how far a copy has come, with the same
//! content on both nodes: `printf '0000000000000001/0000000000000000\n' | tee a/my-room-pos > b/my-room-pos`. What it writes then is in
//! the primary's file. `rm b/.primary` promotes the replica.
//!
//! # Beside LiteFS
//!
//! LiteFS's own HTTP proxy isn't needed, because replicas take writes. Where it is used, exclude the sync path.
//!
//! Server code reads rooms on every server ([`SyncHandle::read`](crate::SyncHandle::read)), and writes them on the primary only: elsewhere
//! [`SyncHandle::write`](crate::SyncHandle::write) fails with [`Error::NotPrimary`](crate::Error::NotPrimary), and
//! [`LiteFs::primary`](crate::LiteFs::primary) says where to send the request.
//!
//! # What happens when
//!
//! | what | clients of that server | nothing is lost, because |
//! |---|---|---|
//! | a replica dies | connect to another one | it had nothing of its own |
//! | the primary dies | connect to another server; those of replicas stay until one takes over, and then are told to come back (1001) | waiting changesets are retried at the new primary, and clients send again what it doesn't have |
//! | the primary dies before its last commits were copied | the same | whoever wrote them, or was shown them, has them, and is asked for them |
//! | no server is the primary: LiteFS then lets nobody write, and each takes itself for the primary | those whose rooms were open read on; whoever writes or comes anew is closed with 1013, and comes again | clients keep what they wrote |
//! | a replica can't reach the primary's port | the same | the same |
//! | a replica's copy isn't brought up to date | write on, see nothing new; new rooms can't be opened there (1013) | the primary has it |
//! | the role comes and goes (flapping) | come back each time | each new primary makes its rooms other sites |
//! | a server has another secret | read on; changesets end with 1013, and both logs say why | clients keep what they wrote |
//!
//! Whenever a server becomes the primary, or starts as it, each room [forks](crate::SyncHandle::fork) before it is served: its copy may be
//! older than what clients were shown. The database becomes another site, with its lineage recorded in it. A client brings
//! back what the copy lacks; for that it sends everything it has, once, which costs bandwidth and no conflict.
//! [`fork_uploads`](crate::SyncConfig::fork_uploads) clients a room do so at a time. And it gets everything once, since nobody knows what
//! it had seen of what the copy lacks. So a promotion is no emergency, but nothing to do every minute either.
//!
//! # What can be lost
//!
//! What *server code* wrote on the primary, if the primary dies for good before LiteFS has copied it and before any client was
//! shown it. Clients' changes are safe with their authors; server code has only the one copy.
//!
//! And a client that wrote, was cut off before any server had taken it, and never comes back.
//!
//! # What to look at
//!
//! - [`LiteFs::primary`](crate::LiteFs::primary) in a health check: no server of the cluster should be without one for longer than LiteFS's
//!   lease lasts.
//! - In the log, with `room` or `address` as fields: *this node's role in the cluster has changed* (a promotion), *has become another site*
//!   (a fork; many of one room in a day are too many), *the primary can't be reached* and *the connection to the primary is lost*,
//!   *connection … is refused* (a wrong secret, or a stranger at the port).
//! - LiteFS's metrics: `litefs_is_primary` (exactly one), `litefs_db_txid` of replicas against the primary's (how far they are behind),
//!   `litefs_subscriber_count`.
//!
//! # Settings
//!
//! They are [`LiteFsConfig`](crate::LiteFsConfig)'s, beside those of [`SyncConfig`](crate::SyncConfig). Of these, `db_folder` means
//! nothing here, and `watch_files` and `poll_files` neither on replicas: these look at LiteFS's positions, every 100 ms.
