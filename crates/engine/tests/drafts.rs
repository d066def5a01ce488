//! Replies with and without guesses of the MTP block are the same. The pocket model guesses well, the random golden one
//! hardly ever.

mod common;

use common::{golden, greedy, load};
use cpu::{Cpu, Reference};
use engine::constraint::{Rules, Shape};
use engine::{
    Cancel, Drafts, Engine, EngineOptions, Event, Finish, Job, JobEvent, JobPrompt, LoadedModel, PAGE,
    Priority, Reply, Request, Sampling, Session,
};
use gguf::Gguf;
use gpu::{Choice, Gpu, Options};
use model::{KvFormat, Ops};
use std::path::PathBuf;
use std::sync::Arc;
use text::Marker;

const DRAFTS: [Drafts; 4] = [Drafts::Fixed(1), Drafts::Fixed(2), Drafts::Fixed(3), Drafts::Auto];

fn pocket() -> Arc<LoadedModel<Cpu>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket.gguf");
    Arc::new(LoadedModel::load(Cpu::new(Some(1)), &Gguf::open(&path).unwrap(), None).unwrap())
}

/// The pocket model's prompt for a question.
fn asked<B: Ops>(loaded: &LoadedModel<B>, question: &str) -> Vec<u32> {
    let parts = [Marker::Bos.text(), Marker::User.text(), question, Marker::Assistant.text(), "</think>"];
    loaded.tokenizer.encode_trusted(&parts.concat())
}

fn session<B: Ops>(loaded: &Arc<LoadedModel<B>>, drafts: Drafts) -> Session<B> {
    Session::new(loaded.clone(), KvFormat::F32, None).with_drafts(drafts)
}

fn reply<B: Ops>(session: &mut Session<B>, prompt: &[u32], request: Request) -> Reply {
    session.reply(prompt, request, &Cancel::new(), &mut |_| {}).unwrap()
}

fn engine<B: Ops + 'static>(loaded: &Arc<LoadedModel<B>>, drafts: Drafts) -> Engine {
    let options = EngineOptions { kv: Some(KvFormat::F32), drafts, ..EngineOptions::default() };
    Engine::start(loaded.clone(), options).unwrap()
}

fn job(prompt: &[u32], request: Request) -> Job {
    let prompt = JobPrompt::Tokens(prompt.to_vec());
    Job { prompt, request, priority: Priority::Normal, deadline: None, affinity: None }
}

fn sampled(seed: u64, max_tokens: usize) -> Request {
    Request { sampling: Sampling::default(), seed, ..greedy(max_tokens) }
}

/// Requests that choose in every way there is.
fn requests<B: Ops>(loaded: &LoadedModel<B>) -> Vec<Request> {
    let rules = Rules { content: Some(Shape::Regex("[a-z ]{3,40}[.]".into())), ..Rules::default() };
    let constraint = loaded.constraints.build(&rules).unwrap();
    vec![
        greedy(40),
        sampled(7, 40),
        Request {
            sampling: Sampling { temperature: 2.0, min_p: 0.0, ..Sampling::default() },
            ..sampled(3, 40)
        },
        Request { sampling: Sampling { repetition_penalty: 1.3, ..Sampling::default() }, ..sampled(4, 40) },
        Request { logprobs: Some(3), ..greedy(20) },
        Request { min_tokens: 30, ..sampled(5, 33) },
        Request { forced: loaded.tokenizer.encode("The answer"), ..greedy(30) },
        Request { constraint, ..sampled(6, 60) },
        greedy(1),
        greedy(2),
    ]
}

fn heard(events: &mut Vec<Event>) -> impl FnMut(Event) + '_ {
    |event| {
        if !matches!(event, Event::Prefill { .. }) {
            events.push(event);
        }
    }
}

fn guesses_change_no_reply<B: Ops>(loaded: &Arc<LoadedModel<B>>, prompt: &[u32]) {
    for request in requests(loaded) {
        let mut said = Vec::new();
        let mut plain = session(loaded, Drafts::Fixed(0));
        let want = plain.reply(prompt, request.clone(), &Cancel::new(), &mut heard(&mut said)).unwrap();
        assert_eq!((want.stats.drafted, want.stats.accepted), (0, 0));
        let kept = plain.tokens().to_vec();
        let next = [&kept, &prompt[1..]].concat();
        let want_next = reply(&mut plain, &next, greedy(9)).tokens;
        for drafts in DRAFTS {
            let mut events = Vec::new();
            let mut session = session(loaded, drafts);
            let got =
                session.reply(prompt, request.clone(), &Cancel::new(), &mut heard(&mut events)).unwrap();
            assert_eq!((&got.tokens, &got.finish), (&want.tokens, &want.finish), "{drafts:?}");
            assert_eq!(events, said, "{drafts:?}");
            assert_eq!(session.tokens(), kept, "{drafts:?}");
            assert_eq!(got.stats.steps + got.stats.accepted, want.stats.steps, "{drafts:?}");
            // The session goes on as if nothing had been guessed.
            assert_eq!(reply(&mut session, &next, greedy(9)).tokens, want_next, "{drafts:?}");
        }
    }
}

