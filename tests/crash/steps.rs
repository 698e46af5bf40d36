//! A process that forks, restores or backs up a room is killed before each change that it makes to the folder.
//!
//! Afterwards the room is the old one or the new one, whole; no db_version that was shown is used again; and nothing stays behind.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use tempfile::TempDir;
use tower_sqlite_sync::{SyncConfig, SyncHandle, SyncLayer};

use crate::fixture::SCHEMA;
use crate::remains::check_integrity;

/// How the process is told where to work, and what to do there.
const FOLDER: &str = "STEPS_FOLDER";
const OPERATION: &str = "STEPS_OPERATION";

/// Older than anything that may still be in the making.
const LONG_AGO: Duration = Duration::from_secs(7_200);

/// A row that was shown to clients: by which site, and at which of its db_versions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    site: String,
    version: i64,
    row: String,
}

/// A folder with rooms, and what clients have seen of room `r`.
struct Scene {
    folder: TempDir,
    shown: Vec<Shown>,
}

fn layer(folder: &Path) -> SyncHandle {
    let config = SyncConfig::default().with_db_folder(folder.join("dbs")).with_schema_folder(folder.join("schemas"));
    SyncLayer::new(config).handle()
}

/// Writes a row, and says how it was shown.
async fn write(rooms: &SyncHandle, row: &str) -> Shown {
    let key = row.to_owned();
    rooms.write("r", move |tx| tx.execute("INSERT INTO foo VALUES (?1, 1)", [key])).await.unwrap();
    let site = rooms.read("r", |conn| conn.query_row("SELECT hex(crsql_site_id())", [], |row| row.get(0)));
    Shown { site: site.await.unwrap(), version: rooms.rooms()[0].db_version, row: row.to_owned() }
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("schemas")).unwrap();
        fs::write(folder.path().join("schemas/main.sql"), SCHEMA).unwrap();
        let rooms = layer(folder.path());
        rooms.create_room("r", "main.sql").await.unwrap();
        let mut shown = Vec::new();
        for row in ["in the backup", "behind it"] {
            shown.push(write(&rooms, row).await);
            if shown.len() == 1 {
                rooms.backup("r", folder.path().join("backup")).await.unwrap();
            }
        }
        rooms.shutdown().await;
        Self { folder, shown }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Has the process run until just before that change. Whether it came to its end before.
    fn run(&mut self, operation: &str, change: usize) -> bool {
        let report = self.path("report");
        fs::write(&report, "").unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "steps::an_operation_that_others_kill", "--ignored", "--nocapture"])
            .env(FOLDER, self.folder.path())
            .env(OPERATION, operation)
            .env("DIE_FOLDER", self.path("dbs"))
            .env("DIE_AT", change.to_string())
            .env("LD_PRELOAD", preloaded())
            .stdout(File::create(self.path("output")).unwrap())
            .stderr(File::options().append(true).open(self.path("output")).unwrap())
            .status()
            .unwrap();
        let output = || fs::read_to_string(self.path("output")).unwrap();
        assert!(status.success() || status.signal() == Some(9), "{operation} {change}: {}", output());
        for line in fs::read_to_string(report).unwrap().lines() {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap().to_owned();
            self.shown.push(Shown { site: word(), version: word().parse().unwrap(), row: word() });
        }
        status.success()
    }

    /// Starts a server on what is left, and looks whether anybody who saw what was shown is misled.
    async fn check(&mut self, what: &str) {
        let rooms = layer(self.folder.path());
        let next = write(&rooms, &format!("after {what}")).await;
        rooms.shutdown().await;
        let names = names(&self.path("dbs"));
        // SQLite leaves a journal alone that was not synced yet: it begins with zeros, and nothing was written that it would undo.
        let is_cold = |name: &str| fs::read(self.path("dbs").join(name)).unwrap().iter().take(8).all(|byte| *byte == 0);
        let known = |name: &String| match name.as_str() {
            "r" => true,
            "r-journal" => is_cold(name),
            name => name.starts_with(".sync-ledger") || name.contains(".partial"),
        };
        assert!(names.iter().all(known), "{what}: {names:?}");
        let file = self.path("dbs/r");
        check_integrity(&file);
        let conn = Connection::open(&file).unwrap();
        let count = |row: &str| -> i64 {
            conn.query_row("SELECT count(*) FROM foo WHERE a = ?1", [row], |row| row.get(0)).unwrap()
        };
        for shown in &self.shown {
            assert!(shown.site != next.site || shown.version < next.version, "{what}: {next:?} after {shown:?}");
            // The site that it is, it is with all that it has shown; one that it was, up to the fork.
            let upto = if shown.site == next.site { Some(i64::MAX) } else { forked_at(&conn, &shown.site) };
            if upto.is_some_and(|upto| shown.version <= upto) {
                assert_eq!(count(&shown.row), 1, "{what}: {shown:?} is gone");
            }
        }
        assert_eq!(count("in the backup"), 1, "{what}");
        self.shown.push(next);
    }

    /// Makes what is left of operations that were killed old.
    fn age(&self) {
        for folder in [self.folder.path().to_owned(), self.path("dbs")] {
            for name in names(&folder).iter().filter(|name| name.contains(".partial")) {
                let file = File::options().write(true).open(folder.join(name)).unwrap();
                file.set_modified(SystemTime::now() - LONG_AGO).unwrap();
            }
        }
    }
}

