//! Starting an engine, and looking after it: what it said, how long it took, what memory it had, and whether
//! the machine was its own meanwhile.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An engine that can be measured.
pub struct Engine {
    /// In the table.
    pub name: &'static str,
    /// The program.
    pub bench: PathBuf,
}

/// All numbers so far, by recipe, engine and measure.
pub struct Samples {
    path: PathBuf,
    values: Value,
}

impl Samples {
    /// Those in a file, or none.
    pub fn open(path: &Path) -> Result<Samples> {
        let values = match path.exists() {
            true => serde_json::from_str(&fs::read_to_string(path)?)
                .with_context(|| format!("reading {}", path.display()))?,
            false => json!({}),
        };
        Ok(Samples { path: path.to_owned(), values })
    }

    /// Adds one.
    pub fn add(&mut self, recipe: &str, engine: &str, measure: &str, value: f64) {
        let list = &mut self.values[recipe][engine][measure];
        match list {
            Value::Array(list) => list.push(json!(value)),
            _ => *list = json!([value]),
        }
    }

    /// The middle one of those of a measure.
    pub fn median(&self, recipe: &str, engine: &str, measure: &str) -> Option<f64> {
        let list = self.values.get(recipe)?.get(engine)?.get(measure)?.as_array()?;
        let mut list: Vec<f64> = list.iter().filter_map(Value::as_f64).collect();
        list.sort_by(f64::total_cmp);
        let half = list.len() / 2;
        match list.len() {
            0 => None,
            n if n % 2 == 1 => Some(list[half]),
            _ => Some((list[half - 1] + list[half]) / 2.0),
        }
    }

    /// Writes the file.
    pub fn save(&self) -> Result<()> {
        fs::write(&self.path, serde_json::to_string_pretty(&self.values)?)
            .with_context(|| format!("writing {}", self.path.display()))
    }
}

