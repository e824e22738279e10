//! Publication of snapshots by quiescent states.
//!
//! One publisher (control) hands immutable values to many readers (workers). A reader makes two loads per loop and
//! never waits; the publisher frees a retired value when every reader has passed a quiescent point, that is, has
//! called [`Reader::observe`] again, since the value was unlinked. Every drop runs on the publisher's side.
//!
//! Epochs number the quiescent periods. [`Publisher::publish`] replaces the value and begins an epoch;
//! [`Publisher::advance`] begins one without a new value, for tables that are updated in place and need to know when
//! what they unlinked is out of sight: garbage unlinked while the epoch was `e` is out of sight as soon as
//! [`Publisher::observed`] is greater than `e`.
#![expect(
    unsafe_code,
    reason = "readers follow a raw pointer without a reference count"
)]

use std::marker::PhantomData;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicPtr, AtomicU64, Mutex, Ordering};

/// Number of a quiescent period; grows by one with each publication.
pub type Epoch = u64;

/// What a reader that is gone reports, so that nobody waits for it.
const OFFLINE: u64 = u64::MAX;

struct Shared<T> {
    current: AtomicPtr<T>,
    epoch: AtomicU64,
    /// Values that some reader may still see, with the epoch in which they were current. Control side only.
    retired: Mutex<Vec<(Epoch, RetiredPtr<T>)>>,
    owns: PhantomData<T>,
}

struct RetiredPtr<T>(*mut T);

// JUSTIFICATION: a raw pointer is not Send by itself.
// SAFETY: the pointer owns a `T` that no other thread frees; sending it is sending the `T`.
unsafe impl<T: Send> Send for RetiredPtr<T> {}
// JUSTIFICATION: the raw pointer in `current` hides that this is a shared container of `T`.
// SAFETY: readers only take `&T` (needs `T: Sync`), the publisher drops `T` on its own thread (needs `T: Send`).
unsafe impl<T: Send + Sync> Sync for Shared<T> {}
// JUSTIFICATION: as above.
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let current = self.current.load(Ordering::Acquire);
        // JUSTIFICATION: the value was turned into a raw pointer by `Box::into_raw`.
        // SAFETY: the last handle is gone, so no reader holds a reference; the pointer came from `Box::into_raw` once.
        drop(unsafe { Box::from_raw(current) });
        let mut retired = self
            .retired
            .lock()
            .expect("no code panics with this lock held");
        for (_, RetiredPtr(pointer)) in retired.drain(..) {
            // JUSTIFICATION: as above.
            // SAFETY: as above; each retired pointer is in the list once and in `current` no more.
            drop(unsafe { Box::from_raw(pointer) });
        }
    }
}

/// The writing side: one per engine, on the control thread.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    epoch: Epoch,
    readers: Vec<Arc<CachePadded<AtomicU64>>>,
}

impl<T: Send + Sync> Publisher<T> {
    /// A publisher whose first value is `initial`, in epoch 1.
    pub fn new(initial: T) -> Self {
        let shared = Arc::new(Shared {
            current: AtomicPtr::new(Box::into_raw(Box::new(initial))),
            epoch: AtomicU64::new(1),
            retired: Mutex::new(Vec::new()),
            owns: PhantomData,
        });
        Self {
            shared,
            epoch: 1,
            readers: Vec::new(),
        }
    }

    /// Makes a reader. Until its first [`Reader::observe`] it holds back every free.
    pub fn subscribe(&mut self) -> Reader<T> {
        let slot = Arc::new(CachePadded::new(AtomicU64::new(0)));
        self.readers.push(Arc::clone(&slot));
        Reader {
            shared: Arc::clone(&self.shared),
            slot,
            seen: 0,
        }
    }

    /// Replaces the value. Returns the epoch that begins with it: the value is live on every reader when
    /// [`Publisher::observed`] has reached it.
    pub fn publish(&mut self, value: T) -> Epoch {
        let new = Box::into_raw(Box::new(value));
        let old = self.shared.current.swap(new, Ordering::AcqRel);
        self.shared
            .retired
            .lock()
            .expect("no code panics with this lock held")
            .push((self.epoch, RetiredPtr(old)));
        let epoch = self.advance();
        self.reclaim();
        epoch
    }

    /// Begins a new epoch without a new value and returns it.
    pub fn advance(&mut self) -> Epoch {
        self.epoch += 1;
        self.shared.epoch.store(self.epoch, Ordering::Release);
        self.epoch
    }

    /// The current epoch: garbage unlinked now carries this number.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The oldest epoch that some reader may still be in; the current one when there is no reader.
    pub fn observed(&self) -> Epoch {
        let oldest = self
            .readers
            .iter()
            .map(|slot| slot.load(Ordering::Acquire))
            .min();
        oldest.unwrap_or(OFFLINE).min(self.epoch)
    }

