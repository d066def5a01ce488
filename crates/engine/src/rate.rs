//! How fast something has been going lately.

use std::time::Duration;

/// A rate of the last few dozen steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    count: f64,
    seconds: f64,
}

impl Rate {
    pub(crate) fn add(&mut self, count: usize, time: Duration) {
        const FADE: f64 = 0.95;
        self.count = self.count * FADE + count as f64;
        self.seconds = self.seconds * FADE + time.as_secs_f64();
    }

    /// 0 if nothing is known.
    pub(crate) fn per_second(self) -> f64 {
        if self.seconds > 0.0 { self.count / self.seconds } else { 0.0 }
    }
}
