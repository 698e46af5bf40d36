//! The rooms that are open: each is opened once however many ask for it, and closed when nobody has used it for a while.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use super::damaged::Damaged;
use super::ledger::Page;
use super::refused_schemas::RefusedSchemas;
use super::replaced::Replaced;
use super::{Origin, Purpose, Room, RoomName, Surroundings};
use crate::applied::Observer;
use crate::config::SyncConfig;
use crate::connection::Close;
use crate::error::Error;
use crate::fault::Fault;
use crate::meters::Meters;
use crate::quarantine::Quarantine;
use crate::rate::{Bucket, Rate};
use crate::store::{Home, RoomStore};

/// Rooms that a shutdown closes at a time: each waits for the disk, not for the processor.
const CLOSING_AT_ONCE: usize = 16;

/// How long the opening of a room may have to wait for its turn under `rooms_per_second`.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Registry {
    config: SyncConfig,
    store: Arc<dyn RoomStore>,
    /// `None` once the layer shuts down: no room is opened any more. Each has an open room, or somebody [holds](Held) it.
    slots: Mutex<Option<HashMap<RoomName, Arc<Slot>>>>,
    places: Arc<Semaphore>,
    opening: Semaphore,
    opened: Mutex<Bucket>,
    refused_schemas: RefusedSchemas,
    replaced: Replaced,
    damaged: Damaged,
    surroundings: Surroundings,
}

/// The place of one room. Its lock is held while the room is being opened or closed, so that nobody opens it twice.
type Slot = tokio::sync::Mutex<State>;

#[derive(Debug, Default)]
enum State {
    #[default]
    Vacant,
    Open(Open),
    /// The slot is no longer in the registry; whoever holds it must look there again.
    Retired,
}

/// A slot that is locked. Without a room in it, it is gone from the registry when this is dropped, also by somebody who no longer waits
/// for the room: names may be made up.
#[derive(Debug)]
struct Held<'a> {
    registry: &'a Registry,
    name: &'a RoomName,
    state: OwnedMutexGuard<State>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let State::Vacant = &*self.state {
            self.registry.retire(self.name, &mut self.state);
        }
    }
}

#[derive(Debug)]
struct Open {
    room: Arc<Room>,
    usage: watch::Sender<Usage>,
    _place: OwnedSemaphorePermit,
}

/// Who uses a room.
#[derive(Debug, Clone, Copy)]
struct Usage {
    users: usize,
    /// When the last of them left.
    left: Instant,
}

impl Usage {
    fn is_idle(&self) -> bool {
        self.users == 0
    }
}

/// A room that stays open for as long as this is held.
#[derive(Debug)]
pub(crate) struct Lease {
    room: Arc<Room>,
    usage: watch::Sender<Usage>,
}

impl Lease {
    fn new(open: &Open) -> Self {
        open.usage.send_modify(|usage| usage.users += 1);
        Self { room: open.room.clone(), usage: open.usage.clone() }
    }
}

impl std::ops::Deref for Lease {
    type Target = Arc<Room>;

    fn deref(&self) -> &Arc<Room> {
        &self.room
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.usage.send_modify(|usage| {
            usage.users -= 1;
            usage.left = Instant::now();
        });
    }
}

impl Registry {
    pub(crate) fn new(config: SyncConfig, store: Arc<dyn RoomStore>) -> Self {
        let places = Arc::new(Semaphore::new(config.max_rooms().min(Semaphore::MAX_PERMITS)));
        let surroundings = Surroundings::new(&config);
        let opening = Semaphore::new(config.room_opens().clamp(1, Semaphore::MAX_PERMITS));
        Self {
            config,
            store,
            slots: Mutex::new(Some(HashMap::new())),
            places,
            opening,
            opened: Mutex::new(Bucket::new(Instant::now())),
            refused_schemas: RefusedSchemas::default(),
            replaced: Replaced::default(),
            damaged: Damaged::default(),
            surroundings,
        }
    }

