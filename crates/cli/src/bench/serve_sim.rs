//! `ds4 bench --serve-sim`: the engine in service, without HTTP.
//!
//! Four questions: what do many sessions get at once, compared with one after another; how long does a newcomer
//! wait while somebody else's long prompt is read; what has to be read again after a restart, with a page store
//! and without; and how much of what agents send is known already
//! ([`traces`]), compared with a server that has one slot and keeps what its last request has in common with the
//! next. Tokens are arbitrary but always the same; replies are greedy and go on to their full length.

mod traces;

use crate::drafts_arg::DraftsArg;
use engine::store::{PageStore, Place, StoreOptions};
use engine::{
    Drafts, Engine, EngineOptions, Event, Form, Job, JobEvent, JobPrompt, LoadedModel, Priority, Reply,
    Request, Sampling, Ticket,
};
use model::{Codec, KvFormat, Ops};
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use text::Marker;
use traces::Trace;

/// What to simulate.
#[derive(clap::Args)]
pub struct ServeSimArgs {
    /// Simulate a server instead: many sessions at once, a newcomer beside a long prompt, and what agents send.
    /// Each session has the first length of -p as prompt and the first of -n as reply
    #[arg(long)]
    pub serve_sim: bool,
    /// Sessions at once
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,4,16", requires = "serve_sim")]
    sessions: Vec<usize>,
    /// Tokens of the long prompt that a newcomer meets; 0 leaves it out
    #[arg(long, value_name = "N", default_value = "8192", requires = "serve_sim")]
    long: usize,
    /// Leave out what agents send
    #[arg(long, requires = "serve_sim")]
    no_traces: bool,
    #[command(flatten)]
    pub drafts: DraftsArg,
}

impl ServeSimArgs {
    /// Whether anything was asked for that only a simulation does.
    pub fn is_in_vain(&self) -> bool {
        !self.serve_sim && self.drafts.is_given()
    }
}

/// What came out.
#[derive(Serialize)]
struct Report {
    model: String,
    kv: &'static str,
    prompt: usize,
    reply: usize,
    sessions: Vec<Sessions>,
    newcomer: Option<Newcomer>,
    restart: Option<Restart>,
    traces: Vec<Hits>,
}

/// Some sessions, at once and one after another. Rates in tokens a second, times in seconds.
#[derive(Serialize)]
struct Sessions {
    sessions: usize,
    together: Served,
    in_turn: Served,
}

#[derive(Serialize)]
struct Served {
    /// All tokens written, by the time from the first request to the last reply.
    aggregate: f64,
    /// Tokens that a session writes in a second once it has begun, on average.
    each: f64,
    /// Until the first token, on average and at most; all were submitted at the start.
    first_mean: f64,
    first_most: f64,
    wall: f64,
}

/// A newcomer with a short prompt, while a long one is read and somebody else writes. In seconds.
#[derive(Serialize)]
struct Newcomer {
    long: usize,
    short: usize,
    /// Until its first token: beside the long prompt, after it, and alone.
    beside: f64,
    after: f64,
    alone: f64,
    /// The longest that the one who writes had to wait for a token meanwhile, and as a median.
    longest_gap: f64,
    median_gap: f64,
    /// How long the long prompt took with all this, and alone.
    long_beside: f64,
    long_alone: f64,
}

/// The next turn of a long conversation after a restart. Times in seconds.
#[derive(Serialize)]
struct Restart {
    /// Tokens of the turn's prompt, of which the last are new.
    prompt: usize,
    new: usize,
    warm: Turn,
    cold: Turn,
    /// Bytes in the page store, and how long stopping took.
    stored: u64,
    stopping: f64,
}

/// Tokens that had to be read, and the time to the first token, that of starting the engine included.
#[derive(Serialize)]
struct Turn {
    computed: usize,
    first: f64,
}

