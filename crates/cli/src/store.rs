//! `ds4 store`: the page store from outside.
//!
//! No model is needed, and a server may use the store meanwhile. What is shown is in [`show`].

mod show;

pub use show::hex;

use crate::folders;
use crate::units::{parse_age, parse_size};
use anyhow::{Context, bail, ensure};
use engine::store::Place;
use engine::store::offline::{Drawer, FaultKind, Keep, Object, Offline, plan};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Look at what conversations have left on disk, check it, or make it smaller.
///
/// A page store holds what models have read, so that it need not be read again: `ds4 serve --store` and `ds4 run
/// --session` fill it. All of it could be computed again; removing it costs time, and nothing else. Servers may use
/// the store meanwhile.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Store {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(clap::Subcommand)]
enum Chore {
    Ls(Ls),
    Stat(Stat),
    Verify(Verify),
    Prune(Prune),
}

/// Where the store is, and how to tell about it.
#[derive(clap::Args)]
struct Which {
    /// The store: a folder, or s3://BUCKET/PREFIX if this program was built for buckets. Default: the one of
    /// `ds4 run --session`
    store: Option<String>,
    /// Answer with JSON
    #[arg(long)]
    json: bool,
}

/// List the places where conversations can be taken up, those used last first.
#[derive(clap::Args)]
struct Ls {
    #[command(flatten)]
    which: Which,
    /// Also those that others go on behind
    #[arg(long)]
    all: bool,
}

/// Show how much there is, by model and KV format.
#[derive(clap::Args)]
struct Stat {
    #[command(flatten)]
    which: Which,
}

/// Read all of it, and check every checksum and every chain of pages. Exit status 1 if something is damaged.
#[derive(clap::Args)]
struct Verify {
    #[command(flatten)]
    which: Which,
}

/// Remove what is old, worth little, damaged, or of a model.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
struct Prune {
    #[command(flatten)]
    which: Which,
    /// Keep at most so much, like 20G or 500M; without a letter in MiB. What saves the fewest tokens for its bytes
    /// goes first, the longer unused the sooner
    #[arg(long, value_name = "SIZE", value_parser = parse_size, group = "what")]
    max_size: Option<u64>,
    /// Remove what was not used for so long, like 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = parse_age, group = "what")]
    unused_for: Option<Duration>,
    /// Remove what `ds4 store verify` complains about
    #[arg(long, group = "what")]
    damaged: bool,
    /// Remove everything
    #[arg(long, group = "what")]
    all: bool,
    /// Only of this model: a part of its name, or the first digits of its fingerprint, as `ds4 store stat` shows them
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Examples:
  ds4 store stat
  ds4 store verify ~/.cache/ds4/store
  ds4 store prune --max-size 20G --unused-for 30d --dry-run
  ds4 store prune --all --model old-model";

impl Store {
    /// Does what was asked for.
    ///
    /// # Errors
    ///
    /// If there is no store, or it is damaged.
    pub fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        match &self.chore {
            Chore::Ls(ls) => show::conversations(&ls.which.drawers()?.1, ls.all, ls.which.json, out),
            Chore::Stat(stat) => {
                let (_, drawers, place) = stat.which.open()?;
                show::sizes(&place, &drawers, stat.which.json, out)
            }
            Chore::Verify(verify) => verify.run(out),
            Chore::Prune(prune) => prune.run(out),
        }
    }
}

impl Which {
    fn drawers(&self) -> anyhow::Result<(Offline, Vec<Drawer>)> {
        let (offline, drawers, _) = self.open()?;
        Ok((offline, drawers))
    }

    /// The store and what is in it. A place that has other things and none of ours is more likely a mistake than an
    /// empty store.
    fn open(&self) -> anyhow::Result<(Offline, Vec<Drawer>, String)> {
        let (offline, address) = self.offline()?;
        let drawers = offline.drawers().with_context(|| format!("looking at the page store {address}"))?;
        Ok((offline, drawers, address))
    }

