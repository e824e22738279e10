//! A value that one writer replaces while readers use it.
#![expect(
    unsafe_code,
    reason = "a pointer is swapped under readers that take no lock"
)]

use std::{
    ptr::NonNull,
    sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Acquire},
    },
};

/// Holds the current value; readers borrow it for the price of one load.
#[derive(Debug)]
pub(crate) struct Published<T> {
    current: AtomicPtr<T>,
}

/// A replaced value that readers may still use. Dropping this leaks the value: whoever replaces it
/// must keep it until [`free`](Self::free) is sound.
#[derive(Debug)]
#[must_use = "dropping it leaks the value"]
pub(crate) struct Retired<T>(NonNull<T>);

// JUSTIFICATION: the raw pointer suppresses the automatic implementation.
// SAFETY: `Retired` is the owner of the value (no other owner exists), which may move with `T: Send`;
// readers on other threads need `T: Sync`.
unsafe impl<T: Send + Sync> Send for Retired<T> {}
// JUSTIFICATION: as above.
// SAFETY: `&Retired` gives no access to the value.
unsafe impl<T: Send + Sync> Sync for Retired<T> {}

impl<T: Send + Sync> Published<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            current: AtomicPtr::new(Box::into_raw(Box::new(value))),
        }
    }

    /// The current value. It stays valid as long as the borrow: a value that is replaced meanwhile
    /// goes to [`Retired`], which frees nothing by itself.
    #[inline(always)]
    pub(crate) fn read(&self) -> &T {
        // JUSTIFICATION: a lock or a reference count per lookup would cost more than the lookup.
        // SAFETY: `current` always points to a live box. Once replaced, the box is freed only by
        // `Retired::free`, whose caller promises that no borrow from here is left, or by `drop` of
        // `self`, which cannot run while `self` is borrowed.
        unsafe { &*self.current.load(Acquire) }
    }

    /// Makes `value` current and gives the one it replaces.
    pub(crate) fn replace(&self, value: T) -> Retired<T> {
        let old = self.current.swap(Box::into_raw(Box::new(value)), AcqRel);
        // JUSTIFICATION: avoids a branch on a pointer that cannot be null.
        // SAFETY: `current` never holds null.
        Retired(unsafe { NonNull::new_unchecked(old) })
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // JUSTIFICATION: the counterpart of `Box::into_raw` in `new` and `replace`.
        // SAFETY: `current` points to a box that nobody else owns, and `&mut self` shows that no
        // borrow from `read` is left.
        drop(unsafe { Box::from_raw(*self.current.get_mut()) });
    }
}

impl<T> Retired<T> {
    /// Frees the value.
    ///
    /// # Safety
    /// No borrow that [`Published::read`] gave for this value is left, and none can be made.
    pub(crate) unsafe fn free(self) {
        // JUSTIFICATION: the counterpart of `Box::into_raw` in `Published`.
        // SAFETY: the box was taken out of `Published` by the swap that made `self`, so it is freed
        // once; the caller promises that nobody reads it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
