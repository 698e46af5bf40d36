//! What the server does in a second, what a room and a connection cost, how cost grows, and what to tune.
//!
//! # Figures
//!
//! From `cargo xtask load`, which starts `examples/server.rs` in its default configuration ([`Durability::Full`](crate::Durability::Full)) as a
//! process of its own, and shares two virtual cores and an ordinary cloud disk with it. The *floor* is a bare tokio-tungstenite server that
//! moves the same messages and does nothing else, measured in the same run; the goal is what we set ourselves on such a machine. Run it on
//! yours: absolute figures are a machine's, ratios say more.
//!
//! | scenario | figure | floor | goal |
//! |---|---:|---:|---:|
//! | one writer, 100,000 changes in chunks of 1,000, stored and received | 223,000/s | 7,130,000/s | 200,000/s |
//! | the same, 1,000,000; its last tenth against its first | 298,000/s; 0.83 | 8,770,000/s; 1.24 | 180,000/s; 0.8 |
//! | 50 messages/s to 100 readers, from send to receipt: median, 99 % | 1.9 ms, 3.1 ms | 0.9 ms, 1.5 ms | 1.5 ms: **missed**, 5 ms |
//! | 2,000 messages flat out to 500 readers (sent together where they wait together) | 6,860,000/s | 7,890,000/s | 1,000,000/s |
//! | a new client in a room of 100,000 changes; memory over idle | 0.051 s; 14 MiB | 0.004 s | 0.08 s; 64 MiB |
//! | the same, 1,000,000 | 0.56 s; 18 MiB | 0.04 s | 0.8 s; 64 MiB |
//! | 1,000 new rooms with two clients each; memory over idle | 746/s; 71 MiB | 6,540/s; 15 MiB | 600/s; 100 MiB |
//! | 5,000 idle connections in one room, each | 5.8 KiB | 6.9 KiB | 6 KiB |
//! | 2,000 clients of 100 rooms reconnect at once, lacking half of 1,000 changes | 0.8 s | 0.2 s | 3 s |
//! | 99 % of small writes in 100 rooms, while another room imports a million: times without | 3.4 (4.5 ms) | 17 (3.0 ms) | 5 |
//!
//! All of it is one run. The floor stores nothing, so that plain SQLite, without a server and clients, is measured beside it:
//!
//! - **One synced commit** takes it 0.6 ms, and nobody may be shown a change before: floor and disk together take 1.5 ms for the median of
//!   50 messages/s, which is the goal. The server takes 1.25 times as long, so that the goal is out of reach on this machine.
//! - **New rooms** of one synced row each it makes 1,060 in a second. With what the floor takes for their clients that is 910.
//! - **Rows** of the same form it stores 390,000 to 520,000 in a second, and the engine alone 350,000 to 500,000.
//!
//! The machine's speed changes from one quarter of an hour to the next: the same program has stored 374,000 changes/s in others. Eight runs
//! of new rooms in the minutes after made 662 to 766/s. The disk has slow places, where plain SQLite makes 300 to 600 rooms/s and the server
//! 250 to 460. Besides, ext4 searches long for places of new files where thousands were deleted in the last five minutes, which the last run
//! has done: so each run should have a folder of its own at the top (`--folder`), which ext4 puts elsewhere. In memory (tmpfs) there are
//! some 900/s.
//!
//! The server is built as this repository's `[profile.release]` says: with link-time optimisation and as one codegen unit, which gives 7 %
//! less for fan-out to do. Yours is built as your workspace says.
//!
//! # What things cost
//!
//! - **A connection that is idle** has its socket, its task and no buffers: they are made when something comes or goes, and let go of. No
//!   timer fires for it but its heartbeat.
//! - **A room** is one task and one SQLite connection, with some 280 KiB while it is in use, its two clients' connections counted in. After
//!   half a second without work it lets go of its prepared statements and cached pages, which leaves 140 KiB. Readers' connections are
//!   opened when the writer is busy or somebody catches up. A room that nobody is in is closed after
//!   [`room_idle`](crate::SyncConfig::with_room_idle).
//! - **A room that sleeps**, because nothing happens in it and [enough others](crate::SyncConfig::with_awake_rooms) had work since, has no
//!   connection and no files open, and takes 35 KiB with its two clients. To close and to open it again costs about a millisecond of a
//!   processor, and no sync. If rooms are woken within ten seconds, more of them stay awake.
//! - **A new room** is one file that is written whole and synced, from a copy that was made once for its schema; its first write makes a
//!   log, and syncs that, as a whole, and the folder. What the tables of a schema are is read once for all rooms that have it. (A
//!   schema's own file is left alone for a tenth of a second, the first time, if it was just written: it may not be whole.)
//! - **A large import** computes on one thread, and lets others have the processor every 64 changes, so that small writes in other rooms
//!   don't wait for it at each of their steps. There are more threads than processors, and the system alone would let it go on for
//!   milliseconds.
//! - **A commit** is one transaction and one sync for all that has come to the room meanwhile: the more clients write, the less each costs.
//! - **A change that goes out** is encoded once, however many clients get it. Each of them costs a message's head and a write to its socket.
//!   What a small commit has changed is known from merging it; larger ones are read back, once.
//! - **Catching up** reads the database in frames of at most [`max_frame_bytes`](crate::SyncConfig::with_max_frame_bytes), two of them side
//!   by side while the one before is on its way: how much there is to catch up with doesn't show in the memory.
//!
//! # How cost grows
//!
//! With what is new, not with what is there: merging a change takes the same few index look-ups in a table of a thousand rows and of
//! millions, as long as its pages are in memory. A client that reconnects costs what it lacks. The exception is a schema of hundreds of
//! tables: finding what is new asks each of them.
//!
//! # What to tune
//!
//! | you see | turn |
//! |---|---|
//! | `sqlite_sync_commit_seconds` is the disk's sync | a faster disk; [`Durability::Os`](crate::Durability::Os), if a power loss may cost the last seconds |
//! | many `sqlite_sync_catch_ups_total` of clients that are nearly there | [`with_feed_window_bytes`](crate::SyncConfig::with_feed_window_bytes) |
//! | small messages to many clients, at a high rate | [`with_notify_interval`](crate::SyncConfig::with_notify_interval) gathers them |
//! | memory or open files, with many rooms | [`with_awake_rooms`](crate::SyncConfig::with_awake_rooms), [`with_max_rooms`](crate::SyncConfig::with_max_rooms), [`with_room_idle`](crate::SyncConfig::with_room_idle); and have SQLite take page caches as they are needed: `LIBSQLITE3_FLAGS="-USQLITE_ENABLE_MEMORY_MANAGEMENT -DSQLITE_DEFAULT_PCACHE_INITSZ=0 -DSQLITE_DEFAULT_LOOKASIDE=1200,16 -DSQLITE_DEFAULT_MEMSTATUS=0"` while you build, as this repository's `.cargo/config.toml` does. The first of them also keeps connections from pushing each other's pages out |
//! | many rooms that begin or are written to at once, and processors that are busy in the system | fewer threads that block: `tokio::runtime::Builder::max_blocking_threads`, as `examples/server.rs` does. Tokio allows 512, which wait for each other in the file system. Where a sync takes ten milliseconds, more are better |
//! | 429 or 503 at a restart, with everybody behind one address | [`with_max_address_connections`](crate::SyncConfig::with_max_address_connections), or tell clients apart with [`SyncLayer::remote_address`](crate::SyncLayer::remote_address) |
//! | connections refused by the system at a restart | a longer queue of the listener, as in `examples/server.rs`, and `net.core.somaxconn` |
//!
//! # Where time goes
//!
//! `perf record -g` on `target/release/examples/server` while `cargo xtask load SCENARIO` runs, or its `--url` and `--pid` for a server that is
//! running already, and `perf report --children`, or a flame graph of it (`perf script | inferno-collapse-perf | inferno-flamegraph`).
//! `heaptrack` tells whose memory it is. `cargo bench -p crr` measures the engine beside what SQLite itself needs, and
//! `cargo bench --bench pass_through` what the layer costs requests that it is not for.
