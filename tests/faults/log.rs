//! What the servers of all tests log.

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Keeps what is logged from now on.
pub(crate) fn keep() {
    static KEPT: OnceLock<()> = OnceLock::new();
    KEPT.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter("tower_sqlite_sync=info")
            .with_writer(|| Writer)
            .init();
    });
}

/// The lines that name a path.
pub(crate) fn lines_about(path: &Path) -> Vec<String> {
    let log = LOG.lock().unwrap();
    let path = path.to_str().unwrap();
    String::from_utf8_lossy(&log).lines().filter(|line| line.contains(path)).map(str::to_owned).collect()
}

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