#[test]
fn guesses_of_the_pocket_model_change_no_reply() {
    let loaded = pocket();
    guesses_change_no_reply(&loaded, &asked(&loaded, "What is 12 + 30?"));
}

#[test]
fn wrong_guesses_change_no_reply() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, want) = golden("mini-bf16.short");
    let reply = reply(&mut session(&loaded, Drafts::Fixed(3)), &prompt, greedy(want.len()));
    assert_eq!((reply.tokens, reply.finish), (want, Finish::MaxTokens));
    assert!(reply.stats.drafted > 2 * reply.stats.steps, "{:?}", reply.stats);
    guesses_change_no_reply::<Reference>(&loaded, &prompt);
}

#[test]
fn the_pocket_model_guesses_well() {
    let loaded = pocket();
    let mut session = session(&loaded, Drafts::Fixed(2));
    let reply = reply(&mut session, &asked(&loaded, "Count from 1 to 20."), greedy(200));
    let stats = reply.stats;
    assert!(stats.drafted > 10 && 10 * stats.accepted > 8 * stats.drafted, "{stats:?} {:?}", reply.message);
}

/// On a GPU, where a step without guesses is asked for ahead.
#[test]
fn guesses_on_a_gpu_change_no_golden_reply() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/mini-bf16.gguf");
    let options = Options { device: Choice::First, bytes: Some(false), ..Options::default() };
    let gpu = Gpu::open(options).unwrap();
    let loaded = Arc::new(LoadedModel::load(gpu, &Gguf::open(&path).unwrap(), None).unwrap());
    let (prompt, want) = golden("mini-bf16.short");
    for drafts in [Drafts::Fixed(2), Drafts::Auto] {
        let mut session = session(&loaded, drafts);
        for _ in 0..3 {
            let got = reply(&mut session, &prompt, greedy(want.len()));
            assert_eq!((&got.tokens, &got.finish), (&want, &Finish::MaxTokens), "{drafts:?}");
        }
        let engine = engine(&loaded, drafts);
        let tickets: Vec<_> =
            (0..3).map(|nth| engine.submit(job(&prompt, greedy(want.len() - nth))).unwrap()).collect();
        for (nth, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(ticket.wait().unwrap().tokens, want[..want.len() - nth], "{drafts:?}");
        }
        assert!(engine.status().totals.drafted_tokens > 0);
    }
}

/// The end of a page is never guessed: it could not be taken back.
#[test]
fn a_reply_goes_over_the_end_of_a_page() {
    let loaded = load("mini-bf16.gguf");
    let (text, _) = golden("mini-bf16.mid");
    let prompt: Vec<u32> = text.iter().copied().cycle().take(PAGE - 9).collect();
    let mut plain = session(&loaded, Drafts::Fixed(0));
    let want = reply(&mut plain, &prompt, greedy(24)).tokens;
    assert!(plain.tokens().len() > PAGE, "{}", want.len());
    for drafts in DRAFTS {
        let mut session = session(&loaded, drafts);
        assert_eq!(reply(&mut session, &prompt, greedy(24)).tokens, want, "{drafts:?}");
        assert_eq!(session.tokens(), plain.tokens());
    }
}