/// How many tokens of a trace's prompts were known.
#[derive(Serialize)]
struct Hits {
    trace: &'static str,
    requests: usize,
    prompt_tokens: usize,
    /// By the engine, by one slot that can be cut back anywhere, and by a memory that forgets nothing.
    engine: usize,
    one_slot: usize,
    ideal: usize,
    seconds: f64,
}

/// A model to serve.
struct Simulation<B: Ops> {
    loaded: Arc<LoadedModel<B>>,
    kv: KvFormat,
    drafts: Drafts,
    /// Tokens to make text of, and what no reply may contain: it would end it.
    words: Vec<u32>,
    ends: Vec<(u32, f32)>,
    user: u32,
}

/// Simulates, and tells.
pub fn run<B: Ops + 'static>(
    loaded: LoadedModel<B>,
    kv: KvFormat,
    args: &ServeSimArgs,
    (prompt, reply): (usize, usize),
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let tokenizer = &loaded.tokenizer;
    let id = |marker| tokenizer.marker_id(marker);
    let is_word = |id: &u32| tokenizer.kind(*id) == Some(text::TokenKind::Normal);
    let simulation = Simulation {
        kv,
        drafts: args.drafts.of(&loaded)?,
        words: (0..tokenizer.len() as u32).filter(is_word).collect(),
        ends: Marker::ALL.into_iter().filter_map(id).map(|id| (id, -100.0)).collect(),
        user: id(Marker::User).unwrap_or(tokenizer.eos()),
        loaded: Arc::new(loaded),
    };
    let context = simulation.loaded.model.config.context;
    let longest = (prompt + reply).max(if args.long > 0 { args.long + 64 } else { 0 });
    anyhow::ensure!(longest <= context, "{longest} positions needed, and this model knows {context}");
    simulation.warm_up(args.sessions.iter().copied().max().unwrap_or(1), prompt)?;
    let mut sessions = Vec::new();
    for &count in &args.sessions {
        eprintln!("{count} sessions");
        let together = simulation.serve(count, count, prompt, reply)?;
        let in_turn = simulation.serve(count, 1, prompt, reply)?;
        sessions.push(Sessions { sessions: count, together, in_turn });
    }
    let newcomer = (args.long > 0).then(|| {
        eprintln!("a newcomer beside a prompt of {} tokens", args.long);
        simulation.newcomer(args.long)
    });
    let restart = (args.long > 0).then(|| {
        eprintln!("a restart in a conversation of {} tokens", args.long);
        simulation.restart(args.long)
    });
    let mut traces = Vec::new();
    if !args.no_traces {
        for trace in traces::all() {
            eprintln!("trace: {}", trace.name);
            traces.push(simulation.play(&trace)?);
        }
    }
    let model = simulation.loaded.name.clone();
    let newcomer = newcomer.transpose()?;
    let restart = restart.transpose()?;
    let report = Report { model, kv: kv.name(), prompt, reply, sessions, newcomer, restart, traces };
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        report.print(out)?;
    }
    Ok(())
}