    fn offline(&self) -> anyhow::Result<(Offline, String)> {
        let address = match &self.store {
            Some(address) => address.clone(),
            None => {
                let usual =
                    folders::store().context("there is no home folder to look for a page store in")?;
                usual.to_str().context("the path of the page store is not UTF-8: name it")?.to_owned()
            }
        };
        let place = Place::parse(&address)?;
        if let Place::Folder(path) = &place {
            check_folder(path)?;
        }
        let offline = Offline::open(&place).with_context(|| format!("opening the page store {address}"))?;
        if let Place::Folder(path) = &place
            && offline.names().with_context(|| format!("looking at {address}"))?.is_empty()
            && std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        {
            bail!("{address} is not a page store: nothing in it looks like one");
        }
        Ok((offline, address))
    }
}

fn check_folder(path: &Path) -> anyhow::Result<()> {
    let kind = path.metadata().with_context(|| format!("there is no page store at {}", path.display()))?;
    ensure!(kind.is_dir(), "{} is a file, and a page store is a folder", path.display());
    Ok(())
}

impl Verify {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let (offline, address) = self.which.offline()?;
        let verified = verify(&offline).with_context(|| format!("checking the page store {address}"))?;
        show::verified(&verified, self.which.json, out)?;
        out.flush()?;
        let bad = verified.faults.iter().filter(|fault| fault.kind != FaultKind::Stray).count();
        ensure!(
            bad == 0,
            "{bad} of {} files cannot be used; they cost time and nothing else, and `ds4 store prune --damaged` \
             removes them",
            verified.objects
        );
        Ok(())
    }
}

/// Reads everything, with a bar on a terminal.
fn verify(offline: &Offline) -> anyhow::Result<engine::store::offline::Verified> {
    let total = offline.drawers()?.iter().map(|drawer| drawer.bytes).sum();
    let style = ProgressStyle::with_template("checking {wide_bar} {bytes} of {total_bytes}");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
        .with_style(style.expect("a template of ours"));
    let verified = offline.verify(&mut |bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    Ok(verified)
}

impl Prune {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let (offline, mut drawers) = self.which.drawers()?;
        if let Some(wanted) = &self.model {
            drawers.retain(|drawer| is_of(drawer, wanted));
            ensure!(
                !drawers.is_empty(),
                "nothing in the page store is of model {wanted:?}; `ds4 store stat` lists them"
            );
            let models: HashSet<_> = drawers.iter().map(|drawer| drawer.fingerprint).collect();
            ensure!(
                models.len() == 1,
                "{} models are meant by {wanted:?}; say more of the name, or the fingerprint",
                models.len()
            );
        }
        let mut goes = Vec::new();
        if self.damaged || self.all {
            goes.extend(faulty(&offline, &drawers, self.damaged)?);
        }
        let since = self.unused_for.map(|age| {
            let then = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
            then.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
        });
        let keep = Keep { bytes: if self.all { Some(0) } else { self.max_size }, since };
        let known: HashSet<Object> = goes.iter().cloned().collect();
        goes.extend(plan(&drawers, keep).into_iter().filter(|object| !known.contains(object)));
        let bytes = goes.iter().map(|object| object.bytes).sum();
        let (objects, bytes) = match self.dry_run {
            true => (goes.len() as u64, bytes),
            false => offline.remove(&mut drawers, &goes).context("removing")?,
        };
        show::removed(&goes, (objects, bytes), self.dry_run, self.which.json, out)
    }
}

/// What cannot be used: as far as the beginnings of files show, or, looking thoroughly, all of it.
fn faulty(offline: &Offline, drawers: &[Drawer], thoroughly: bool) -> anyhow::Result<Vec<Object>> {
    let faults = match thoroughly {
        true => verify(offline)?.faults,
        false => drawers.iter().flat_map(|drawer| drawer.faults.clone()).collect(),
    };
    let ours = |object: &Object| drawers.iter().any(|drawer| drawer.name == object.drawer);
    let useless = |kind| matches!(kind, FaultKind::Damaged | FaultKind::Unreachable);
    Ok(faults.into_iter().filter(|f| useless(f.kind) && ours(&f.object)).map(|fault| fault.object).collect())
}

fn is_of(drawer: &Drawer, wanted: &str) -> bool {
    let named = drawer.model.as_ref().is_some_and(|model| model.contains(wanted));
    named || drawer.fingerprint.is_some_and(|print| show::hex(&print).starts_with(wanted))
}
