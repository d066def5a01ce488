//! What `ds4 store` answers: tables for people, JSON for programs.

use crate::units::{ago, size};
use engine::store::offline::{Drawer, FaultKind, Object, Verified};
use serde_json::{Value, json};
use std::io::Write;
use std::time::SystemTime;

/// Digits of a key or fingerprint that people are shown.
const SHORT: usize = 12;

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn model(drawer: &Drawer) -> String {
    drawer.model.clone().unwrap_or_else(|| "(a model without a name)".into())
}

fn fingerprint(drawer: &Drawer) -> Option<String> {
    drawer.fingerprint.map(|print| hex(&print))
}

fn short_fingerprint(drawer: &Drawer) -> String {
    fingerprint(drawer).map_or_else(|| "-".into(), |print| print[..SHORT].to_owned())
}

fn format(drawer: &Drawer) -> &'static str {
    drawer.format.map_or("-", |format| format.name())
}

fn print_json(value: &Value, out: &mut dyn Write) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(writeln!(out)?)
}

/// Where conversations can be taken up.
pub fn conversations(
    drawers: &[Drawer],
    all: bool,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let places = |drawer: &Drawer| {
        let mut places = drawer.conversations();
        places.retain(|place| all || !place.is_inner);
        places
    };
    if as_json {
        let drawers = drawers.iter().map(|drawer| {
            let places = places(drawer).into_iter().map(|place| {
                json!({
                    "key": place.key.to_string(),
                    "tokens": place.tokens,
                    "bytes": place.bytes,
                    "own_bytes": place.own,
                    "used_unix_ms": place.used,
                    "inner": place.is_inner,
                })
            });
            json!({
                "model": drawer.model,
                "fingerprint": fingerprint(drawer),
                "kv": drawer.format.map(|format| format.name()),
                "places": places.collect::<Vec<_>>(),
            })
        });
        return print_json(&drawers.collect(), out);
    }
    let now = SystemTime::now();
    for (nth, drawer) in drawers.iter().enumerate() {
        if nth > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}, {}, KV {}", model(drawer), short_fingerprint(drawer), format(drawer))?;
        writeln!(
            out,
            "  {:<SHORT$}  {:>9}  {:>10}  {:>10}  last used",
            "end", "tokens", "in all", "its own"
        )?;
        for place in places(drawer) {
            let key = place.key.to_string();
            let (all, own) = (size(place.bytes), size(place.own));
            let used = ago(place.used, now);
            writeln!(out, "  {}  {:>9}  {all:>10}  {own:>10}  {used}", &key[..SHORT], place.tokens)?;
        }
    }
    if drawers.is_empty() {
        writeln!(out, "the page store is empty")?;
    }
    Ok(())
}

/// How much there is.
pub fn sizes(place: &str, drawers: &[Drawer], as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let total: u64 = drawers.iter().map(|drawer| drawer.bytes).sum();
    if as_json {
        let drawers = drawers.iter().map(|drawer| {
            let (pages, tails, bytes) = drawer.counts();
            json!({
                "model": drawer.model,
                "fingerprint": fingerprint(drawer),
                "kv": drawer.format.map(|format| format.name()),
                "folder": drawer.name,
                "pages": pages,
                "tails": tails,
                "bytes": bytes,
                "places": drawer.conversations().iter().filter(|place| !place.is_inner).count(),
                "used_unix_ms": drawer.conversations().first().map(|place| place.used),
                "faults": drawer.faults.len(),
            })
        });
        let drawers: Vec<_> = drawers.collect();
        return print_json(&json!({ "store": place, "bytes": total, "models": drawers }), out);
    }
    writeln!(out, "{place}: {}", size(total))?;
    if drawers.is_empty() {
        return Ok(());
    }
    let models: Vec<_> = drawers.iter().map(model).collect();
    let width = models.iter().map(|model| model.chars().count()).max().unwrap_or(0).max("model".len());
    writeln!(
        out,
        "{:<width$}  {:<SHORT$}  {:<4}  {:>7}  {:>7}  {:>10}  {:>13}  last used",
        "model", "fingerprint", "KV", "pages", "tails", "size", "conversations"
    )?;
    for (drawer, model) in drawers.iter().zip(models) {
        let ((pages, tails, bytes), places) = (drawer.counts(), drawer.conversations());
        let used = places.first().map_or_else(|| "-".into(), |place| ago(place.used, SystemTime::now()));
        let ends = places.iter().filter(|place| !place.is_inner).count();
        let (print, kv, bytes) = (short_fingerprint(drawer), format(drawer), size(bytes));
        writeln!(
            out,
            "{model:<width$}  {print}  {kv:<4}  {pages:>7}  {tails:>7}  {bytes:>10}  {ends:>13}  {used}"
        )?;
    }
    let faults: usize = drawers.iter().map(|drawer| drawer.faults.len()).sum();
    if faults > 0 {
        writeln!(out, "{faults} files are not what they should be; `ds4 store verify` names them")?;
    }
    Ok(())
}

fn kind(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Damaged => "damaged",
        FaultKind::Unreachable => "unreachable",
        FaultKind::Unreadable => "unreadable",
        FaultKind::Stray => "stray",
    }
}

/// What a thorough look has found.
pub fn verified(verified: &Verified, as_json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if as_json {
        let faults = verified.faults.iter().map(|fault| {
            json!({
                "file": format!("{}/{}", fault.object.drawer, fault.object.name),
                "kind": kind(fault.kind),
                "why": fault.why,
            })
        });
        let faults: Vec<_> = faults.collect();
        let value = json!({ "files": verified.objects, "bytes": verified.bytes, "faults": faults });
        return print_json(&value, out);
    }
    for fault in &verified.faults {
        let (kind, object) = (kind(fault.kind), &fault.object);
        writeln!(out, "{kind}: {}/{}: {}", object.drawer, object.name, fault.why)?;
    }
    Ok(writeln!(out, "{} files, {}, read and checked", verified.objects, size(verified.bytes))?)
}

/// What was removed, or would be.
pub fn removed(
    objects: &[Object],
    (count, bytes): (u64, u64),
    dry_run: bool,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let path = |object: &Object| format!("{}/{}", object.drawer, object.name);
    if as_json {
        let files: Vec<_> = objects.iter().map(path).collect();
        let value = json!({ "dry_run": dry_run, "removed": count, "bytes": bytes, "files": files });
        return print_json(&value, out);
    }
    if dry_run {
        for object in objects {
            writeln!(out, "would remove {}, {}", path(object), size(object.bytes))?;
        }
    }
    let did = if dry_run { "would be removed" } else { "removed" };
    Ok(writeln!(out, "{count} files, {}, {did}", size(bytes))?)
}
