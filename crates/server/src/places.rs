//! How many requests each key has at work: one client does not take all the places.

use crate::error::{ApiError, Fault};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests at work, by key.
#[derive(Clone, Default)]
pub struct Places {
    limit: usize,
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

/// A request at work. Dropping it frees the place.
pub struct Place {
    places: Places,
    scope: String,
}

impl Places {
    /// At most `limit` of each key; 0 for any number.
    pub fn new(limit: usize) -> Places {
        Places { limit, taken: Arc::default() }
    }

    /// One more request of this key.
    ///
    /// - `wait`: when one of so many will probably have ended
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub fn take(&self, scope: &str, wait: impl FnOnce(usize) -> Duration) -> Result<Place, ApiError> {
        if self.limit > 0 {
            let mut taken = self.lock();
            let count = taken.entry(scope.to_owned()).or_default();
            if *count >= self.limit {
                let wait = wait(*count);
                let message = format!(
                    "this key has {count} requests at work, as many as it may; please try again in {}s",
                    wait.as_secs().max(1)
                );
                return Err(ApiError::new(Fault::Busy, message).retry_after(wait));
            }
            *count += 1;
        }
        Ok(Place { places: self.clone(), scope: scope.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(count) = taken.get_mut(&self.scope) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.scope);
            }
        }
    }
}
