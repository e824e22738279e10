//! Zero-initialised arrays for tables: cache-line aligned, on huge pages where they are large.
#![expect(
    unsafe_code,
    reason = "memory comes from mmap, so that it is lazy, zeroed and on huge pages"
)]

use std::{
    io,
    marker::PhantomData,
    mem::{align_of, size_of},
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicU64},
};

use memmap2::{Advice, MmapMut, MmapOptions};

/// Which pages back a large table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Transparent huge pages: nothing has to be reserved, memory is taken as it is touched.
    #[default]
    Transparent,
    /// 2 MiB pages from the system's reserve (`vm.nr_hugepages`), all of them claimed at creation;
    /// falls back to [`HugePages::Transparent`] when the reserve is too small.
    Reserved,
}

const HUGE_PAGE: usize = 2 << 20;

/// Size from which an array that every packet touches has a huge page to itself.
const LEAST_HOT: usize = 128 << 10;

/// A fixed number of `T`, all bytes zero at first. Memory is committed when it is first touched.
#[derive(Debug)]
pub(crate) struct Array<T> {
    start: NonNull<T>,
    len: usize,
    pages: HugePages,
    /// Owns the memory behind `start`; `None` for an empty array.
    _mapping: Option<MmapMut>,
    _items: PhantomData<T>,
}

/// Types for which all-zero bytes are a value and which need no drop.
///
/// # Safety
/// Both must hold, and the alignment must be at most 64.
pub(crate) unsafe trait Zeroed {}

// JUSTIFICATION: the compiler has no stable trait that says "zero bytes are a value".
// SAFETY: integers and atomics of any bit pattern are values; none has a destructor.
unsafe impl Zeroed for AtomicU32 {}
// JUSTIFICATION: as above.
// SAFETY: as above.
unsafe impl Zeroed for AtomicU64 {}
// JUSTIFICATION: as above.
// SAFETY: as above.
unsafe impl Zeroed for u32 {}

// JUSTIFICATION: the raw pointer suppresses the automatic implementations.
// SAFETY: `Array` owns its memory as `Box<[T]>` would; access goes through `&self` and `&mut self`.
unsafe impl<T: Send> Send for Array<T> {}
// JUSTIFICATION: as above.
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Array<T> {}

impl<T: Zeroed> Array<T> {
    /// `len` zeroed items.
    ///
    /// # Errors
    /// The system refuses the memory.
    pub(crate) fn new(len: usize, pages: HugePages) -> io::Result<Self> {
        Self::with_least(len, pages, HUGE_PAGE)
    }

    /// As [`new`](Self::new), for what every packet touches: on a huge page from 128 KiB on, so that addresses are translated once.
    pub(crate) fn new_hot(len: usize, pages: HugePages) -> io::Result<Self> {
        Self::with_least(len, pages, LEAST_HOT)
    }

    /// With huge pages from `least_huge` bytes on.
    fn with_least(len: usize, pages: HugePages, least_huge: usize) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 64 && size_of::<T>() != 0) }
        if len == 0 {
            let start = NonNull::dangling();
            return Ok(Self {
                start,
                len,
                pages,
                _mapping: None,
                _items: PhantomData,
            });
        }
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let (mut mapping, offset, pages) = map(bytes, pages, least_huge)?;
        // JUSTIFICATION: a mapping is bytes; the table wants aligned items without copying them.
        // SAFETY: `map` guarantees `offset + bytes` within the mapping.
        let start = unsafe { mapping.as_mut_ptr().add(offset) };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            start,
            len,
            pages,
            _mapping: Some(mapping),
            _items: PhantomData,
        })
    }
}

impl<T> Array<T> {
    /// The pages in use, after a possible fallback.
    pub(crate) fn pages(&self) -> HugePages {
        self.pages
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // JUSTIFICATION: the view of the mapping as items.
        // SAFETY: `start` is aligned (page, or 2 MiB, or dangling for none) and valid for `len` items
        // as long as `self` lives; zero bytes are a value of `T` (`Zeroed`, required by `new`).
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // JUSTIFICATION: as in `deref`.
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Maps at least `bytes`, on huge pages from `least_huge` on; gives the mapping, the offset of the usable part and the pages obtained.
fn map(
    bytes: usize,
    pages: HugePages,
    least_huge: usize,
) -> io::Result<(MmapMut, usize, HugePages)> {
    let whole = bytes
        .checked_next_multiple_of(HUGE_PAGE)
        .ok_or(io::ErrorKind::OutOfMemory)?;
    if pages == HugePages::Reserved {
        // Without MAP_NORESERVE the pages are set aside here: a later touch cannot fail.
        if let Ok(mapping) = MmapOptions::new().len(whole).huge(Some(21)).map_anon() {
            return Ok((mapping, 0, HugePages::Reserved));
        }
    }
    if bytes < least_huge {
        return Ok((
            MmapOptions::new().len(bytes).map_anon()?,
            0,
            HugePages::Transparent,
        ));
    }
    // One page more than needed, so that the usable part can begin on a huge-page boundary.
    let room = whole
        .checked_add(HUGE_PAGE)
        .ok_or(io::ErrorKind::OutOfMemory)?;
    let mapping = MmapOptions::new().len(room).no_reserve_swap().map_anon()?;
    let offset = mapping.as_ptr().align_offset(HUGE_PAGE);
    // Best effort: a kernel without transparent huge pages still serves the table.
    let _ = mapping.advise(Advice::HugePage);
    Ok((mapping, offset.min(HUGE_PAGE), HugePages::Transparent))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn arrays_are_zeroed_aligned_and_writable() {
        for len in [0, 1, 1000, 1 << 20] {
            for pages in [HugePages::Transparent, HugePages::Reserved] {
                let mut array = Array::<AtomicU32>::new(len, pages).unwrap();
                assert_eq!(array.len(), len);
                assert_eq!(
                    array
                        .iter()
                        .map(|word| word.load(Relaxed))
                        .max()
                        .unwrap_or(0),
                    0
                );
                for (i, word) in array.iter_mut().enumerate() {
                    *word.get_mut() = i as u32;
                }
                assert!(
                    array
                        .iter()
                        .enumerate()
                        .all(|(i, word)| word.load(Relaxed) == i as u32)
                );
                assert!(len == 0 || array.as_ptr().align_offset(64) == 0);
            }
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(Array::<AtomicU64>::new(usize::MAX / 2, HugePages::Transparent).is_err());
        assert!(Array::<AtomicU32>::new(usize::MAX / 8, HugePages::Reserved).is_err());
    }
}
