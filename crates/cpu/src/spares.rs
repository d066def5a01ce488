//! Buffers that outlive the operation they serve, so that a step finds them where the last one left them.

use std::sync::Mutex;

/// Buffers of one kind: as many as were ever in use at the same time.
#[derive(Debug, Default)]
pub struct Spares<T>(Mutex<Vec<T>>);

impl<T: Default> Spares<T> {
    /// Lends a buffer, with whatever its last user left in it.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let spare = self.spares().pop();
        let mut buffer = spare.unwrap_or_default();
        let result = work(&mut buffer);
        self.spares().push(buffer);
        result
    }

    fn spares(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The first `len` elements of a buffer that grows to hold them.
pub fn room<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}
