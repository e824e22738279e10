//! What readers see of the desired state: the current view, and every change in order.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control_api::v1;
use model::{Kind, ObjectKey, SharedMap};
use tokio::sync::broadcast;

/// Generations that a watcher may lag behind before it has to start again.
const BACKLOG: usize = 1024;

/// Objects that the kept generations hold together, at most (beyond the newest generation).
const BACKLOG_OBJECTS: usize = 65_536;

/// The desired state at one generation.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Of the last transaction.
    pub generation: u64,
    /// As clients see them.
    pub objects: SharedMap<ObjectKey, Arc<v1::Object>>,
    /// Objects that are stored but not live, and why.
    pub not_live: Vec<v1::SpecError>,
}

impl View {
    /// Objects of some kinds, all where `kinds` is empty, sorted by kind and name.
    pub fn of_kinds(&self, kinds: &BTreeSet<Kind>) -> impl Iterator<Item = &Arc<v1::Object>> {
        self.objects
            .iter()
            .filter(|(key, _)| kinds.is_empty() || kinds.contains(&key.kind))
            .map(|(_, object)| object)
    }
}

/// What one transaction changed.
#[derive(Clone, Debug)]
pub struct Event {
    /// The generation that it made.
    pub generation: u64,
    /// Created or changed objects.
    pub upserts: Vec<Arc<v1::Object>>,
    /// Removed ones.
    pub deletes: Vec<ObjectKey>,
}

impl Event {
    fn len(&self) -> usize {
        self.upserts.len() + self.deletes.len()
    }
}

/// Where the owner of the desired state publishes and everybody else reads.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    sender: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
struct Inner {
    view: Arc<View>,
    history: VecDeque<Arc<Event>>,
    history_objects: usize,
}

/// A watch that has begun.
#[derive(Debug)]
pub struct Subscription {
    /// The current state, for a watcher that begins with a listing.
    pub view: Arc<View>,
    /// What the watcher missed.
    pub missed: Vec<Arc<Event>>,
    /// What happens from now on. Lagging means that the watcher has to start again.
    pub events: broadcast::Receiver<Arc<Event>>,
}

/// The generation is unknown: too old to be kept, or not reached yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "changes since generation {from} are not kept (now: {current}): start again with a full listing"
)]
pub struct Stale {
    /// What the watcher knows.
    pub from: u64,
    /// What is.
    pub current: u64,
}

impl Hub {
    /// A hub that begins with a view.
    pub fn new(view: View) -> Self {
        let inner = Inner {
            view: Arc::new(view),
            history: VecDeque::new(),
            history_objects: 0,
        };
        Self {
            inner: Mutex::new(inner),
            sender: broadcast::channel(BACKLOG).0,
        }
    }

    /// The current state.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.lock().view)
    }

    /// Makes a transaction visible.
    pub fn publish(&self, view: View, event: Event) {
        let event = Arc::new(event);
        let mut inner = self.lock();
        inner.view = Arc::new(view);
        inner.history_objects += event.len();
        inner.history.push_back(Arc::clone(&event));
        while inner.history.len() > BACKLOG
            || inner.history.len() > 1 && inner.history_objects > BACKLOG_OBJECTS
        {
            let Some(oldest) = inner.history.pop_front() else {
                break;
            };
            inner.history_objects -= oldest.len();
        }
        // No watcher is no error. Under the lock, so that a subscription misses nothing and sees nothing twice.
        let _ = self.sender.send(event);
    }

    /// Replaces what is known about objects that are not live. The generation stays.
    pub fn note_not_live(&self, not_live: Vec<v1::SpecError>) {
        let mut inner = self.lock();
        Arc::make_mut(&mut inner.view).not_live = not_live;
    }

    /// Begins a watch, after a generation or with a listing.
    ///
    /// # Errors
    ///
    /// The generation is not kept.
    pub fn subscribe(&self, from: Option<u64>) -> Result<Subscription, Stale> {
        let inner = self.lock();
        let view = Arc::clone(&inner.view);
        let current = view.generation;
        let missed = match from {
            Some(from) if from != current => {
                let oldest = inner.history.front().map(|event| event.generation);
                if from > current || oldest.is_none_or(|oldest| from + 1 < oldest) {
                    return Err(Stale { from, current });
                }
                inner
                    .history
                    .iter()
                    .filter(|event| event.generation > from)
                    .cloned()
                    .collect()
            }
            _ => Vec::new(),
        };
        Ok(Subscription {
            view,
            missed,
            events: self.sender.subscribe(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock leaves it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(generation: u64) -> Event {
        Event {
            generation,
            upserts: Vec::new(),
            deletes: Vec::new(),
        }
    }

    fn publish(hub: &Hub, generation: u64) {
        hub.publish(
            View {
                generation,
                ..View::default()
            },
            event(generation),
        );
    }

    #[test]
    fn a_watch_resumes_where_it_was() {
        let hub = Hub::new(View {
            generation: 7,
            ..View::default()
        });
        assert_eq!(
            hub.subscribe(Some(6)).expect_err("too old"),
            Stale {
                from: 6,
                current: 7
            }
        );
        assert_eq!(
            hub.subscribe(Some(8)).expect_err("not reached"),
            Stale {
                from: 8,
                current: 7
            }
        );
        assert!(hub.subscribe(Some(7)).expect("current").missed.is_empty());
        for generation in 8..8 + BACKLOG as u64 + 10 {
            publish(&hub, generation);
        }
        let current = hub.view().generation;
        let oldest = current - BACKLOG as u64;
        assert!(hub.subscribe(Some(oldest - 1)).is_err());
        assert!(hub.subscribe(Some(u64::MAX)).is_err());
        let mut subscription = hub.subscribe(Some(oldest)).expect("is kept");
        assert_eq!(subscription.missed.len(), BACKLOG);
        assert_eq!(subscription.missed[0].generation, oldest + 1);
        publish(&hub, current + 1);
        assert_eq!(
            subscription.events.try_recv().expect("an event").generation,
            current + 1
        );
        assert!(subscription.events.try_recv().is_err());
    }

    #[test]
    fn a_slow_watcher_costs_bounded_memory() {
        let hub = Hub::new(View::default());
        let mut subscription = hub.subscribe(None).expect("subscribes");
        for generation in 1..=2 * BACKLOG as u64 {
            publish(&hub, generation);
        }
        assert!(matches!(
            subscription.events.try_recv(),
            Err(broadcast::error::TryRecvError::Lagged(_))
        ));
    }
}