impl<B: Ops + 'static> Simulation<B> {
    fn engine(&self, sessions: usize) -> anyhow::Result<Engine> {
        self.engine_over(None, sessions)
    }

    fn engine_over(&self, store: Option<PageStore>, sessions: usize) -> anyhow::Result<Engine> {
        let kv = Some(self.kv);
        let drafts = self.drafts;
        let options = EngineOptions { kv, sessions, queue: 1024, drafts, store, ..EngineOptions::default() };
        Ok(Engine::start(self.loaded.clone(), options)?)
    }

    /// Text of `len` tokens, another one for each seed.
    fn text(&self, seed: u64, len: usize) -> Vec<u32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let next = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            self.words[(state >> 33) as usize % self.words.len()]
        };
        (0..len).map(next).collect()
    }

    fn submit(&self, engine: &Engine, prompt: Vec<u32>, reply: usize, watch: bool) -> anyhow::Result<Ticket> {
        let sampling = Sampling { bias: self.ends.clone(), ..Sampling::greedy() };
        let request = Request {
            sampling,
            seed: 0,
            max_tokens: Some(reply),
            logprobs: watch.then_some(0),
            form: Form::Plain { stop: Vec::new() },
            strict_markup: true,
            constraint: None,
            think_budget: None,
            min_tokens: 0,
            forced: Vec::new(),
        };
        let prompt = JobPrompt::Tokens(prompt);
        Ok(engine.submit(Job {
            prompt,
            request,
            priority: Priority::Normal,
            deadline: None,
            affinity: None,
        })?)
    }

    /// Has kernels compiled and touches all weights, so that the first sessions do not pay for that.
    ///
    /// - `sessions`: the most at once
    fn warm_up(&self, sessions: usize, prompt: usize) -> anyhow::Result<()> {
        self.loaded.rehearse(self.kv, sessions, &|_| {});
        self.submit(&self.engine(1)?, self.text(0, prompt.min(256)), 4, false)?.wait()?;
        Ok(())
    }

    /// `count` sessions, `at_once` of them at once.
    fn serve(&self, count: usize, at_once: usize, prompt: usize, reply: usize) -> anyhow::Result<Served> {
        let engine = self.engine(at_once)?;
        let start = Instant::now();
        let submit = |nth| self.submit(&engine, self.text(nth as u64 + 1, prompt), reply, false);
        let tickets = (0..count).map(submit).collect::<Result<Vec<_>, _>>()?;
        let replies = tickets.into_iter().map(Ticket::wait).collect::<Result<Vec<_>, _>>()?;
        let wall = start.elapsed().as_secs_f64();
        let tokens: usize = replies.iter().map(|reply| reply.tokens.len()).sum();
        let rates = replies.iter().filter_map(|reply| reply.stats.decode_rate());
        let firsts = replies.iter().map(|reply| reply.stats.first_token.as_secs_f64());
        Ok(Served {
            aggregate: tokens as f64 / wall,
            each: rates.sum::<f64>() / count as f64,
            first_mean: firsts.clone().sum::<f64>() / count as f64,
            first_most: firsts.fold(0.0, f64::max),
            wall,
        })
    }

    fn newcomer(&self, long: usize) -> anyhow::Result<Newcomer> {
        const SHORT: usize = 64;
        let first = |reply: Reply| reply.stats.first_token.as_secs_f64();
        let alone = first(self.submit(&self.engine(1)?, self.text(2, SHORT), 1, false)?.wait()?);

        // Behind the long prompt: it comes when an eighth is read.
        let engine = self.engine(1)?;
        let mut reading = self.submit(&engine, self.text(1, long), 1, false)?;
        let until = |ticket: &mut Ticket| {
            let far =
                |event| matches!(event, JobEvent::Event(Event::Prefill { done, .. }) if done >= long / 8);
            while !far(ticket.blocking_next()?) {}
            Some(())
        };
        until(&mut reading);
        let newcomer = self.submit(&engine, self.text(2, SHORT), 1, false)?;
        let long_alone = first(reading.wait()?);
        let after = first(newcomer.wait()?);

        // Beside it, while somebody else writes.
        let engine = self.engine(16)?;
        let most = self.loaded.model.config.context - SHORT;
        let mut writing = self.submit(&engine, self.text(3, SHORT), most, true)?;
        while !matches!(writing.blocking_next(), Some(JobEvent::Event(Event::Token(_))) | None) {}
        std::thread::scope(|scope| {
            let mut reading = self.submit(&engine, self.text(1, long), 1, false)?;
            let (done, over) = std::sync::mpsc::channel::<()>();
            let gaps = scope.spawn(move || {
                let (mut gaps, mut last) = (Vec::new(), Instant::now());
                while let Some(event) = writing.blocking_next() {
                    if matches!(event, JobEvent::Event(Event::Token(_))) {
                        gaps.push(last.elapsed());
                        last = Instant::now();
                    }
                    if over.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty) {
                        break;
                    }
                }
                gaps
            });
            until(&mut reading);
            let newcomer = self.submit(&engine, self.text(2, SHORT), 1, false)?;
            let beside = first(newcomer.wait()?);
            let long_beside = first(reading.wait()?);
            drop(done);
            let mut gaps = gaps.join().expect("the listener does not panic");
            gaps.sort();
            let longest_gap = gaps.last().map_or(0.0, Duration::as_secs_f64);
            let median_gap = gaps.get(gaps.len() / 2).map_or(0.0, Duration::as_secs_f64);
            let short = SHORT;
            let times = Newcomer {
                long,
                short,
                beside,
                after,
                alone,
                longest_gap,
                median_gap,
                long_beside,
                long_alone,
            };
            Ok(times)
        })
    }

    fn restart(&self, long: usize) -> anyhow::Result<Restart> {
        const NEW: usize = 32;
        let folder = tempfile::tempdir()?;
        let open = || -> anyhow::Result<PageStore> {
            let model = &self.loaded.model;
            let codec = Codec::new(&model.config, self.kv, model.fingerprint);
            Ok(PageStore::open(&Place::Folder(folder.path().into()), codec, StoreOptions::default())?)
        };
        let mut prompt = self.text(1, long);
        let engine = self.engine_over(Some(open()?), 1)?;
        prompt.extend(self.submit(&engine, prompt.clone(), 16, false)?.wait()?.tokens);
        let start = Instant::now();
        engine.shutdown(Duration::ZERO);
        drop(engine);
        let stopping = start.elapsed().as_secs_f64();
        let stored = open()?.stats().bytes;
        prompt.push(self.user);
        prompt.extend(self.text(2, NEW - 1));
        let turn = |store: &dyn Fn() -> anyhow::Result<Option<PageStore>>| -> anyhow::Result<Turn> {
            let start = Instant::now();
            let engine = self.engine_over(store()?, 1)?;
            let reply = self.submit(&engine, prompt.clone(), 1, false)?.wait()?;
            Ok(Turn { computed: reply.stats.prompt.computed, first: start.elapsed().as_secs_f64() })
        };
        let warm = turn(&|| open().map(Some))?;
        let cold = turn(&|| Ok(None))?;
        Ok(Restart { prompt: prompt.len(), new: NEW, warm, cold, stored, stopping })
    }

    /// Sends a trace's requests, and counts what was known.
    fn play(&self, trace: &Trace) -> anyhow::Result<Hits> {
        let engine = self.engine(16)?;
        let start = Instant::now();
        let mut replies: Vec<Vec<u32>> = Vec::new();
        let mut seen: Vec<Vec<u32>> = Vec::new();
        let mut hits = Hits {
            trace: trace.name,
            requests: trace.requests.len(),
            prompt_tokens: 0,
            engine: 0,
            one_slot: 0,
            ideal: 0,
            seconds: 0.0,
        };
        for group in trace.requests.chunk_by(|a, b| a.moment == b.moment) {
            let prompt = |request: &traces::Request| -> Vec<u32> {
                let piece = |piece: &traces::Piece| match *piece {
                    traces::Piece::Text { seed, len } => self.text(seed, len),
                    traces::Piece::User => vec![self.user],
                    traces::Piece::Reply(nth) => replies[nth].clone(),
                };
                request.prompt.iter().flat_map(piece).collect()
            };
            let prompts: Vec<_> = group.iter().map(prompt).collect();
            let submit = |(prompt, request): (&Vec<u32>, &traces::Request)| {
                self.submit(&engine, prompt.clone(), request.reply, false)
            };
            let tickets = prompts.iter().zip(group).map(submit).collect::<Result<Vec<_>, _>>()?;
            for (ticket, prompt) in tickets.into_iter().zip(prompts) {
                let reply = ticket.wait()?;
                hits.prompt_tokens += prompt.len();
                hits.engine += reply.stats.prompt.cached;
                let common = |other: &Vec<u32>| {
                    let same = other.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
                    same.min(prompt.len() - 1)
                };
                hits.one_slot += seen.last().map_or(0, common);
                hits.ideal += seen.iter().map(common).max().unwrap_or(0);
                let read = [&prompt[..], &reply.tokens[..reply.tokens.len().saturating_sub(1)]].concat();
                seen.push(read);
                replies.push(reply.tokens);
            }
        }
        hits.seconds = start.elapsed().as_secs_f64();
        Ok(hits)
    }
}