/// Jobs that guess, side by side, with others that only score a text or are only begun.
#[test]
fn jobs_with_guesses_say_the_same() {
    let loaded = pocket();
    let questions = ["What is 12 + 30?", "Count from 1 to 20.", "Hello!", "What is the capital of France?"];
    let prompts = questions.map(|question| asked(&loaded, question));
    let all = || prompts.iter().flat_map(|prompt| requests(&loaded).into_iter().map(move |r| (prompt, r)));
    let run = |drafts| {
        let engine = engine(&loaded, drafts);
        let tickets: Vec<_> =
            all().map(|(prompt, request)| engine.submit(job(prompt, request)).unwrap()).collect();
        let replies: Vec<Reply> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
        (replies, engine.status().totals)
    };
    let (want, totals) = run(Drafts::Fixed(0));
    assert_eq!((totals.drafted_tokens, totals.accepted_tokens), (0, 0));
    for drafts in DRAFTS {
        let (got, totals) = run(drafts);
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(
                (&got.tokens, &got.message, &got.finish),
                (&want.tokens, &want.message, &want.finish),
                "{drafts:?}"
            );
            assert!(got.stats.accepted <= got.stats.drafted);
        }
        assert_eq!(totals.drafted_tokens, got.iter().map(|reply| reply.stats.drafted as u64).sum::<u64>());
        assert_eq!(totals.accepted_tokens, got.iter().map(|reply| reply.stats.accepted as u64).sum::<u64>());
        assert_eq!((totals.failed, totals.failed_steps), (0, 0));
    }
}

/// A conversation goes on from what the engine keeps of it, which has no guesses in it.
#[test]
fn what_was_guessed_is_not_kept() {
    let loaded = pocket();
    let prompt = asked(&loaded, "Count from 1 to 20.");
    let (with, without) = (engine(&loaded, Drafts::Fixed(3)), engine(&loaded, Drafts::Fixed(0)));
    let turn =
        |engine: &Engine, prompt: &[u32]| engine.submit(job(prompt, sampled(1, 60))).unwrap().wait().unwrap();
    let mut prompt = prompt;
    for _ in 0..4 {
        let [got, want] = [&with, &without].map(|engine| turn(engine, &prompt));
        assert_eq!((&got.tokens, got.stats.prompt.cached), (&want.tokens, want.stats.prompt.cached));
        prompt.extend(&got.tokens);
        prompt.extend(asked(&loaded, "And again?"));
    }
}

/// Somebody who stops a reply, or panics when hearing of it, leaves a session that goes on.
#[test]
fn a_reply_that_is_broken_off_leaves_no_guesses() {
    let loaded = pocket();
    let prompt = asked(&loaded, "Count from 1 to 20.");
    let want = reply(&mut session(&loaded, Drafts::Fixed(0)), &prompt, greedy(40)).tokens;
    let request = Request { logprobs: Some(0), ..greedy(40) };
    for heard in 1..8 {
        let mut session = session(&loaded, Drafts::Fixed(3));
        let (cancel, mut told) = (Cancel::new(), 0);
        let stopped = session.reply(&prompt, request.clone(), &cancel, &mut |event| {
            told += usize::from(matches!(event, Event::Token(_)));
            if told == heard {
                cancel.stop();
            }
        });
        let stopped = stopped.unwrap();
        assert_eq!(stopped.tokens, want[..stopped.tokens.len()]);
        assert_eq!(session.tokens(), [&prompt, &want[..stopped.tokens.len() - 1]].concat());
        let mut told = 0;
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            reply_to(&mut session, &prompt, request.clone(), &mut |event| {
                told += usize::from(matches!(event, Event::Token(_)));
                assert!(told < heard, "one too many");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(session.tokens(), [&prompt, &want[..heard - 1]].concat());
        assert_eq!(reply(&mut session, &prompt, greedy(40)).tokens, want);
    }
}

fn reply_to<B: Ops>(
    session: &mut Session<B>,
    prompt: &[u32],
    request: Request,
    on_event: &mut dyn FnMut(Event),
) {
    session.reply(prompt, request, &Cancel::new(), on_event).unwrap();
}

/// Cancelled in the middle of guesses: what was said until then is what would have been said.
#[test]
fn a_job_that_is_cancelled_says_nothing_wrong() {
    let loaded = pocket();
    let engine = engine(&loaded, Drafts::Fixed(3));
    let prompt = asked(&loaded, "Count from 1 to 20.");
    let want = engine.submit(job(&prompt, greedy(60))).unwrap().wait().unwrap().tokens;
    for heard in 1..5 {
        let request = Request { logprobs: Some(0), ..greedy(60) };
        let mut ticket = engine.submit(job(&prompt, request)).unwrap();
        let mut told = 0;
        while told < heard {
            let event = ticket.blocking_next().expect("it goes on");
            told += usize::from(matches!(event, JobEvent::Event(Event::Token(_))));
        }
        ticket.cancel();
        let got = ticket.wait().unwrap().tokens;
        assert_eq!(got, want[..got.len()]);
    }
    assert_eq!(engine.submit(job(&prompt, greedy(60))).unwrap().wait().unwrap().tokens, want);
}