    /// Frees the retired values that no reader can see any more; called by every publication, and worth calling
    /// some time after the last one.
    pub fn reclaim(&mut self) {
        self.readers
            .retain(|slot| slot.load(Ordering::Acquire) != OFFLINE);
        let observed = self.observed();
        let mut retired = self
            .shared
            .retired
            .lock()
            .expect("no code panics with this lock held");
        retired.retain(|(epoch, RetiredPtr(pointer))| {
            let visible = *epoch >= observed;
            if !visible {
                // JUSTIFICATION: the value was turned into a raw pointer by `Box::into_raw`.
                // SAFETY: every reader has observed an epoch after the one in which the pointer was current, so its
                // later references come from a later pointer (see `Reader::observe`), and `&mut self` there ended the
                // earlier ones. The pointer leaves the list here, so it is freed once.
                drop(unsafe { Box::from_raw(*pointer) });
            }
            visible
        });
    }

    /// How many values wait for readers to pass by.
    pub fn retired(&self) -> usize {
        self.shared
            .retired
            .lock()
            .expect("no code panics with this lock held")
            .len()
    }
}

/// The reading side: one per worker.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    slot: Arc<CachePadded<AtomicU64>>,
    seen: Epoch,
}

impl<T: Send + Sync> Reader<T> {
    /// The quiescent point: gives up every reference from before and returns the newest value.
    #[inline]
    pub fn observe(&mut self) -> &T {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        let pointer = self.shared.current.load(Ordering::Acquire);
        if epoch != self.seen {
            self.seen = epoch;
            self.slot.store(epoch, Ordering::Release);
        }
        // JUSTIFICATION: a reference count per loop and reader would bounce a line between cores.
        // SAFETY: the pointer was current at or after the moment when `epoch` began, because the publisher stores the
        // pointer before the epoch and we load the epoch before the pointer. It is freed only when this slot holds a
        // later epoch, which only the next `observe` stores, and that call ends the borrow returned here.
        unsafe { &*pointer }
    }

    /// The epoch last observed; 0 before the first observation.
    pub fn epoch(&self) -> Epoch {
        self.seen
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.slot.store(OFFLINE, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    use super::*;

    struct Counted(u64, Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_value_is_freed_when_every_reader_has_passed() {
        let drops = Arc::new(AtomicUsize::new(0));
        let mut publisher = Publisher::new(Counted(1, drops.clone()));
        let (mut a, mut b) = (publisher.subscribe(), publisher.subscribe());
        assert_eq!((a.observe().0, b.observe().0), (1, 1));
        let epoch = publisher.publish(Counted(2, drops.clone()));
        assert_eq!(a.observe().0, 2);
        publisher.reclaim();
        assert!(publisher.observed() < epoch);
        assert_eq!(drops.load(SeqCst), 0, "b may still read the first value");
        assert_eq!(b.observe().0, 2);
        publisher.reclaim();
        assert_eq!(publisher.observed(), epoch);
        assert_eq!(drops.load(SeqCst), 1);
        drop((publisher, a, b));
        assert_eq!(drops.load(SeqCst), 2);
    }

    #[test]
    fn a_reader_that_is_gone_holds_nothing_back() {
        let drops = Arc::new(AtomicUsize::new(0));
        let mut publisher = Publisher::new(Counted(1, drops.clone()));
        let reader = publisher.subscribe();
        publisher.publish(Counted(2, drops.clone()));
        assert_eq!(publisher.retired(), 1);
        drop(reader);
        publisher.reclaim();
        assert_eq!((publisher.retired(), drops.load(SeqCst)), (0, 1));
    }

    #[test]
    fn threads_never_see_a_freed_value() {
        struct Checked(u64);
        impl Drop for Checked {
            fn drop(&mut self) {
                self.0 = 0xdead;
            }
        }
        let mut publisher = Publisher::new(Checked(1));
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (mut reader, stop) = (publisher.subscribe(), stop.clone());
                std::thread::spawn(move || {
                    while !stop.load(SeqCst) {
                        assert_eq!(reader.observe().0, 1);
                    }
                })
            })
            .collect();
        for _ in 0..20_000 {
            publisher.publish(Checked(1));
        }
        stop.store(true, SeqCst);
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("no reader saw a freed value"));
        publisher.reclaim();
        assert_eq!(publisher.retired(), 0);
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;

    /// Every interleaving of two publications with a reader's two observations: the value read is never one that was
    /// freed, and is never older than the epoch observed with it.
    #[test]
    fn readers_and_publisher() {
        struct Checked(loom::sync::atomic::AtomicUsize);
        impl Drop for Checked {
            fn drop(&mut self) {
                self.0.store(0, Ordering::SeqCst);
            }
        }
        let value = |n| Checked(loom::sync::atomic::AtomicUsize::new(n));
        loom::model(move || {
            let mut publisher = Publisher::new(value(1));
            let mut reader = publisher.subscribe();
            let thread = loom::thread::spawn(move || {
                for _ in 0..2 {
                    let read = reader.observe().0.load(Ordering::SeqCst);
                    assert!(read >= 1, "a freed value was read");
                    assert!(
                        read as u64 >= reader.epoch(),
                        "an older value than the epoch promises"
                    );
                }
            });
            publisher.publish(value(2));
            publisher.publish(value(3));
            thread.join().unwrap();
            publisher.reclaim();
            assert_eq!(publisher.retired(), 0);
        });
    }
}