    /// Who is told of what clients write.
    pub(crate) fn observer(&self) -> &Observer {
        &self.surroundings.observer
    }

    /// Where what goes on is counted.
    pub(crate) fn meters(&self) -> &Meters {
        &self.surroundings.meters
    }

    /// Whose changes can't be applied.
    pub(crate) fn quarantine(&self) -> &Quarantine {
        &self.surroundings.quarantine
    }

    /// The room of that name, opened if it is not open yet.
    pub(crate) async fn enter(self: &Arc<Self>, name: &RoomName, purpose: &Purpose) -> Result<Lease, Error> {
        let Purpose::Client(schema) = purpose else { return self.find_or_open(name, purpose).await };
        self.refused_schemas.check(name, schema)?;
        let entered = self.find_or_open(name, purpose).await;
        if let Err(error) = &entered {
            self.refused_schemas.remember(name, schema, error);
        }
        entered
    }

    async fn find_or_open(self: &Arc<Self>, name: &RoomName, purpose: &Purpose) -> Result<Lease, Error> {
        let mut held = self.hold(name).await?;
        if let State::Open(open) = &*held.state {
            if !open.room.ending().has_ended() {
                open.room.admit(purpose, &self.config).await?;
                return Ok(Lease::new(open));
            }
            // It failed. Its connections are leaving by themselves; the next open tries again.
            self.shut(&open.room).await;
            *held.state = State::Vacant;
        }
        self.open_in(held, purpose, Origin::Same).await
    }

    /// Closes the room if it is open, and opens it as another site.
    pub(crate) async fn fork(self: &Arc<Self>, name: &RoomName) -> Result<(), Error> {
        match self.home(name) {
            Home::File { .. } => {}
            Home::Memory => return Err(Error::NoFile { room: name.clone() }),
            Home::Replica { .. } => return Err(Error::NotPrimary { room: name.clone() }),
        }
        let mut held = self.hold(name).await?;
        if let State::Open(open) = &*held.state {
            open.room.ending().end(Close::forked());
            self.shut(&open.room).await;
            *held.state = State::Vacant;
        }
        self.open_in(held, &Purpose::Existing, Origin::Earlier).await.map(drop)
    }

    /// Closes the room if it is open, and lets nobody open it while `work` goes on.
    pub(super) async fn while_closed<T>(
        &self,
        name: &RoomName,
        close: Close,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let mut held = self.hold(name).await?;
        if let State::Open(open) = &*held.state {
            open.room.ending().end(close);
            self.shut(&open.room).await;
            *held.state = State::Vacant;
        }
        Ok(work.await)
    }

    /// Opens a room in its slot, which is vacant.
    async fn open_in(self: &Arc<Self>, mut held: Held<'_>, purpose: &Purpose, origin: Origin) -> Result<Lease, Error> {
        let open = self.open(held.name, purpose, origin).await?;
        let lease = Lease::new(&open);
        tokio::spawn(self.clone().close_when_idle(open.room.clone(), open.usage.subscribe()));
        *held.state = State::Open(open);
        Ok(lease)
    }

    /// The rooms that are open now, but for those that are being opened or closed.
    pub(crate) fn open_rooms(&self) -> Vec<Arc<Room>> {
        let slots: Vec<Arc<Slot>> = self.locked().iter().flat_map(HashMap::values).cloned().collect();
        let open = |slot: Arc<Slot>| match slot.try_lock().as_deref() {
            Ok(State::Open(open)) => Some(open.room.clone()),
            _ => None,
        };
        slots.into_iter().filter_map(open).collect()
    }

    /// Closes the rooms that are open. Who comes back finds them where they are then.
    pub(crate) async fn reopen(&self) {
        let slots: Vec<Arc<Slot>> = self.locked().iter().flat_map(HashMap::values).cloned().collect();
        let close = async |slot: Arc<Slot>| {
            let mut state = slot.lock().await;
            if let State::Open(open) = &*state {
                let room = open.room.clone();
                self.shut(&room).await;
                self.retire(room.name(), &mut state);
            }
        };
        stream::iter(slots).for_each_concurrent(CLOSING_AT_ONCE, close).await;
    }