/// Runs a program to its end. What it printed, and the share of the processors that others took meanwhile.
pub fn output(mut program: Command) -> Result<(String, f64)> {
    let (start, before) = (Instant::now(), Ticks::now());
    let output = program.stderr(Stdio::piped()).output().with_context(|| format!("starting {program:?}"))?;
    let others = before.others_since(start);
    if !output.status.success() {
        bail!("{program:?} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), others))
}

/// Seconds that a program takes from start to end.
pub fn wall(program: Command) -> Result<f64> {
    let start = Instant::now();
    output(program)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Speeds by the names of their tests, and what ds4 says of the machine's limits.
pub fn speeds(engine: &Engine, said: &str) -> Result<Vec<(String, f64)>> {
    let said: Value = serde_json::from_str(said)?;
    let tests = said.get("results").unwrap_or(&said).as_array().context("a list of results")?;
    let mut found = Vec::new();
    for test in tests {
        let size = |key| test[key].as_u64().with_context(|| format!("{key} of {test}"));
        let (prompt, generated, depth) = (size("n_prompt")?, size("n_gen")?, size("n_depth")?);
        let mut name = if prompt > 0 { format!("pp{prompt}") } else { format!("tg{generated}") };
        if depth > 0 {
            name += &format!("@d{depth}");
        }
        let speed = test[if engine.name == "ds4" { "tps" } else { "avg_ts" }].as_f64();
        for share in ["of_bandwidth", "of_int8"] {
            if let Some(value) = test[share].as_f64() {
                found.push((format!("{name} {share}"), value));
            }
        }
        found.push((name, speed.with_context(|| format!("a speed in {test}"))?));
    }
    ensure!(!found.is_empty(), "no results");
    Ok(found)
}

/// GB/s that `ds4 bench --machine --json` read: the middle of what it measured.
pub fn bandwidth(said: &str) -> Result<f64> {
    let said: Value = serde_json::from_str(said)?;
    said["limits"]["read_gb_s"]["median"].as_f64().context("limits.read_gb_s.median")
}

/// Peak of a program's memory that no file backs, in bytes, sampled all the time; stopped after `limit` seconds.
pub fn peak_memory(mut program: Command, limit: Option<f64>) -> Result<f64> {
    let start = Instant::now();
    let mut child = program
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {program:?}"))?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak: u64 = 0;
    loop {
        if let Some(end) = child.try_wait()? {
            ensure!(end.success(), "{program:?} failed: {end}");
            break;
        }
        peak = peak.max(anonymous(&fs::read_to_string(&status).unwrap_or_default()));
        if limit.is_some_and(|limit| start.elapsed().as_secs_f64() > limit) {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    ensure!(peak > 0, "the system does not tell how much memory {program:?} has");
    Ok(peak as f64)
}

/// `RssAnon` and `RssShmem` of `/proc/PID/status`, in bytes.
fn anonymous(status: &str) -> u64 {
    let field = |name: &str| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    (field("RssAnon:").unwrap_or(0) + field("RssShmem:").unwrap_or(0)) * 1024
}

/// Another process that keeps a core busy until this is dropped.
pub struct Spinner(Child);

impl Spinner {
    /// Starts it.
    pub fn start() -> Result<Spinner> {
        let program = std::env::current_exe()?;
        Ok(Spinner(Command::new(program).arg("spin").spawn().context("starting the process that spins")?))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Share of the processors that others take now.
pub fn others_now() -> f64 {
    let (start, before) = (Instant::now(), Ticks::now());
    std::thread::sleep(Duration::from_secs(1));
    before.others_since(start)
}

/// Busy time of all processors, and of this process with the children it has waited for, in ticks.
struct Ticks {
    all: u64,
    own: u64,
}

impl Ticks {
    fn now() -> Ticks {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Ticks { all: all_ticks(&read("/proc/stat")), own: own_ticks(&read("/proc/self/stat")) }
    }

    /// Share of the processors that was neither idle nor ours, 0 to 1; 0 where the system does not tell.
    fn others_since(&self, start: Instant) -> f64 {
        let now = Ticks::now();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let processor = |line: &&str| {
            line.strip_prefix("cpu").is_some_and(|l| l.starts_with(|c: char| c.is_ascii_digit()))
        };
        let processors = stat.lines().filter(processor).count().max(1) as f64;
        // A tick is 10 ms on every Linux that we know of.
        let others = now.all.saturating_sub(self.all).saturating_sub(now.own - self.own) as f64 / 100.0;
        others / start.elapsed().as_secs_f64() / processors
    }
}

/// First line of `/proc/stat`: user nice system idle iowait irq softirq steal. Source: proc_stat(5).
fn all_ticks(stat: &str) -> u64 {
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let numbers: Vec<u64> = line.split_whitespace().map_while(|n| n.parse().ok()).collect();
    [0, 1, 2, 5, 6, 7].into_iter().filter_map(|i| numbers.get(i)).sum()
}

/// utime, stime, cutime and cstime of `/proc/self/stat`: fields 14 to 17. Source: proc_pid_stat(5).
fn own_ticks(stat: &str) -> u64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_results_are_read() {
        let engine = |name| Engine { name, bench: PathBuf::new() };
        let llama = r#"[{"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 51.5},
                        {"n_prompt": 0, "n_gen": 32, "n_depth": 16384, "avg_ts": 12.0}]"#;
        let want = [("pp512".to_owned(), 51.5), ("tg32@d16384".to_owned(), 12.0)];
        assert_eq!(speeds(&engine("llama"), llama).unwrap(), want);
        let ds4 =
            r#"{"results": [{"n_prompt": 0, "n_gen": 32, "n_depth": 0, "tps": 19.0, "of_bandwidth": 0.9}]}"#;
        let want = [("tg32 of_bandwidth".to_owned(), 0.9), ("tg32".to_owned(), 19.0)];
        assert_eq!(speeds(&engine("ds4"), ds4).unwrap(), want);
        assert!(speeds(&engine("ds4"), "[]").is_err());
        assert_eq!(bandwidth(r#"{"limits": {"read_gb_s": {"median": 31.5}}}"#).unwrap(), 31.5);
        assert!(bandwidth("{}").is_err());
    }

    #[test]
    fn the_system_s_numbers_are_read_as_the_manual_says() {
        assert_eq!(all_ticks("cpu  10 2 30 4000 50 6 7 8 9 0\ncpu0 1\n"), 10 + 2 + 30 + 6 + 7 + 8);
        assert_eq!(own_ticks("12 (a b) c) R 1 2 3 4 5 6 7 8 9 10 100 20 3 4 0 20"), 127);
        assert_eq!(anonymous("VmRSS:  9 kB\nRssAnon:\t   12 kB\nRssFile: 7 kB\nRssShmem: 1 kB\n"), 13 * 1024);
    }
}
