//! Memory of arrays that are gone, for those to come.
//!
//! Prefill makes arrays of tens of megabytes and drops them a moment later. If each came from the system, it
//! would have to clear the pages of each, one fault a page: that was a twelfth of prefill. So large
//! vectors are kept when their array is dropped, and handed out again with whatever is in them. What nobody has
//! taken for a while goes back to the system.

use crate::dot::{Chunk32, Chunk256, ChunkF32, Turned256};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smaller vectors come from the allocator, which keeps such memory itself.
const LEAST_BYTES: usize = 64 << 10;

/// Bytes of one kind of vectors that are kept, at most: room for what a chunk of 2048 tokens makes of the published
/// model, whose queries alone take 256 MiB. It bounds what chunks of changing lengths leave behind.
const MOST_BYTES: usize = 1 << 30;

/// A vector that was passed over so many times is given back: a few passes through a model.
const PATIENCE: u64 = 4096;

/// What vectors are kept of.
pub trait Element: Copy + 'static {
    /// What a vector holds that is new.
    const ZERO: Self;

    /// The vectors of this kind.
    fn kept() -> &'static Mutex<Kept<Self>>;
}

/// Vectors that are not in use.
pub struct Kept<T> {
    /// Each with the time it was given, the oldest first.
    vectors: Vec<(u64, Vec<T>)>,
    /// How often one was asked for.
    time: u64,
}

macro_rules! elements {
    ($($element:ty = $zero:expr),*) => {$(
        impl Element for $element {
            const ZERO: Self = $zero;

            fn kept() -> &'static Mutex<Kept<Self>> {
                static KEPT: Mutex<Kept<$element>> = Mutex::new(Kept::NONE);
                &KEPT
            }
        }
    )*

        /// Bytes of all vectors that are kept.
        pub fn kept_bytes() -> u64 {
            [$(lock::<$element>().bytes()),*].iter().sum::<usize>() as u64
        }
    };
}

elements!(
    f32 = 0.0,
    ChunkF32 = Self::ZERO,
    Chunk32 = Self::ZERO,
    Chunk256 = Self::ZERO,
    Turned256 = Self::ZERO
);

fn lock<T: Element>() -> MutexGuard<'static, Kept<T>> {
    T::kept().lock().unwrap_or_else(PoisonError::into_inner)
}

/// `len` elements with any values, to be overwritten.
pub fn unset<T: Element>(len: usize) -> Vec<T> {
    used(len).unwrap_or_else(|| vec![T::ZERO; len])
}

/// `len` zeros.
pub fn zeros<T: Element>(len: usize) -> Vec<T> {
    match used(len) {
        Some(mut vector) => {
            vector.fill(T::ZERO);
            vector
        }
        None => vec![T::ZERO; len],
    }
}

/// A kept vector of `len` elements, if there is one.
fn used<T: Element>(len: usize) -> Option<Vec<T>> {
    if len * size_of::<T>() < LEAST_BYTES {
        return None;
    }
    let mut vector = lock::<T>().take(len)?;
    vector.resize(len, T::ZERO);
    Some(vector)
}

/// Keeps a vector for the next one who needs such.
pub fn keep<T: Element>(vector: Vec<T>) {
    if vector.capacity() * size_of::<T>() >= LEAST_BYTES {
        lock::<T>().give(vector);
    }
}

impl<T> Kept<T> {
    const NONE: Self = Self { vectors: Vec::new(), time: 0 };

    fn bytes(&self) -> usize {
        self.vectors.iter().map(|(_, vector)| vector.capacity() * size_of::<T>()).sum()
    }

    /// The smallest vector that has room for `len` elements, unless it is much larger than that.
    fn take(&mut self, len: usize) -> Option<Vec<T>> {
        self.time += 1;
        let old = self.vectors.iter().take_while(|(given, _)| given + PATIENCE < self.time).count();
        self.vectors.drain(..old);
        let sizes = self.vectors.iter().map(|(_, vector)| vector.capacity()).enumerate();
        let fits = sizes.filter(|&(_, size)| size >= len && size / 2 <= len);
        let (best, _) = fits.min_by_key(|&(_, size)| size)?;
        Some(self.vectors.remove(best).1)
    }

    fn give(&mut self, vector: Vec<T>) {
        self.vectors.push((self.time, vector));
        let bytes = |vector: &Vec<T>| vector.capacity() * size_of::<T>();
        let mut all = self.bytes();
        while all > MOST_BYTES {
            let (_, oldest) = self.vectors.remove(0);
            all -= bytes(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_goes_to_one_of_about_its_size() {
        let mut kept = Kept::NONE;
        kept.give(vec![3.0f32; 1000]);
        kept.give(vec![5.0f32; 1500]);
        assert_eq!(kept.take(1501), None, "larger than both");
        assert_eq!(kept.take(499), None, "much smaller");
        assert_eq!(kept.take(900), Some(vec![3.0; 1000]), "the smaller one");
        assert_eq!(kept.take(900), Some(vec![5.0; 1500]));
        assert_eq!(kept.take(900), None, "none left");
    }

    #[test]
    fn what_nobody_wants_goes_back_to_the_system() {
        let mut kept = Kept::NONE;
        kept.give(vec![1u8; 1000]);
        for _ in 0..PATIENCE {
            assert_eq!(kept.take(10), None);
        }
        assert_eq!(kept.vectors.len(), 1);
        assert_eq!(kept.take(1000), None, "one too many");
        assert!(kept.vectors.is_empty());
    }

    #[test]
    fn large_vectors_are_zero_when_zeros_are_wanted() {
        for _ in 0..2 {
            let mut vector = zeros::<Chunk256>(LEAST_BYTES);
            assert!(vector.iter().all(|chunk| *chunk == Chunk256::ZERO));
            vector.iter_mut().for_each(|chunk| chunk.scale = 1.0);
            keep(vector);
        }
    }
}