    /// Closes every room, and lets none be opened any more. Waits until their databases are closed. What is not committed at the
    /// deadline is given up.
    pub(crate) async fn close(&self, deadline: Instant) {
        let slots = self.locked().take().unwrap_or_default();
        let close = async |slot: Arc<Slot>| {
            let mut state = slot.lock().await;
            if let State::Open(open) = &*state {
                open.room.close_by(deadline).await;
                self.remember(&open.room).await;
            }
            *state = State::Retired;
        };
        stream::iter(slots.into_values()).for_each_concurrent(CLOSING_AT_ONCE, close).await;
        // Nobody remembers them any longer.
        let fork = async |room| self.fork_closed(&room).await;
        stream::iter(self.replaced.take()).for_each_concurrent(CLOSING_AT_ONCE, fork).await;
    }

    /// Closes a room, whose slot's lock is held.
    async fn shut(&self, room: &Room) {
        room.close().await;
        self.remember(room).await;
    }

    /// Remembers of a room that was closed what the next open must know: if its file is not, or may not be, the one that clients
    /// knew, it forks.
    async fn remember(&self, room: &Room) {
        if room.ending().is_damaged() {
            self.damaged.remember(room.name());
        }
        if room.ending().origin() == Origin::Earlier && !self.replaced.remember(room.name()) {
            self.fork_closed(room.name()).await;
        }
    }

    /// Makes a room that is closed, and can't be opened meanwhile, another site.
    async fn fork_closed(&self, name: &RoomName) {
        let home @ Home::File { .. } = self.home(name) else { return };
        let (purpose, origin) = (Purpose::Existing, Origin::Earlier);
        match Room::open(name, home, &self.config, &purpose, origin, &self.surroundings).await {
            Ok(room) => room.close().await,
            // A file that is there later is not known to be an earlier one.
            Err(Error::NoSuchRoom { .. }) => {}
            Err(error) => {
                tracing::error!(room = %name, %error, "the room's file was replaced, and could not be forked")
            }
        }
    }

    async fn open(&self, name: &RoomName, purpose: &Purpose, origin: Origin) -> Result<Open, Error> {
        if let Purpose::Client(_) = purpose {
            self.turn().await?;
        }
        let home = self.home(name);
        // Whoever waits for another process keeps nobody else from opening.
        let _opening = match &home {
            Home::Replica { .. } => None,
            Home::Memory | Home::File { .. } => Some(self.one_of_the_opening(name).await?),
        };
        let place = self.place().await?;
        let origin = match self.damaged.may_check(name) {
            Some(true) => Origin::Mended,
            Some(false) => return Err(Error::Damaged { room: name.clone() }),
            None if self.replaced.includes(name) => Origin::Earlier,
            None => origin,
        };
        let (home, begun) = (self.home(name), Instant::now());
        let path = home.path().cloned();
        let room = Room::open(name, home, &self.config, purpose, origin, &self.surroundings).await;
        if let (Err(error), Some(path)) = (&room, path)
            && let Some(fault) = error.fault()
        {
            fault.log(name, &path, error);
            if fault == Fault::Damaged {
                self.damaged.checked(name, begun.elapsed());
            }
        }
        let room = room?;
        self.replaced.forget(name);
        self.damaged.forget(name);
        let usage = Usage { users: 0, left: Instant::now() };
        Ok(Open { room, usage: watch::Sender::new(usage), _place: place })
    }

