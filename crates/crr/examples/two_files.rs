//! Two copies of a to-do list in two files, written apart and synced: `cargo run -p crr --example two_files`
//!
//! Both sides change the same row while they are apart. After each has merged what the other wrote, both hold the same.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

use crr::{ChangesQuery, Crr, Merge, MergeOptions, Position};
use rusqlite::Connection;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("crr-two-files-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let ran = run(&folder);
    std::fs::remove_dir_all(&folder)?;
    ran.map(drop)
}

/// Plays it all in a folder. Returns what both copies hold at the end.
pub(crate) fn run(folder: &Path) -> Result<[Vec<String>; 2], Box<dyn Error>> {
    let mut laptop = open(&folder.join("laptop.db"))?;
    let mut phone = open(&folder.join("phone.db"))?;

    laptop.execute_batch("INSERT INTO todo VALUES ('milk', 'Buy milk', 0), ('call', 'Call Ada', 0)")?;
    sync(&mut laptop, &mut phone)?;
    show("after the first sync", &laptop, &phone)?;

    // Offline: another cell of the same row each, and a row that one deletes while the other adds one.
    laptop.execute_batch(
        "UPDATE todo SET title = 'Buy oat milk' WHERE id = 'milk'; DELETE FROM todo WHERE id = 'call'",
    )?;
    phone.execute_batch("UPDATE todo SET done = 1 WHERE id = 'milk'; INSERT INTO todo VALUES ('walk', 'Go out', 0)")?;
    show("apart", &laptop, &phone)?;

    sync(&mut laptop, &mut phone)?;
    show("after the second sync", &laptop, &phone)?;
    Ok([rows(&laptop)?, rows(&phone)?])
}

fn open(file: &Path) -> Result<Connection, Box<dyn Error>> {
    let conn = Connection::open(file)?;
    let crr = crr::load(&conn)?;
    conn.execute_batch("CREATE TABLE IF NOT EXISTS todo (id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER)")?;
    crr.as_crr("todo")?;
    Ok(conn)
}

/// Brings each copy what it lacks of the other.
fn sync(a: &mut Connection, b: &mut Connection) -> Result<(), Box<dyn Error>> {
    pull(a, b)?;
    pull(b, a)
}

/// Merges into `to` what `from` has and `to` has not seen. The changes, and how far they go, are committed together; so
/// whenever this is cut off, it can simply be done again.
fn pull(from: &mut Connection, to: &mut Connection) -> Result<(), Box<dyn Error>> {
    let reading = from.transaction()?;
    let writing = to.transaction()?;
    let (source, target) = (Crr::of(&reading)?, Crr::of(&writing)?);
    let seen = target.position(source.site_id()?)?;
    let query = ChangesQuery::default().after(seen.db_version).exclude(target.site_id()?);

    let mut merge = Merge::new(&writing, MergeOptions::default())?;
    let mut merged = Ok(());
    source.read_changes(&query, |change| match merge.changeset(std::iter::once(change)) {
        Ok(_) => ControlFlow::Continue(()),
        Err(error) => {
            merged = Err(error);
            ControlFlow::Break(())
        }
    })?;
    merged?;
    target.set_position(source.site_id()?, Position { db_version: source.stored_db_version()?, seq: 0 })?;
    drop(merge);
    Ok(writing.commit()?)
}

fn show(when: &str, laptop: &Connection, phone: &Connection) -> Result<(), Box<dyn Error>> {
    println!("{when}");
    println!("  laptop  {}", rows(laptop)?.join(", "));
    println!("  phone   {}", rows(phone)?.join(", "));
    Ok(())
}

fn rows(conn: &Connection) -> Result<Vec<String>, Box<dyn Error>> {
    let mut statement = conn.prepare("SELECT title || iif(done, ' (done)', '') FROM todo ORDER BY id")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
