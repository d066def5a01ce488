//! A tiny model, and conversations with it.

use cpu::Cpu;
use engine::store::{PageStore, Place, StoreOptions};
use gguf::Gguf;
use model::{Codec, Entry, KvFormat, Model, NoTap, Ops, PageKey, Timeline, Wanted, forward};
use std::path::PathBuf;

pub struct Setup {
    pub ops: Cpu,
    pub model: Model<Cpu>,
    pub kv: KvFormat,
}

impl Setup {
    pub fn new() -> Self {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/mini-mxfp4.gguf");
        let ops = Cpu::new(Some(2));
        let mut model = model::load(&ops, &Gguf::open(&file).unwrap()).unwrap();
        model.config.context = 1 << 14; // its answers make no sense at any length
        Setup { ops, model, kv: KvFormat::F32 }
    }

    pub fn in_f16() -> Self {
        Setup { kv: KvFormat::F16, ..Setup::new() }
    }

    pub fn codec(&self) -> Codec {
        Codec::new(&self.model.config, self.kv, self.model.fingerprint)
    }

    pub fn open(&self, place: &Place) -> PageStore {
        PageStore::open(place, self.codec(), StoreOptions::default()).unwrap()
    }

    /// A conversation that has read these tokens.
    pub fn read(&self, tokens: &[u32]) -> Timeline<Cpu> {
        let mut timeline = Timeline::new(&self.ops, &self.model.config, self.kv);
        self.feed(&mut timeline, tokens);
        timeline
    }

    /// Reads some more.
    pub fn go_on(&self, timeline: &mut Timeline<Cpu>, tokens: &[u32]) {
        self.feed(timeline, tokens);
    }

    fn feed(&self, timeline: &mut Timeline<Cpu>, tokens: &[u32]) -> Vec<u32> {
        let mut rest = tokens;
        let mut logits = Vec::new();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(256));
            let wanted = if later.is_empty() { Wanted::Last } else { Wanted::None };
            let mut batch = [Entry { timeline, tokens: now, wanted }];
            let output = forward(&self.model, &self.ops, &mut batch, &mut NoTap).unwrap();
            if let Some(last) = output.logits {
                logits = self.ops.read(&last).unwrap().into_iter().map(f32::to_bits).collect();
            }
            rest = later;
        }
        logits
    }

    /// Bits of the logits after some more tokens.
    pub fn next(&self, mut timeline: Timeline<Cpu>) -> Vec<u32> {
        self.feed(&mut timeline, &[17, 4, 99])
    }

    pub fn loads(&self, store: &PageStore, key: &PageKey) -> bool {
        store.load(&self.ops, key).is_some()
    }

    /// Whether one page or tail can be read.
    pub fn reads(&self, store: &PageStore, key: &PageKey) -> bool {
        store.load_page(&self.ops, key).is_some() || store.load_tail(&self.ops, key).is_some()
    }

    pub fn misses(&self, store: &PageStore, key: &PageKey) -> bool {
        !self.loads(store, key)
    }
}

/// A prompt of any length; a longer one begins with a shorter one.
pub fn prompt(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i + 7 * i + i / 64) % 500 + 3).collect()
}