impl Report {
    fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        writeln!(out, "{}, KV cache in {}", self.model, self.kv)?;
        if !self.sessions.is_empty() {
            writeln!(out, "\nprompts of {} tokens, replies of {}", self.prompt, self.reply)?;
            writeln!(
                out,
                "| sessions |             | t/s all | t/s each | first token, mean | at most |  wall s |"
            )?;
            writeln!(
                out,
                "|---------:|-------------|--------:|---------:|------------------:|--------:|--------:|"
            )?;
        }
        for sessions in &self.sessions {
            for (how, served) in [("at once", &sessions.together), ("in turn", &sessions.in_turn)] {
                let Served { aggregate, each, first_mean, first_most, wall } = served;
                let count = sessions.sessions;
                writeln!(
                    out,
                    "| {count:>8} | {how:<11} | {aggregate:>7.1} | {each:>8.1} | {first_mean:>17.2} | {first_most:>7.2} | {wall:>7.1} |"
                )?;
            }
        }
        if let Some(times) = &self.newcomer {
            let Newcomer {
                long,
                short,
                beside,
                after,
                alone,
                longest_gap,
                median_gap,
                long_beside,
                long_alone,
            } = times;
            writeln!(
                out,
                "\na newcomer with {short} tokens, after an eighth of a prompt of {long} was read"
            )?;
            writeln!(
                out,
                "  its first token: {beside:.2} s beside it, {after:.2} s after it, {alone:.2} s alone"
            )?;
            writeln!(
                out,
                "  who writes meanwhile waits {median_gap:.2} s for a token (median), {longest_gap:.2} s at most"
            )?;
            writeln!(out, "  the long prompt: {long_beside:.2} s with all this, {long_alone:.2} s alone")?;
        }
        if let Some(Restart { prompt, new, warm, cold, stored, stopping }) = &self.restart {
            let megabytes = *stored as f64 / 1e6;
            writeln!(
                out,
                "\nafter a restart, the next turn of a conversation: {prompt} tokens, {new} of them new"
            )?;
            writeln!(
                out,
                "  with its page store: {} tokens to read, {:.3} s to the first token",
                warm.computed, warm.first
            )?;
            writeln!(
                out,
                "  without: {} tokens to read, {:.3} s to the first token",
                cold.computed, cold.first
            )?;
            writeln!(out, "  the store has {megabytes:.1} MB; stopping took {stopping:.2} s")?;
        }
        if !self.traces.is_empty() {
            writeln!(out, "\nprompt tokens that were known")?;
            writeln!(
                out,
                "| trace               | requests | tokens | engine | one slot | ideal | seconds |"
            )?;
            writeln!(
                out,
                "|---------------------|---------:|-------:|-------:|---------:|------:|--------:|"
            )?;
        }
        for hits in &self.traces {
            let share = |known: usize| format!("{:.1}%", 100.0 * known as f64 / hits.prompt_tokens as f64);
            writeln!(
                out,
                "| {:<19} | {:>8} | {:>6} | {:>6} | {:>8} | {:>5} | {:>7.1} |",
                hits.trace,
                hits.requests,
                hits.prompt_tokens,
                share(hits.engine),
                share(hits.one_slot),
                share(hits.ideal),
                hits.seconds
            )?;
        }
        Ok(())
    }
}