    /// Waits for a client's turn to have a room opened.
    async fn turn(&self) -> Result<(), Error> {
        let rate = Rate::new(self.config.rooms_per_second(), 1);
        let now = Instant::now();
        let wait = {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = opened.wait(rate, now);
            if wait > LONGEST_TURN {
                return Err(Error::OpenedTooFast);
            }
            opened.count(rate, now);
            wait
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Waits until fewer rooms are being opened than may be.
    async fn one_of_the_opening(&self, name: &RoomName) -> Result<SemaphorePermit<'_>, Error> {
        match tokio::time::timeout(self.config.queue_wait(), self.opening.acquire()).await {
            Ok(permit) => permit.map_err(|_| Error::GoingAway),
            Err(_) => Err(Error::Busy { room: name.clone() }),
        }
    }

    /// A place for one more room. If all are taken, a room that nobody uses has to go sooner than it would have.
    async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return Ok(place);
            }
            if !self.close_longest_idle().await {
                return Err(Error::TooManyRooms { limit: self.config.max_rooms() });
            }
        }
    }

    /// Closes the room that has been idle for longest, if there is one. Rooms in memory stay, because they would be lost.
    async fn close_longest_idle(&self) -> bool {
        let slots: Vec<Arc<Slot>> = self.locked().iter().flat_map(HashMap::values).cloned().collect();
        let idle = slots.into_iter().filter_map(|slot| {
            // Whoever holds the lock is about to use the room, or to close it.
            let state = slot.try_lock_owned().ok()?;
            let State::Open(open) = &*state else { return None };
            let usage = *open.usage.borrow();
            (usage.is_idle() && open.room.is_file()).then_some((usage.left, state))
        });
        let Some((_, mut state)) = idle.min_by_key(|(left, _)| *left) else { return false };
        if let State::Open(open) = &*state {
            let room = open.room.clone();
            self.shut(&room).await;
            self.retire(room.name(), &mut state);
        }
        true
    }

    pub(super) fn config(&self) -> &SyncConfig {
        &self.config
    }

    pub(super) fn home(&self, name: &RoomName) -> Home {
        if name.is_in_memory() { Home::Memory } else { self.store.home(name) }
    }

    /// The page of the room in the file at `path`.
    pub(super) fn page(&self, path: &Path) -> Page {
        self.surroundings.ledgers.page(path, self.config.durability())
    }

    /// Closes `room` once nobody has used it for `room_idle`.
    async fn close_when_idle(self: Arc<Self>, room: Arc<Room>, mut usage: watch::Receiver<Usage>) {
        while usage.wait_for(Usage::is_idle).await.is_ok() {
            let used = usage.wait_for(|usage| !usage.is_idle());
            match tokio::time::timeout(self.idle(&room), used).await {
                Ok(Ok(_)) => continue,
                // The room was closed for another reason.
                Ok(Err(_)) => return,
                Err(_) => {}
            }
            let slot = self.locked().as_ref().and_then(|slots| slots.get(room.name()).cloned());
            let Some(slot) = slot else { return };
            let mut state = slot.lock().await;
            match &*state {
                State::Open(open) if Arc::ptr_eq(&open.room, &room) => {
                    if !open.usage.borrow().is_idle() {
                        continue;
                    }
                    self.shut(&room).await;
                    self.retire(room.name(), &mut state);
                }
                _ => {}
            }
            return;
        }
    }

    /// A room that failed is not worth keeping.
    fn idle(&self, room: &Room) -> Duration {
        if room.ending().has_ended() { Duration::ZERO } else { self.config.room_idle() }
    }

    /// The room's slot, once nobody else holds it.
    async fn hold<'a>(&'a self, name: &'a RoomName) -> Result<Held<'a>, Error> {
        loop {
            let slot = match self.take_or_find(name)? {
                Ok(state) => return Ok(Held { registry: self, name, state }),
                Err(slot) => slot,
            };
            let held = Held { registry: self, name, state: slot.lock_owned().await };
            if !matches!(*held.state, State::Retired) {
                return Ok(held);
            }
        }
    }

    /// The lock of a new slot, or the slot that is there. A slot that is new is never seen unlocked: if whoever made it gave up, nobody
    /// would take it away.
    fn take_or_find(&self, name: &RoomName) -> Result<Result<OwnedMutexGuard<State>, Arc<Slot>>, Error> {
        let mut slots = self.locked();
        let slots = slots.as_mut().ok_or(Error::GoingAway)?;
        if let Some(slot) = slots.get(name) {
            return Ok(Err(slot.clone()));
        }
        let slot = Arc::<Slot>::default();
        slots.insert(name.clone(), slot.clone());
        Ok(slot.clone().try_lock_owned().map_err(|_| slot))
    }

    /// Takes a slot whose lock is held out of the registry.
    fn retire(&self, name: &RoomName, state: &mut State) {
        if let Some(slots) = self.locked().as_mut() {
            slots.remove(name);
        }
        *state = State::Retired;
    }

    fn locked(&self) -> MutexGuard<'_, Option<HashMap<RoomName, Arc<Slot>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::poll;

    use super::*;
    use crate::room::{SchemaName, WantedSchema};
    use crate::store::configured;

    fn registry(folder: &std::path::Path) -> Arc<Registry> {
        std::fs::write(
            folder.join("main.sql"),
            "CREATE TABLE foo (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo')",
        )
        .unwrap();
        let config = SyncConfig::default().with_db_folder(folder.join("dbs")).with_schema_folder(folder);
        let store = configured(&config);
        Arc::new(Registry::new(config, store))
    }

    fn create() -> Purpose {
        Purpose::Create(SchemaName::parse("main.sql").unwrap())
    }

    /// How many names are held on to.
    fn names(registry: &Registry) -> usize {
        registry.locked().as_ref().unwrap().len()
    }

    #[tokio::test]
    async fn a_room_that_nobody_waits_for_any_more_takes_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let registry = registry(folder.path());
        let schema = WantedSchema { name: SchemaName::parse("none.sql").unwrap(), version: 1 };
        for purpose in [Purpose::Existing, create(), Purpose::Client(schema)] {
            let name = RoomName::parse("made-up").unwrap();
            {
                let mut first = std::pin::pin!(registry.enter(&name, &purpose));
                let mut second = std::pin::pin!(registry.enter(&name, &purpose));
                assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
                assert_eq!(names(&registry), 1);
            }
            assert_eq!(names(&registry), 0, "{purpose:?}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_room_gets_it_although_the_one_who_opened_it_gave_up() {
        let folder = tempfile::tempdir().unwrap();
        let (registry, name, purpose) = (registry(folder.path()), RoomName::parse("r").unwrap(), create());
        let mut second = std::pin::pin!(registry.enter(&name, &purpose));
        {
            let mut first = std::pin::pin!(registry.enter(&name, &purpose));
            assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        }
        let room = second.await.unwrap();
        assert!(Arc::ptr_eq(&room, &registry.enter(&name, &Purpose::Existing).await.unwrap()));
        assert_eq!(names(&registry), 1);
    }

    #[tokio::test]
    async fn work_on_a_closed_room_that_is_given_up_leaves_the_room_to_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (registry, name) = (registry(folder.path()), RoomName::parse("r").unwrap());
        registry.enter(&name, &create()).await.unwrap();
        let begun = AtomicBool::new(false);
        {
            let work = async {
                begun.store(true, Ordering::Relaxed);
                std::future::pending::<()>().await;
            };
            let mut closed = std::pin::pin!(registry.while_closed(&name, Close::forked(), work));
            while !begun.load(Ordering::Relaxed) {
                assert!(poll!(&mut closed).is_pending());
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(names(&registry), 0);
        registry.enter(&name, &Purpose::Existing).await.unwrap();
    }

    #[tokio::test]
    async fn a_room_that_somebody_began_to_close_is_closed_before_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (registry, name) = (registry(folder.path()), RoomName::parse("r").unwrap());
        for _ in 0..20 {
            let room = registry.enter(&name, &create()).await.unwrap().clone();
            {
                let mut given_up = std::pin::pin!(room.close());
                assert!(poll!(&mut given_up).is_pending());
                // Its writer begins.
                tokio::task::yield_now().await;
            }
            room.close().await;
            assert!(!folder.path().join("dbs/r-wal").exists());
        }
    }
}
