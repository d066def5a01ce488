//! What travels between operations on the CPU: plain vectors in memory.

/// Rows of f32, or a small vector of the model as one row.
#[derive(Clone, Debug, Default)]
pub struct Array {
    /// `[n, width]`, row-major.
    pub data: Vec<f32>,
    /// Values in a row, all inner axes together.
    pub width: usize,
}

impl Array {
    /// `n` rows of zeros.
    pub fn zeros(n: usize, width: usize) -> Array {
        Array { data: vec![0.0; n * width], width }
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.data.len() / self.width
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..(i + 1) * self.width]
    }

    /// Row `i`, to write to.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.width..(i + 1) * self.width]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.width)
    }
}

/// The compressed rows chosen for each row of a batch, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picks {
    /// One list a row of the batch.
    pub rows: Vec<Vec<u32>>,
}

/// The experts chosen for each row of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// `k` (expert, share) pairs a row, ascending by expert.
    pub chosen: Vec<(u32, f32)>,
    /// k.
    pub used: usize,
}

impl Routes {
    /// The pairs of row `i`.
    pub fn row(&self, i: usize) -> &[(u32, f32)] {
        &self.chosen[i * self.used..(i + 1) * self.used]
    }
}
