//! From `@vlcn.io/ws-server` in ten minutes: the same folders, the same clients, another server.
//!
//! # What stays
//!
//! - **Clients.** `@vlcn.io/ws-client`, `@vlcn.io/ws-browserclient`, `@vlcn.io/react` and `@vlcn.io/crsqlite-wasm` connect as they are.
//!   Nobody has to download a room again, or to reload a page at a certain moment.
//! - **Databases.** A room's file is opened as ws-server left it, with its site id, its changes and its positions. Its engine, cr-sqlite
//!   0.16, opens what was written here, too.
//! - **Schemas.** The same files in the same folder. The version is the same hash of the text.
//!
//! # In three steps
//!
//! 1. Stop ws-server, so that its logs are written back. Leave both folders where they are.
//! 2. Start a server with this layer over them. What was
//!
//!    ```text
//!    const config = { dbFolder: "./dbs", schemaFolder: "./src/schemas", pathPattern: /\/sync/ };
//!    attachWebsocketServer(server, config, null, null, authenticate);
//!    ```
//!
//!    becomes
//!
//!    ```
//!    use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncConfig, SyncLayer};
//!
//!    # fn is_valid(token: &str) -> bool { token == "s3cret" }
//!    # tokio::runtime::Runtime::new()?.block_on(async {
//!    let config = SyncConfig::default()
//!        .with_db_folder("./dbs")
//!        .with_schema_folder("./src/schemas")
//!        .with_path("/sync".parse()?);
//!    let layer = SyncLayer::new(config).authorize(|request: AuthRequest| async move {
//!        match request.token() {
//!            Some(token) if is_valid(token) => Ok(Grant::read_write()),
//!            _ => Err(Denied::unauthorized("log in first")),
//!        }
//!    });
//!    # drop(layer);
//!    # Ok::<(), Box<dyn std::error::Error>>(())
//!    # })?;
//!    # Ok::<(), Box<dyn std::error::Error>>(())
//!    ```
//!
//!    The README has the few lines around it, for axum and others.
//! 3. Look at the log for rooms or schemas that are refused; the message says what to do.
//!
//! # The options
//!
//! | ws-server | here | notes |
//! |---|---|---|
//! | `dbFolder: "./dbs"` | [`with_db_folder`](crate::SyncConfig::with_db_folder) | |
//! | `dbFolder: null` | [`with_memory(true)`](crate::SyncConfig::with_memory) | rooms live until [`room_idle`](crate::SyncConfig::room_idle) has passed after the last client |
//! | `schemaFolder` | [`with_schema_folder`](crate::SyncConfig::with_schema_folder) | files are read again for each announce that needs them |
//! | `pathPattern: /\/sync/` | [`with_path`](crate::SyncConfig::with_path) | a regular expression over the path without its query; other upgrades reach your service |
//! | `notifyLatencyMs` | [`with_notify_interval`](crate::SyncConfig::with_notify_interval) | 0 here: changes go out at once, and batches form by themselves |
//! | `notifyPat` | none | a room's file and those beside it are known by the room's name |
//! | `notifyPolling: true` | [`with_poll_files`](crate::SyncConfig::with_poll_files) | only for what *other* processes write; our own commits need no file events |
//! | `appName` | [`LiteFsConfig::with_app_name`](crate::LiteFsConfig::with_app_name) | see [on LiteFS](crate::on_litefs) |
//! | third argument, `IDBFactory` | [`SyncLayer::with_store`](crate::SyncLayer::with_store) | where rooms live, and who writes them |
//! | fourth argument, `FSNotify` | [`with_watch_files(false)`](crate::SyncConfig::with_watch_files) | if file events are not wanted |
//! | fifth argument, `authenticate(req, token, cb)` | [`SyncLayer::authorize`](crate::SyncLayer::authorize) | sees the room, too, and may let in to read only |
//!
//! The same as a file, whose every setting has a default:
//!
//! ```
//! use tower_sqlite_sync::SyncConfig;
//!
//! let config: SyncConfig = serde_json::from_str(
//!     r#"{ "db_folder": "./dbs", "schema_folder": "./src/schemas", "path": "/sync", "notify_interval": 0.05 }"#,
//! )?;
//! assert_eq!(config.notify_interval().as_millis(), 50);
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! # What changes
//!
//! - **Room names** have letters, digits, `_`, `-` and `.`, and are checked before the upgrade (400 with the reason). If you have rooms with
//!   other names, [`with_wide_room_names`](crate::SyncConfig::with_wide_room_names) lets them in. Rooms with a dot in their name are
//!   notified as any other.
//! - **Web pages connect from the server's own host** only, by the `Origin` that browsers send (403). If your pages come from another host,
//!   or a proxy changes `Host`, list their origins: [`with_origins`](crate::SyncConfig::with_origins).
//! - **A schema file with a new text** migrates a room when the first client comes with that version, also while others are
//!   connected. A client with another version is closed with 4400 and a reason; ws-server left it hanging. Schemas that are migrated have to
//!   say `CREATE TABLE IF NOT EXISTS`.
//! - **Changes are shown when they are durable** (`synchronous=FULL`), and rooms commit what many clients send together.
//! - **Errors close one connection, with a code and a reason**; see the table of codes in the [crate's documentation](crate). ws-server's
//!   process ended for some of them.
//! - **There are limits**, all in [`SyncConfig`](crate::SyncConfig), for message sizes, connections, open rooms and waiting.
//! - **A shutdown** is [`SyncHandle::shutdown`](crate::SyncHandle::shutdown): clients are told to come back, what is queued is committed, and
//!   the logs are written back.
//!
//! ws-server has faults that are not listed here, because nothing has to be done about them. They are in `tests/README.md` of the
//! repository, each with what happens here instead, and with the tests that hold it.
