//! A disk that fails, becomes full or stops, for the thread that asks for it. Unit tests only.

use std::cell::{Cell, RefCell};
use std::io;

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The step with this number fails, as on a full disk; those after it do not.
    Fails(usize),
    /// The process is killed in this step: of a write one half is done, and of what follows nothing.
    Crashes(usize),
}

thread_local! {
    static STEPS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    static FREE: Cell<Option<u64>> = const { Cell::new(None) };
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static BOOTS: Cell<u8> = const { Cell::new(0) };
}

/// Forgets the steps so far and sets what becomes of those that come.
pub(crate) fn set(fault: Option<Fault>) {
    STEPS.take();
    FAULT.set(fault);
}

/// The steps since then.
pub(crate) fn steps() -> Vec<&'static str> {
    STEPS.with_borrow(Clone::clone)
}

/// Whether the steps of databases are counted on this thread.
pub(crate) fn counts() -> bool {
    COUNTS.get()
}

/// From now on the steps of databases are counted on this thread.
pub(crate) fn count() {
    COUNTS.set(true);
}

/// How much room there is said to be; `None` for what there is.
pub(crate) fn set_free(bytes: Option<u64>) {
    FREE.set(bytes);
}

pub(super) fn free() -> Option<u64> {
    FREE.get()
}

/// The machine is started anew.
pub(crate) fn reboot() {
    BOOTS.set(BOOTS.get() + 1);
}

/// How often it was.
pub(crate) fn boots() -> u8 {
    BOOTS.get()
}

pub(crate) fn crashed() -> io::Error {
    io::Error::other("the process is gone")
}

/// What gets written of a write in which the process is killed; the step is taken then.
pub(super) fn torn(buf: &[u8]) -> Option<&[u8]> {
    let now = STEPS.with_borrow(Vec::len);
    (FAULT.get() == Some(Fault::Crashes(now))).then(|| {
        STEPS.with_borrow_mut(|steps| steps.push("write"));
        &buf[..buf.len() / 2]
    })
}

pub(crate) fn step(name: &'static str) -> io::Result<()> {
    STEPS.with_borrow_mut(|steps| {
        let now = steps.len();
        steps.push(name);
        match FAULT.get() {
            Some(Fault::Fails(at)) if at == now => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Crashes(at)) if at <= now => Err(crashed()),
            _ => Ok(()),
        }
    })
}

/// The file of a database, whose steps are counted and fail like all others.
#[derive(Debug)]
pub(crate) struct Backend(pub(crate) redb::backends::FileBackend);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        step("index: set length")?;
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        step("index: sync")
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        step("index: write")?;
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