/// The db_version at which the database ceased to be that site.
fn forked_at(conn: &Connection, site: &str) -> Option<i64> {
    if !conn.table_exists(None, "crsql_sync_lineage").unwrap() {
        return None;
    }
    let sql = "SELECT max(db_version) FROM crsql_sync_lineage WHERE hex(site_id) = ?1";
    conn.query_row(sql, [site], |row| row.get(0)).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The library that kills, or has a sync fail, built once.
pub(crate) fn preloaded() -> PathBuf {
    static LIBRARY: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/die.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (new, library) = (folder.join(format!("die-{}", std::process::id())), folder.join("die.so"));
        let mut compile = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&new).arg(source).arg("-ldl");
        assert!(compile.status().unwrap().success(), "the C compiler that SQLite needs builds tests/crash/die.c");
        // Whole, for tests that run at the same time in another process.
        fs::rename(new, &library).unwrap();
        library
    };
    LIBRARY.get_or_init(build).clone()
}

#[tokio::test]
#[ignore = "the process that other tests start and kill"]
async fn an_operation_that_others_kill() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let operation = std::env::var(OPERATION).unwrap();
    let mut report = File::options().append(true).open(folder.join("report")).unwrap();
    // In one piece: another thread may come to the change before which the process is killed.
    let mut tell = |Shown { site, version, row }: Shown| {
        report.write_all(format!("{site} {version} {row}\n").as_bytes()).unwrap();
    };
    let rooms = layer(&folder);
    let id = std::process::id();
    tell(write(&rooms, &format!("before {operation} {id}")).await);
    match operation.as_str() {
        "fork" => rooms.fork("r").await.unwrap(),
        "restore" => rooms.restore("r", folder.join("backup")).await.unwrap(),
        "backup" => rooms.backup("r", folder.join("dbs/copy.backup")).await.unwrap(),
        _ => unreachable!("{operation}"),
    }
    tell(write(&rooms, &format!("behind {operation} {id}")).await);
    rooms.shutdown().await;
}

/// Kills the operation at each of its changes.
async fn at_each_change(operation: &str) -> Scene {
    let mut scene = Scene::new().await;
    for change in 1.. {
        let ended = scene.run(operation, change);
        let copy = scene.path("dbs/copy.backup");
        if copy.exists() {
            check_integrity(&copy);
            fs::rename(&copy, scene.path("copy")).unwrap();
        }
        scene.check(&format!("{operation} {change}")).await;
        if ended {
            println!("{operation}: {change} changes");
            break;
        }
    }
    scene
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_forks_a_room_leaves_one_site_or_the_other() {
    at_each_change("fork").await;
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_restores_a_room_leaves_the_old_one_or_the_new_one() {
    let mut scene = at_each_change("restore").await;
    assert!(names(&scene.path("dbs")).iter().any(|name| name.contains(".partial")));
    scene.age();
    assert!(scene.run("restore", usize::MAX));
    assert!(!names(&scene.path("dbs")).iter().any(|name| name.contains(".partial")), "what is old is removed");
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_backs_up_a_room_leaves_a_whole_backup_or_none() {
    let scene = at_each_change("backup").await;
    let rooms = layer(scene.folder.path());
    rooms.restore("copy", scene.path("copy")).await.unwrap();
    rooms.shutdown().await;
}
