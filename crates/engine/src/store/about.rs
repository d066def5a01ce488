//! A drawer's label for people: what the model in it is called. A hint, written by whoever opens the store.

use super::shelf::Shelf;
use serde_json::{Value, json};

/// The name of the label in its drawer.
pub(super) const NAME: &str = "about";

/// The longest label, in bytes.
const MOST: u64 = 4096;

/// Writes the label, unless it is there. Nothing depends on it, so nothing is said if it cannot be written.
pub(super) fn write(shelf: &Shelf, drawer: &str, model: &str) {
    let model: String = model.chars().filter(|c| !c.is_control()).take(200).collect();
    if read(shelf, drawer).as_ref() != Some(&model) {
        let _ = shelf.put(drawer, NAME, json!({ "model": model }).to_string().into_bytes());
    }
}

/// What the model is called, if it is known.
pub(super) fn read(shelf: &Shelf, drawer: &str) -> Option<String> {
    let bytes = shelf.get(drawer, NAME, MOST).ok().flatten()?;
    let label: Value = serde_json::from_slice(&bytes).ok()?;
    let model = label.get("model")?.as_str()?;
    (!model.is_empty() && !model.contains(char::is_control)).then(|| model.to_owned())
}
