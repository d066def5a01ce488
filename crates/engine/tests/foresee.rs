//! Replies of a device that is asked for the next step before its token is chosen: a GPU, or what stands in for one.

mod common;

use common::{golden, greedy};
use engine::{
    Cancel, Drafts, Engine, EngineOptions, Event, Finish, Job, JobEvent, JobPrompt, LoadedModel, Priority,
    Request, Sampling, Session,
};
use gguf::Gguf;
use gpu::{Choice, Gpu, Options};
use model::KvFormat;
use std::path::PathBuf;
use std::sync::Arc;

/// The model on a device; one that takes the time of kernels is never asked ahead.
fn load(profile: bool) -> Arc<LoadedModel<Gpu>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/mini-bf16.gguf");
    let options = Options { device: Choice::First, profile, bytes: Some(false), ..Options::default() };
    let gpu = Gpu::open(options).unwrap();
    Arc::new(LoadedModel::load(gpu, &Gguf::open(&path).unwrap(), None).unwrap())
}

fn session(loaded: &Arc<LoadedModel<Gpu>>) -> Session<Gpu> {
    Session::new(loaded.clone(), KvFormat::F32, None).with_drafts(Drafts::Fixed(0))
}

fn engine(loaded: &Arc<LoadedModel<Gpu>>) -> Engine {
    let options =
        EngineOptions { kv: Some(KvFormat::F32), drafts: Drafts::Fixed(0), ..EngineOptions::default() };
    Engine::start(loaded.clone(), options).unwrap()
}

fn job(prompt: &[u32], request: Request) -> Job {
    let prompt = JobPrompt::Tokens(prompt.to_vec());
    Job { prompt, request, priority: Priority::Normal, deadline: None, affinity: None }
}

/// A request whose reply depends on its seed.
fn sampled(seed: u64, max_tokens: usize) -> Request {
    Request { sampling: Sampling { min_p: 0.05, ..Sampling::default() }, seed, ..greedy(max_tokens) }
}

#[test]
fn a_session_is_asked_ahead_and_says_the_same() {
    let (ahead, plain) = (load(false), load(true));
    let (prompt, want) = golden("mini-bf16.short");
    let reply = |session: &mut Session<Gpu>, prompt: &[u32], request: Request| {
        session.reply(prompt, request, &Cancel::new(), &mut |_: Event| {}).unwrap()
    };
    let mut one = session(&ahead);
    let got = reply(&mut one, &prompt, greedy(want.len()));
    assert_eq!((got.tokens, got.finish), (want.clone(), Finish::MaxTokens));
    // The last token is not read.
    assert_eq!((got.stats.steps, ahead.ops.foresights()), (want.len() - 1, want.len() as u64 - 1));
    let mut other = session(&plain);
    for seed in 0..3 {
        let request = sampled(seed, 9);
        let [got, want] = [&mut one, &mut other].map(|session| reply(session, &prompt, request.clone()));
        assert_eq!((got.tokens, got.message), (want.tokens, want.message));
    }
    assert_eq!(plain.ops.foresights(), 0);

    // Somebody stops it while it writes: nothing stays of the token that stood for another.
    let (cancel, mut told) = (Cancel::new(), 0);
    let request = Request { logprobs: Some(0), ..greedy(100) };
    let stopped = one.reply(&prompt, request, &cancel, &mut |event| {
        told += usize::from(matches!(event, Event::Token(_)));
        if told == 5 {
            cancel.stop();
        }
    });
    assert_eq!(stopped.unwrap().finish, Finish::Cancelled);
    let told = [&prompt[..], &want[..4]].concat();
    assert_eq!(one.tokens(), told);
    assert_eq!(reply(&mut one, &told, greedy(want.len() - 4)).tokens, want[4..]);
}

/// Who hears of a reply may panic while the next step waits for its token. Neither others nor the session itself suffer.
#[test]
fn a_panic_while_a_step_is_foreseen_leaves_the_session_and_the_device() {
    let loaded = load(false);
    let (prompt, want) = golden("mini-bf16.short");
    let mut one = session(&loaded);
    let mut told = 0;
    let mut panics = |event: Event| {
        told += usize::from(matches!(event, Event::Token(_)));
        assert!(told < 3, "the third token is one too many");
    };
    let reply = |session: &mut Session<Gpu>, on_event: &mut dyn FnMut(Event)| {
        let request = Request { logprobs: Some(0), ..greedy(want.len()) };
        session.reply(&prompt, request, &Cancel::new(), on_event).unwrap().tokens
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reply(&mut one, &mut panics)));
    assert!(panicked.is_err());
    assert_eq!(one.tokens(), [&prompt[..], &want[..2]].concat());
    let other =
        std::thread::scope(|scope| scope.spawn(|| reply(&mut session(&loaded), &mut |_| {})).join().unwrap());
    assert_eq!(other, want);
    assert_eq!(reply(&mut one, &mut |_| {}), want);
}

#[test]
fn jobs_are_asked_ahead_and_say_the_same() {
    let (ahead, plain) = (load(false), load(true));
    let (text, _) = golden("mini-bf16.mid");
    let (together, alone) = (engine(&ahead), engine(&plain));
    let request = |nth: usize| sampled(nth as u64, 6 + 5 * nth);
    let prompt = |nth: usize| text[..20 + 23 * nth].to_vec();
    let want: Vec<_> =
        (0..4).map(|nth| alone.submit(job(&prompt(nth), request(nth))).unwrap().wait().unwrap()).collect();
    let tickets: Vec<_> =
        (0..4).map(|nth| together.submit(job(&prompt(nth), request(nth))).unwrap()).collect();
    for (ticket, want) in tickets.into_iter().zip(&want) {
        let got = ticket.wait().unwrap();
        assert_eq!((&got.tokens, &got.message, &got.finish), (&want.tokens, &want.message, &want.finish));
        assert_eq!(got.stats.steps, want.stats.steps);
    }
    assert_eq!(plain.ops.foresights(), 0);
    let (foresights, steps) = (ahead.ops.foresights(), together.status().totals.steps);
    assert!(2 * foresights > steps, "{foresights} of {steps} steps were foreseen");
}

/// A job that ends in between leaves the others' rows of the step where they are, and its own conversation whole.
#[test]
fn a_job_may_end_while_a_step_is_foreseen() {
    let loaded = load(false);
    let engine = engine(&loaded);
    let (text, _) = golden("mini-bf16.mid");
    let (first, second) = (&text[..40], &text[..63]);
    let want = engine.submit(job(second, greedy(40))).unwrap().wait().unwrap();
    for round in 0..4 {
        let mut endless = engine.submit(job(first, Request { logprobs: Some(0), ..greedy(400) })).unwrap();
        let other = engine.submit(job(second, greedy(40))).unwrap();
        let mut told = 0;
        while told < 5 + round {
            let event = endless.blocking_next().expect("the job goes on");
            told += usize::from(matches!(event, JobEvent::Event(Event::Token(_))));
        }
        endless.cancel();
        let cut = endless.wait().unwrap();
        assert_eq!(other.wait().unwrap().tokens, want.tokens);
        // What was cut off is known, and goes on as if it had not been.
        let known = [first, &cut.tokens].concat();
        let more = engine.submit(job(&known, greedy(5))).unwrap().wait().unwrap();
        let whole = engine.submit(job(first, greedy(cut.tokens.len() + 5))).unwrap().wait().unwrap();
        assert_eq!([cut.tokens, more.tokens].concat(), whole.tokens);
    }
}
