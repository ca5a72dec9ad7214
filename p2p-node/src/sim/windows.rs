//! How time passes: window after window, the parts of the nodes shared out to threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope};

use super::link::nanos;
use super::queue::{MAX_WINDOW, Time};
use super::shard::Shard;
use super::world::World;

/// Windows of fewer events than this are gone through by one thread: to wake another costs more.
const WORTH_A_THREAD: usize = 100;

/// From the first event on: nothing that a node causes in it comes to another before `end`.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Time,
    end: Time,
}

/// Lets everything happen that is due up to `until`, that instant included.
pub(super) fn run(world: &World, shards: &mut [Shard], until: Time) {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = if world.config.threads == 0 { cores() } else { world.config.threads };
    // Without a shortest latency a window is one instant.
    let longest = nanos(world.config.latency.0.min(world.config.latency.1)).clamp(1, MAX_WINDOW);
    let shards: Vec<Mutex<&mut Shard>> = shards.iter_mut().map(Mutex::new).collect();
    let work = Work { world, shards: &shards, next: AtomicUsize::new(0) };
    thread::scope(|scope| {
        let mut helpers: Vec<Helper> = Vec::new();
        loop {
            let start = work.soonest();
            if start > until {
                return;
            }
            let window = Window { start, end: start.saturating_add(longest).min(until.saturating_add(1)) };
            let worth = threads > 1 && work.due(window.end) >= WORTH_A_THREAD;
            if worth && helpers.is_empty() {
                helpers = (1..threads).map(|_| Helper::start(scope, &work)).collect();
            }
            work.next.store(0, Ordering::Relaxed);
            let helping = if worth { &helpers[..] } else { &[] };
            helping.iter().for_each(|helper| helper.begin(window));
            work.run(window);
            helping.iter().for_each(Helper::wait);
            work.exchange();
        }
    });
}

/// What the threads share.
struct Work<'a, 'w> {
    world: &'w World,
    shards: &'a [Mutex<&'w mut Shard>],
    /// The next part that nobody has taken in this window.
    next: AtomicUsize,
}

impl Work<'_, '_> {
    /// Takes part after part until none is left.
    fn run(&self, window: Window) {
        while let Some(shard) = self.shards.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            lock(shard).run(self.world, window.start, window.end);
        }
    }

    fn soonest(&self) -> Time {
        self.shards.iter().map(|shard| lock(shard).soonest).min().unwrap_or(Time::MAX)
    }

    fn due(&self, end: Time) -> usize {
        self.shards.iter().map(|shard| lock(shard).due(end)).sum()
    }

    /// Hands over what nodes of one part caused at those of others.
    fn exchange(&self) {
        for from in self.shards {
            let mut posts = Vec::new();
            lock(from).post(|to, soonest, entries| posts.push((to, soonest, entries)));
            for (to, soonest, entries) in posts {
                lock(&self.shards[to]).receive(soonest, entries);
            }
        }
    }
}

/// A part that a thread panicked over is not used any more: that panic ends the run.
fn lock<'a, 'w>(shard: &'a Mutex<&'w mut Shard>) -> std::sync::MutexGuard<'a, &'w mut Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that takes parts as well, from one call of [`run`].
struct Helper {
    windows: SyncSender<Window>,
    done: Receiver<()>,
}

impl Helper {
    fn start<'scope>(scope: &'scope Scope<'scope, '_>, work: &'scope Work<'_, '_>) -> Self {
        let (windows, to_do) = sync_channel::<Window>(1);
        let (tell, done) = sync_channel(1);
        scope.spawn(move || {
            while let Ok(window) = to_do.recv() {
                work.run(window);
                if tell.send(()).is_err() {
                    return;
                }
            }
        });
        Self { windows, done }
    }

    fn begin(&self, window: Window) {
        self.windows.send(window).expect("a helper runs until its channel is dropped");
    }

    /// Until it has nothing left to take.
    fn wait(&self) {
        self.done.recv().expect("a helper answers, or has panicked");
    }
}
